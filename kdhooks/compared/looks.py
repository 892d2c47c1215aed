"""What a backend does for a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from kdhooks.compared.rows import SeenRows


class NoLook(Exception):
    """Something can't be looked at; the message is the reason, in one sentence without a full stop."""


class Looks(Protocol):
    """A distiller's models and evaluation data; every method leaves them as they were.

    Attributes:
        student: the user's own model.
        teachers: the user's own models, by name.
    """

    student: Any
    teachers: Mapping[str, Any]

    def similarity(
        self, rows: int, layers: int, names: tuple[Sequence[str], Sequence[str]] | None, over: Callable[[], bool]
    ) -> tuple[list[str], list[str], list[list[float]]]:
        """The linear CKA of layers of the student and the only teacher.

        Args:
            rows: of the evaluation data, at most.
            layers: of a side, at most, evenly along the depth.
            names: the layers of both sides, where they are chosen already.
            over: whether to stop after this batch.

        Returns:
            The layers of the student, those of the teacher, and [student's, teacher's].
        """

    def rows(self, seen: SeenRows, teacher: str, over: Callable[[], bool]) -> dict[str, float]:
        """Show the outputs of a teacher and the student on the evaluation data to `seen`, until it has enough.

        Returns:
            The seconds that a row took: ``teacher`` and ``student``.
        """

    def class_names(self) -> Sequence[str] | None:
        """What the evaluation's dataset calls its classes, where it says so."""

    def one_row(self) -> Any:
        """The input of the first row of the evaluation data; None where there are none."""

    def count_rows(self) -> int | None:
        """Rows of the evaluation data that an evaluation looks at, where that is known."""

    def metrics(self, model: Any) -> dict[str, float]:
        """What the evaluation finds of a model."""

    def bytes_of(self, model: Any) -> int:
        """The bytes of its weights."""
