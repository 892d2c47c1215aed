"""Weights & Biases, as a run of its own beside whatever the program has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdhooks.config.logger_settings import WandbSettings
from kdhooks.runs.loggers.base import LoggerError, RunFacts, RunLogger
from kdhooks.runs.loggers.packages import imported, quiet

_KEYLESS = ("offline", "disabled")
_ONLY_WHAT_IT_IS_TOLD = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_save_requirements": False,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
}


class WandbLogger(RunLogger):
    """Scalars, metrics, and the configuration's values.

    Args:
        settings: of ``tuning.loggers.wandb``.
    """

    name = "wandb"

    def __init__(self, settings: WandbSettings) -> None:
        self._settings = settings
        self._wandb: Any = None
        self._run: Any = None

    def check(self) -> None:
        """Import the package, and see whether there is a key where one is needed.

        Raises:
            MissingPackageError: it is not installed.
            LoggerError: it would ask a person for a key.
        """
        self._wandb = imported("wandb", "wandb", "tuning.loggers.wandb", WANDB_ERROR_REPORTING="false")
        if self._mode() not in _KEYLESS and not self._wandb.api.api_key:
            raise LoggerError(
                "Weights & Biases is asked for without a key",
                "Run `wandb login` or set WANDB_API_KEY, or write mode: offline. No key is read from a configuration.",
            )

    def begin(self, run: RunFacts) -> None:
        """Make a run, or go on with the former one.

        Raises:
            LoggerError: the service does not take it.
        """
        known = run.former.get("id")
        run.folder.mkdir(parents=True, exist_ok=True)  # wandb falls back to a folder of the system's otherwise
        try:
            with quiet():
                self._run = self._wandb.init(
                    project=self._settings.project,
                    entity=self._settings.entity,
                    mode=self._mode(),
                    dir=str(run.folder),
                    name=run.name,
                    id=known,
                    resume="allow" if known else None,
                    config=dict(run.parameters),
                    reinit="create_new",
                    settings=self._wandb.Settings(**_ONLY_WHAT_IT_IS_TOLD),
                )
                self._run.define_metric("step")
                self._run.define_metric("*", step_metric="step")
        except Exception as error:  # whatever it raises of its service
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise LoggerError(f"Weights & Biases can't begin a run: {first}") from None

    def identity(self) -> Mapping[str, str]:
        """The run's id."""
        return {"id": str(self._run.id)}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """A row of the run's history; its own counter may not go back, so the step is a column."""
        with quiet():
            self._run.log({**values, "step": step})

    def metrics(self, values: Mapping[str, float], *, epoch: int, step: int) -> None:
        """The same, with the epoch."""
        self.scalars({**values, "epoch": epoch}, step)

    def end(self, status: str) -> None:
        """Write what is left, and say whether the run ended well."""
        if self._run is not None:
            with quiet():
                self._run.finish(exit_code=0 if status == "finished" else 1)
            self._run = None

    def _mode(self) -> str | None:
        """What the configuration says, or else the environment; None leaves it to the package, which goes online."""
        import os

        return self._settings.mode or os.environ.get("WANDB_MODE") or None
