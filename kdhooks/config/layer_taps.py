"""Sides and pairs of layer mappings, and how one side is written: a layer, or ``[layer, selector]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kdhooks.config.expressions import Wrong
from kdhooks.errors import shown

_INPUT = ":input"

Selector = str | Callable[[Any], Any]


@dataclass(frozen=True)
class LayerTap:
    """One side of a pair.

    Attributes:
        layer: the name of the module, as `named_modules` has it; ``''`` is the root.
        selector: what to take of its value: ``''`` all of it, an index, a key, an attribute path, or a function.
        input: whether what goes in is meant, not what comes out.
        path: where it stands, from the criterion's own options on: ``layer_mappings[1][0]``.
    """

    layer: str
    selector: Selector = ""
    input: bool = False
    path: str = ""

    @property
    def key(self) -> tuple[str, bool]:
        """What is captured for it; pairs with the same key share one capture."""
        return self.layer, self.input

    def __str__(self) -> str:
        name = repr(self.layer) + (" (its input)" if self.input else "")
        if self.selector == "":
            return name
        return f"{name}[{self.selector!r}]" if isinstance(self.selector, str) else f"{name}[a function]"


@dataclass(frozen=True)
class LayerPair:
    """A layer of the student and the layer of the teacher that it follows.

    Attributes:
        student: the student's side.
        teacher: the teacher's side.
        calls: what counts where a layer is called several times in a forward.
        entry: the index of the mapping that it came from; a pattern stands for several pairs.
        path: of that mapping.
        more_students: further layers of the student, for losses that compare several.
        more_teachers: further layers of the teacher.
    """

    student: LayerTap
    teacher: LayerTap
    calls: str = "last"
    entry: int = 0
    path: str = ""
    more_students: tuple[LayerTap, ...] = ()
    more_teachers: tuple[LayerTap, ...] = ()

    @property
    def students(self) -> tuple[LayerTap, ...]:
        """All layers of the student, in the order in which they were written."""
        return self.student, *self.more_students

    @property
    def teachers(self) -> tuple[LayerTap, ...]:
        """All layers of the teacher."""
        return self.teacher, *self.more_teachers

    @property
    def several(self) -> bool:
        """Whether there are several layers on a side."""
        return bool(self.more_students or self.more_teachers)

    def __str__(self) -> str:
        return f"{_side(self.students)} -> {_side(self.teachers)}"


def _side(taps: Sequence[LayerTap]) -> str:
    return str(taps[0]) if len(taps) == 1 else f"[{', '.join(map(str, taps))}]"


def layer_tap(side: Any, path: str, selector_path: str | None = None) -> LayerTap:
    """A layer, or ``[layer, selector]``."""
    layer, selector = side, ""
    if isinstance(side, Sequence) and not isinstance(side, str):
        if len(side) not in (1, 2):
            raise Wrong(path, f"expected a layer, or a layer and a selector, got a list of {len(side)}")
        layer_path = path if selector_path else f"{path}[0]"
        layer, selector = side[0], side[1] if len(side) == 2 else ""
        selector_path = selector_path or f"{path}[1]"
        path = layer_path
    if not isinstance(layer, str):
        cure = f"Put it in quotes: '{layer}'" if isinstance(layer, int) and not isinstance(layer, bool) else ""
        raise Wrong(path, f"expected the name of a layer, got {shown(layer)}", cure)
    taps_input = layer.endswith(_INPUT)
    chosen = _selector(selector, selector_path or path)
    return LayerTap(layer.removesuffix(_INPUT) if taps_input else layer, chosen, taps_input, path)


def _selector(value: Any, path: str) -> Selector:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if callable(value):
        function: Callable[[Any], Any] = value
        return function
    raise Wrong(path, f"expected a selector (an index, a key or an attribute), got {shown(value)}")
