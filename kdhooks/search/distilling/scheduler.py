"""Several distillations of one student, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdhooks.errors import UsageError


class Scheduler:
    """Runs parts in their order, each on the student that the one before it has returned.

    A part is a `FlashDistillation`, a `RegularDistillation`, a `kdhooks.Distillation`, or anything else that is called
    without arguments and has a ``student_model``; what it returns is the student, and nothing returned means the same
    student.

    Example:
        >>> class Part:
        ...     def __init__(self, name):
        ...         self.name, self.student_model = name, None
        ...     def __call__(self):
        ...         return [*self.student_model, self.name]
        >>> scheduler = Scheduler()
        >>> scheduler.combine(Part("flash"), Part("regular"))
        >>> scheduler.student_model = []
        >>> scheduler()
        ['flash', 'regular']
    """

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self._student: Any = None

    @property
    def student_model(self) -> Any:
        """The model that learns: what was set, or what a part has."""
        if self._student is not None:
            return self._student
        return next((part.student_model for part in self.parts if part.student_model is not None), None)

    @student_model.setter
    def student_model(self, model: Any) -> None:
        self._student = model

    @property
    def model(self) -> Any:
        """Another name of `student_model`."""
        return self.student_model

    @model.setter
    def model(self, model: Any) -> None:
        self.student_model = model

    @property
    def history(self) -> list[Mapping[str, Any]]:
        """What each stage of the parts came to, in their order; see `StagedDistillation.history`."""
        return [record for part in self.parts for record in getattr(part, "history", ())]

    def combine(self, *parts: Any) -> None:
        """Add parts behind those that are there.

        Raises:
            UsageError: nothing was given, a part can't be called or has no ``student_model``, or two parts have
                different students.
        """
        if not parts:
            raise UsageError("combine() got nothing: give it the parts, as in scheduler.combine(flash, regular)")
        for place, part in enumerate(parts, 1):
            kind = type(part).__name__
            if isinstance(part, type) or not callable(part):
                raise UsageError(
                    f"part {place}, {_shown(part)}, can't be called: give an object such as a Distillation"
                )
            if not hasattr(part, "student_model"):
                raise UsageError(f"part {place}, {kind}, has no student_model, so it can't be given the student")
        students = {id(part.student_model) for part in (*self.parts, *parts) if part.student_model is not None}
        if len(students) > 1:
            raise UsageError("the parts have different students: set the student of one of them, or of the scheduler")
        self.parts += parts

    def __call__(self) -> Any:
        """Run all parts, and return the student.

        Raises:
            UsageError: there are no parts, or no student.
        """
        if not self.parts:
            raise UsageError("there is nothing to run: scheduler.combine(flash, regular) comes first")
        model = self.student_model
        if model is None:
            raise UsageError("no student is set: scheduler.student_model = ... comes before scheduler()")
        for part in self.parts:
            part.student_model = model
            returned = part()
            model = model if returned is None else returned
        self._student = model
        return model


def _shown(part: Any) -> str:
    return f"the class {part.__name__}" if isinstance(part, type) else repr(part)
