"""The components of the loss in the trainer's loggers.

Rules: nothing is read from the device between two of the trainer's own logging steps, and then by the trainer. The
means of an epoch are those of the distiller's history.
"""

from __future__ import annotations

from typing import Any

from kdhooks.distillation import Distillation


class Components:
    """Logs what a distiller's losses are made of.

    Args:
        distiller: whose losses.
        prefix: of the names.
        prog_bar: whether the progress bar shows them as well.
        sync_dist: whether they are means over the processes.
    """

    def __init__(self, distiller: Distillation, prefix: str, *, prog_bar: bool, sync_dist: bool) -> None:
        self._distiller, self._prefix = distiller, prefix
        self._prog_bar, self._sync_dist = prog_bar, sync_dist

    def log_step(self, trainer: Any, module: Any) -> None:
        """The components of a step, where the trainer logs this one."""
        if not trainer._logger_connector.should_update_logs:  # what the trainer itself asks, with no public name
            return
        run = self._distiller._run
        monitor: Any = None if run is None else run.monitor  # torch's
        for name, value in ({} if monitor is None else monitor.tensors()).items():
            self._log(module, f"{self._prefix}{name}", value, on_step=True)

    def log_epoch(self, module: Any) -> None:
        """The means of the epoch that has ended."""
        for name, value in self._distiller.history[-1]["losses"].items():
            self._log(module, f"{self._prefix}{name}_epoch", value, on_step=False)

    def _log(self, module: Any, name: str, value: Any, *, on_step: bool) -> None:
        options = {"prog_bar": self._prog_bar, "sync_dist": self._sync_dist, "batch_size": 1}
        module.log(name, value, on_step=on_step, on_epoch=not on_step, **options)
