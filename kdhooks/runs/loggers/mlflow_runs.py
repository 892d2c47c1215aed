"""MLflow, through its client: no active run is touched, so a program's own stays as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kdhooks.config.logger_settings import MlflowSettings
from kdhooks.runs.loggers.base import LoggerError, RunFacts, RunLogger
from kdhooks.runs.loggers.packages import imported, quiet

_ENDINGS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_REFUSED = re.compile(r"[^\w\-. /]")
_ADDRESS = "Write a database, as in sqlite:///mlflow.db, or the address of a server that runs."
_AT_ONCE = 100
_LONGEST = 6000


class MlflowLogger(RunLogger):
    """Scalars, metrics, parameters, and the configuration as an artifact where the store takes one.

    Args:
        settings: of ``tuning.loggers.mlflow``.
    """

    name = "mlflow"

    def __init__(self, settings: MlflowSettings) -> None:
        self._settings = settings
        self._mlflow: Any = None
        self._client: Any = None
        self._run = ""

    def check(self) -> None:
        """Import the package, and make the client of the address.

        Raises:
            MissingPackageError: it is not installed.
            LoggerError: the package does not take the address.
        """
        # what it would tell its makers is not configured by anybody
        self._mlflow = imported("mlflow", "mlflow-skinny", "tuning.loggers.mlflow", MLFLOW_DISABLE_TELEMETRY="true")
        try:
            with quiet():
                self._client = self._mlflow.MlflowClient(self._settings.tracking_uri)
        except Exception as error:  # whatever its stores raise
            raise LoggerError(
                f"MLflow does not take this address: {_first(error)}", _ADDRESS, key="tracking_uri"
            ) from None

    def begin(self, run: RunFacts) -> None:
        """Make a run, or go on with the former one.

        Raises:
            LoggerError: the store can't be reached or written.
        """
        try:
            with quiet():
                self._run = self._former(run) or self._new(run)
        except Exception as error:
            raise LoggerError(f"MLflow can't begin a run: {_first(error)}", _ADDRESS) from None

    def identity(self) -> Mapping[str, str]:
        """The run's id."""
        return {"run_id": self._run}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """The values as MLflow's metrics."""
        from time import time

        now = int(time() * 1000)
        metric = self._mlflow.entities.Metric
        with quiet():
            self._client.log_batch(
                self._run, metrics=[metric(_REFUSED.sub("_", key), value, now, step) for key, value in values.items()]
            )

    def metrics(self, values: Mapping[str, float], *, epoch: int, step: int) -> None:
        """The same, at the step."""
        self.scalars({**values, "epoch": float(epoch)}, step)

    def end(self, status: str) -> None:
        """Say how the run ended."""
        if self._run:
            with quiet():
                self._client.set_terminated(self._run, _ENDINGS.get(status, "FINISHED"))

    def _former(self, run: RunFacts) -> str:
        """The id of the run that goes on, where the store still has it."""
        known = run.former.get("run_id", "")
        if not known:
            return ""
        try:
            self._client.get_run(known)
        except Exception:  # deleted, or of another store
            return ""
        self._client.update_run(known, status="RUNNING")
        return known

    def _new(self, run: RunFacts) -> str:
        entities = self._mlflow.entities
        made: str = self._client.create_run(self._experiment(), run_name=run.name).info.run_id
        parameters = [
            entities.Param(_REFUSED.sub("_", key), str(value)[:_LONGEST]) for key, value in run.parameters.items()
        ]
        for first in range(0, len(parameters), _AT_ONCE):
            self._client.log_batch(made, params=parameters[first : first + _AT_ONCE])
        self._client.set_tag(made, "kdhooks.configuration", run.configuration[:5000])
        return made

    def _experiment(self) -> str:
        name = self._settings.experiment
        if name is None:
            return "0"
        found = self._client.get_experiment_by_name(name)
        identity: str = self._client.create_experiment(name) if found is None else found.experiment_id
        return identity


def _first(error: Exception) -> str:
    """The first sentence of what it says."""
    return (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0].rstrip(".")
