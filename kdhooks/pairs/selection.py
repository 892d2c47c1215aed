"""Selectors on real values: what a layer returned becomes the tensor that a mapping means.

Rules: nothing is guessed. A name that is no layer, an output of several tensors without a selector, a layer
that did not run: each is a `LayerError` that names the model, the layer and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from kdhooks.config.mappings import LayerTap
from kdhooks.errors import LayerError

Tensor = Any


class Slot(Protocol):
    """What was captured at one layer."""

    def read(self) -> Sequence[Any]:
        """One value for each call of the layer in the last forward; none where it did not run."""


class Captures(Protocol):
    """The captures of one model.

    Attributes:
        role: what the model is called in errors: ``student``, or a teacher's name.
        kind: the model's class.
        slots: what was captured, by the key of a tap.
    """

    role: str
    kind: str
    slots: Any

    def find(self, layer: str) -> str:
        """The name of a layer as its author gave it; LayerError where there is none."""


@dataclass(frozen=True)
class Values:
    """What a backend knows of its values.

    Attributes:
        as_tensor: a value, also an array where arrays may stand for tensors, as a tensor; None where it is none.
        is_tensor: whether a value is a tensor of the framework.
        describe: what a value is, in a few words.
        mean: the mean of several tensors of one shape.
        silence: (captures, slot) -> why a layer has no value, as ``" where ..."`` or an empty text, and the advice.
    """

    as_tensor: Callable[[Any], Tensor | None]
    is_tensor: Callable[[Any], bool]
    describe: Callable[[Any], str]
    mean: Callable[[list[Tensor]], Tensor]
    silence: Callable[[Any, Any], tuple[str, str]]


def found(tap: LayerTap, captures: Captures) -> LayerTap:
    """The same tap with the layer's name as its author gave it; LayerError where there is no such layer."""
    return replace(tap, layer=captures.find(tap.layer))


def tensors_of(tap: LayerTap, captures: Captures, calls: str, values: Values) -> list[Tensor]:
    """The tensors of a layer at this step, one for each call that counts.

    Args:
        tap: the layer and what to take of it.
        captures: where it was captured.
        calls: ``last``, ``first``, ``all`` or ``mean`` of its calls.
        values: of the backend.

    Raises:
        LayerError: it did not run, or the selector doesn't fit what it returned.
    """
    stored = getattr(captures, "stored_tensors", None)
    if stored is not None:  # by layer, selector and calls
        found: list[Tensor] = stored(tap, calls)
        return found
    slot = captures.slots[tap.key]
    captured = slot.read()
    if not captured:
        where, advice = values.silence(captures, slot)
        raise LayerError(f"{captures.role} {captures.kind}: layer {tap} did not run at this step{where}", advice)
    if calls == "last":
        captured = captured[-1:]
    elif calls == "first":
        captured = captured[:1]
    chosen = getattr(slot, "chosen", False)  # stored features: a tensor is what the selector made already
    tensors = []
    for value in captured:
        handed = values.as_tensor(value) if chosen else None
        tensors.append(select(value, tap, captures, values) if handed is None else handed)
    if calls == "mean" and len(tensors) > 1:
        shapes = {tuple(tensor.shape) for tensor in tensors}
        if len(shapes) > 1:
            raise LayerError(
                f"{captures.role} {captures.kind}: the {len(tensors)} calls of layer {tap} have different shapes, "
                "so they have no mean",
                "Write calls: last, first or all.",
            )
        return [values.mean(tensors)]
    return tensors


def select(value: Any, tap: LayerTap, captures: Captures, values: Values) -> Tensor:
    """The tensor that a tap means in what a layer returned.

    Raises:
        LayerError: there is none.
    """
    describe = values.describe
    where = f"{captures.role} {captures.kind}: layer {tap.layer!r} {'got' if tap.input else 'returned'}"
    chosen = value
    if callable(tap.selector):
        chosen = tap.selector(value)
        if not values.is_tensor(chosen):
            raise LayerError(f"{where} {describe(value)}, of which the selector made {describe(chosen)}, not a tensor")
        return chosen
    for part in tap.selector.split(".") if tap.selector else ():
        chosen = _part(chosen, part, values)
        if chosen is _NOTHING:
            raise LayerError(f"{where} {describe(value)}, in which there is no {tap.selector!r}", _parts(value))
    if values.is_tensor(chosen):
        return chosen
    only = _only(chosen)
    if values.is_tensor(only):
        return only
    if tap.selector:
        raise LayerError(f"{where} {describe(chosen)} at {tap.selector!r}, not a tensor", _parts(chosen, tap.selector))
    example = next(iter(_names(value)), "0")
    raise LayerError(
        f"{where} {describe(value)}, and no selector says which is meant",
        f"Write the selector behind the layer, as in [{tap.layer or repr('')}, '{example}'].",
    )


_NOTHING = object()


def _part(value: Any, part: str, values: Values) -> Any:
    """One step of a selector: a key, an index, or an attribute."""
    if isinstance(value, Mapping) and part in value:
        return value[part]
    if part.removeprefix("-").isdecimal():
        index = int(part)
        if values.is_tensor(value):
            return value if index == 0 else _NOTHING
        items = list(value.values()) if isinstance(value, Mapping) else value
        if isinstance(items, Sequence) and -len(items) <= index < len(items):
            return items[index]
        return _NOTHING
    return getattr(value, part, _NOTHING) if not part.startswith("_") else _NOTHING


def _only(value: Any) -> Any:
    """The one item of a sequence or mapping of one."""
    items = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else []
    return items[0] if len(items) == 1 else None


def _names(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    return [str(index) for index in range(len(value))] if isinstance(value, (tuple, list)) else []


def _parts(value: Any, above: str = "") -> str:
    names = _names(value)
    shown = ", ".join(repr(f"{above}.{name}" if above else name) for name in names[:8])
    return f"Selectors there: {shown}" if names else ""
