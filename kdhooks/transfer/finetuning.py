"""What the section ``finetune`` does in a run of either backend: transfer, and layers frozen epoch by epoch."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any

from kdhooks.config.finetune_settings import FinetuneSettings
from kdhooks.criterion import Criterion
from kdhooks.hooks import Hook
from kdhooks.messages import logger
from kdhooks.transfer.begin import Transferred, located, transfer_once
from kdhooks.transfer.matching import check_patterns


class FinetuningHook(Hook):
    """Weight transfer in one run; the transfer itself is done when it is made.

    Args:
        distiller: the `Distillation`.
        settings: of ``finetune``.
        earlier: the transfer that the distiller has done before, or None.
        resumes: whether a saved run goes on, whose student has its weights already.
        transfer: (student, source, settings) -> the report; of the backend.
        freezer: the backend's, of a model and ``freeze_batch_norm``.

    Attributes:
        done: the transfer, or None where there is none.
        criteria: the regularisers.

    Raises:
        ConfigError, TransferError: nothing fits, or a pattern, layer or rule is wrong.
    """

    def __init__(
        self,
        distiller: Any,
        settings: FinetuneSettings,
        earlier: Transferred | None,
        resumes: bool,
        *,
        transfer: Any,
        freezer: Any,
    ) -> None:
        self._distiller, self._settings = distiller, settings
        student = distiller.student_model
        self.done = transfer_once(distiller, settings, earlier, resumes, partial(transfer, student))
        self._fresh = self.done is not None and self.done is not earlier
        if self.done is not None and self._fresh:
            logger.info("%s", self.done.report)
        self._freezer = freezer(student, settings.freeze_batch_norm)
        self._names = self._freezer.names()
        with located(distiller.conf):
            self._check()
        self.criteria = self._regularisers()
        self._epoch = distiller.conf.settings.distillation.train.start_epoch

    def _kind(self) -> str:
        """The student's class, for messages."""
        return type(self._distiller.student_model).__name__

    def _check(self) -> None:
        """TransferError for a pattern that means nothing of the student's."""
        check_patterns(self._settings.freeze, self._names, "freeze", self._kind())
        for patterns in self._settings.unfreeze.values():
            check_patterns(patterns, self._names, "unfreeze", self._kind())

    @abstractmethod
    def _regularisers(self) -> tuple[Criterion, ...]:
        """L2-SP and the like, where they are asked for."""

    @abstractmethod
    def _apply(self, epoch: int) -> None:
        """Freeze what is frozen in an epoch."""

    def _taken(self) -> frozenset[str] | None:
        """The student's tensors that come from the source; None where nothing was transferred."""
        report = None if self.done is None else self.done.report
        return None if report is None else frozenset((*report.transferred, *report.resized))

    # ---- events ------------------------------------------------------------------------------------

    def on_train_begin(self) -> None:
        """Freeze what is frozen in the first epoch."""
        self._apply(self._epoch)

    def on_epoch_begin(self, epoch: int) -> None:
        """Freeze what is frozen in this epoch."""
        self._apply(epoch)

    def on_epoch_end(self) -> None:
        """The next epoch begins, in loops that don't say so."""
        self._apply(self._epoch + 1)

    def on_train_end(self) -> None:
        """Put every flag back, and take every hook off."""
        self._freezer.release()
