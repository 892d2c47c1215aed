"""Which module of a ``LightningModule`` is the student.

Rules: what the user names is taken, and an error says what there is. Otherwise it is the one child module that can be
trained; of several the one that is called ``model``; and with no such child the module itself, if it has a ``forward``.
Whether ``training_step`` really calls it, and no other trained child beside it, is seen at the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from kdhooks.errors import UsageError
from kdhooks.names import did_you_mean
from kdhooks.torch.wrappers import inside

Named = str | Callable[[Any], nn.Module] | None
"""How a user says which module is the student."""


def find_student(module: nn.Module, named: Named, preset: Any, teachers: Iterable[nn.Module] = ()) -> nn.Module:
    """The student inside of a ``LightningModule``.

    Args:
        module: the ``LightningModule``.
        named: the dotted name of a module inside of it, a function from it to a module, or None.
        preset: the distiller's ``student_model`` where its user has set one, else None.
        teachers: which are never taken for the student.

    Raises:
        UsageError: there is no such module, or none or several that it could be.
    """
    if named is not None:
        student = _named(module, named)
        if preset is not None and inside(preset) is not inside(student):
            raise UsageError(
                f"student={_shown(named)} is the {_kind(student)} of {_kind(module)}, and distiller.student_model is "
                f"another {_kind(preset)}: set one of the two"
            )
        return student
    if preset is not None:
        if not any(one is inside(preset) for one in module.modules()):
            raise UsageError(
                f"distiller.student_model is a {_kind(preset)} that is no module of {_kind(module)}, so the trainer "
                "would not train it: leave it unset, or set it to the very module that the LightningModule holds"
            )
        return next((one for one in module.modules() if one is preset), inside(preset))
    return _found(module, {id(part) for teacher in teachers for part in (teacher, inside(teacher))})


def name_of(student: nn.Module, module: nn.Module) -> str:
    """The dotted name of the student in its ``LightningModule``; empty for the module itself."""
    return next((name for name, one in module.named_modules() if one is student), "")


def trained_children(module: nn.Module, without: frozenset[int] | set[int] = frozenset()) -> dict[str, nn.Module]:
    """The children that have parameters to train, by name; metrics and most losses have none."""
    return {
        name: child
        for name, child in module.named_children()
        if id(child) not in without and any(parameter.requires_grad for parameter in child.parameters())
    }


def has_forward(module: nn.Module) -> bool:
    """Whether the author of a ``LightningModule`` has written a ``forward``."""
    written = getattr(type(module).forward, "__qualname__", "")
    return written not in ("LightningModule.forward", "_forward_unimplemented")


def _found(module: nn.Module, teachers: set[int]) -> nn.Module:
    children = trained_children(module, teachers)
    if len(children) == 1:
        return next(iter(children.values()))
    if "model" in children:
        return children["model"]
    if has_forward(module):
        return module
    if not children:
        raise UsageError(f"{_kind(module)} has no module with parameters to train, so there is no student in it")
    raise UsageError(
        f"the student could be any of {', '.join(map(repr, children))} in {_kind(module)}, which has no forward of its "
        f"own: say which, as in DistillationCallback(distiller, student={next(iter(children))!r})"
    )


def _named(module: nn.Module, named: Any) -> nn.Module:
    if isinstance(named, str):
        modules: dict[str, nn.Module] = dict(module.named_modules())
        if named not in modules:
            names = [name for name in modules if name]
            raise UsageError(
                f"{_kind(module)} has no module {named!r} that could be the student. "
                f"{did_you_mean(named, names, what='Its modules')}"
            )
        return modules[named]
    student: Any = named(module)
    if not isinstance(student, nn.Module) or not any(one is inside(student) for one in module.modules()):
        raise UsageError(
            f"student={_shown(named)} must return a module that stands in {_kind(module)}, and it returned "
            f"{'a ' + _kind(student) + ' from elsewhere' if isinstance(student, nn.Module) else repr(student)}"
        )
    found: nn.Module = student
    return found


def _shown(named: Any) -> str:
    return repr(named) if isinstance(named, str) else getattr(named, "__name__", type(named).__name__)


def _kind(module: Any) -> str:
    return type(inside(module)).__name__ if isinstance(module, nn.Module) else type(module).__name__
