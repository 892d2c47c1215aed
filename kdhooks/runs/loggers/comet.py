"""Comet, online with the key of its own configuration, or into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdhooks.config.logger_settings import CometSettings
from kdhooks.runs.loggers.base import LoggerError, RunFacts, RunLogger
from kdhooks.runs.loggers.packages import imported, quiet

_ONLY_WHAT_IT_IS_TOLD: dict[str, Any] = {
    **dict.fromkeys(("log_code", "log_graph", "auto_param_logging", "auto_metric_logging", "parse_args"), False),
    **dict.fromkeys(("log_git_metadata", "log_git_patch", "log_env_details", "log_env_gpu", "log_env_host"), False),
    **dict.fromkeys(("log_env_cpu", "log_env_disk", "auto_output_logging"), False),
    "display_summary_level": 0,
}


class CometLogger(RunLogger):
    """Scalars, metrics, and the configuration's values.

    Args:
        settings: of ``tuning.loggers.comet``.
    """

    name = "comet"

    def __init__(self, settings: CometSettings) -> None:
        self._settings = settings
        self._comet: Any = None
        self._experiment: Any = None

    def check(self) -> None:
        """Import the package, and see whether there is a key where one is needed.

        Raises:
            MissingPackageError: it is not installed.
            LoggerError: there is no key.
        """
        self._comet = imported("comet_ml", "comet-ml", "tuning.loggers.comet", COMET_DISABLE_AUTO_LOGGING="1")
        if self._settings.offline is None and not self._comet.config.get_api_key(None, self._comet.get_config()):
            raise LoggerError(
                "Comet is asked for without a key",
                "Set COMET_API_KEY, or write api_key into ~/.comet.config, or name a folder with offline. "
                "No key is read from a configuration.",
            )

    def begin(self, run: RunFacts) -> None:
        """Make an experiment, or go on with the former one.

        Raises:
            LoggerError: the service does not take it.
        """
        known = run.former.get("experiment_key")
        try:
            with quiet():
                self._experiment = self._made(known)
                if known is None:
                    self._experiment.set_name(self._settings.experiment or run.name)
                    self._experiment.log_parameters(dict(run.parameters), nested_support=False)
                    self._experiment.log_other("configuration", run.configuration)
        except Exception as error:  # whatever it raises of its service
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise LoggerError(f"Comet can't begin an experiment: {first}") from None
        if not self._experiment.alive:
            raise LoggerError("Comet can't begin an experiment: its own message says why")

    def _made(self, known: str | None) -> Any:
        own, comet = self._settings, self._comet
        place = {"project_name": own.project, "workspace": own.workspace}
        if own.offline is not None:
            options = {**_ONLY_WHAT_IT_IS_TOLD, "offline_directory": own.offline}
            if known is None:
                return comet.OfflineExperiment(**place, **options)
            return comet.ExistingOfflineExperiment(**place, **options, previous_experiment=known)
        options = _ONLY_WHAT_IT_IS_TOLD
        if known is None:
            return comet.Experiment(**place, **options)
        return comet.ExistingExperiment(**options, previous_experiment=known)

    def identity(self) -> Mapping[str, str]:
        """The experiment's key."""
        return {"experiment_key": str(self._experiment.get_key())}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """The values as Comet's metrics."""
        with quiet():
            self._experiment.log_metrics(dict(values), step=step)

    def metrics(self, values: Mapping[str, float], *, epoch: int, step: int) -> None:
        """The same, with the epoch."""
        with quiet():
            self._experiment.log_metrics(dict(values), step=step, epoch=epoch)

    def end(self, status: str) -> None:
        """Write what is left."""
        if self._experiment is not None:
            with quiet():
                self._experiment.log_other("status", status)
                self._experiment.end()
            self._experiment = None
