"""What a run does about weight transfer when it begins: whose weights, whether at all, and where errors are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.config.finetune_settings import FinetuneSettings
from kdhooks.errors import DataError, TransferError
from kdhooks.transfer.report import TransferReport

Transfer = Callable[[Any, FinetuneSettings], TransferReport]
"""(source, settings) -> the report; writes the student's weights."""


@dataclass(frozen=True)
class Transferred:
    """A transfer that a `Distillation` has done: into whom, from what, and the report."""

    student: Any
    source: Any
    report: TransferReport


def settings_in(distiller: Any) -> FinetuneSettings | None:
    """The section ``finetune``, its defaults where only ``pretrained_model`` is set, or None."""
    settings: FinetuneSettings | None = distiller.conf.settings.finetune
    return FinetuneSettings() if settings is None and distiller.pretrained_model is not None else settings


def settings_of(**options: Any) -> FinetuneSettings:
    """Options as the section ``finetune`` has them, checked by its rules; ConfigError where they break one."""
    return DistillationConf({"finetune": options}).settings.finetune or FinetuneSettings()


def transfer_once(
    distiller: Any, settings: FinetuneSettings, earlier: Transferred | None, resumes: bool, transfer: Transfer
) -> Transferred | None:
    """Transfer weights into the student, where there is a source and it was not done before.

    A run that continues a saved one keeps the student's weights, which are that run's; so does a second
    `on_train_begin` for the same student and source, since the student has been trained in between.

    Args:
        distiller: the `Distillation`.
        settings: of ``finetune``.
        earlier: what the distiller did before.
        resumes: whether a state waits to be loaded.
        transfer: of the backend.

    Raises:
        ConfigError, TransferError: nothing fits, or a rule is wrong.
    """
    source = distiller.pretrained_model if distiller.pretrained_model is not None else settings.pretrained
    if source is None or resumes:
        return earlier
    student = distiller.student_model
    if earlier is not None and earlier.student is student and _same(earlier.source, source):
        return earlier
    with located(distiller.conf):
        return Transferred(student, source, transfer(source, settings))


def _same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, str) and isinstance(other, str) and one == other)


@contextmanager
def located(conf: Any) -> Iterator[None]:
    """Errors of a transfer at the user's line, where there is a section ``finetune``."""
    try:
        yield
    except TransferError as error:
        if conf.settings.finetune is None:
            raise
        path = f"finetune.{error.key}" if error.key else "finetune"
        raise conf.problem(path, error.message, error.advice, of_key=not error.key) from None
    except DataError as error:
        if conf.settings.finetune is None or conf.settings.finetune.pretrained is None:
            raise
        raise conf.problem("finetune.pretrained", str(error)) from None
