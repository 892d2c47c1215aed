"""What the criteria of a run look at in a teacher: the outputs that a stored row consists of.

Rules: the union over all terms that can ever have a weight, so that a row is complete whatever the schedules of
weights say at the step at which it is computed. A layer counts with its selector and with which of its calls is meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kdhooks.config.mappings import LayerTap
from kdhooks.criterion import Criterion
from kdhooks.errors import UsageError
from kdhooks.schedules import constant_value
from kdhooks.stored.functions import function_digest

LOGITS = "logits"
"""What a teacher's output is called in a row."""

_digest = lru_cache(maxsize=1024)(function_digest)


@dataclass(frozen=True)
class Look:
    """A layer of a teacher that is looked at.

    Attributes:
        tap: the layer, what to take of it, and whether its input is meant.
        calls: ``last``, ``first``, ``all`` or ``mean`` of its calls.
    """

    tap: LayerTap
    calls: str = "last"

    @property
    def name(self) -> str:
        """What the layer's values are called in a row; the same for the same values only.

        >>> Look(LayerTap("encoder.1", "0")).name, Look(LayerTap("head", input=True), "mean").name
        ("encoder.1['0']", 'head:input (mean)')
        """
        tap = self.tap
        layer = (tap.layer or "(root)") + (":input" if tap.input else "")
        if callable(tap.selector):
            layer += f"[function {_digest(tap.selector)}]"
        elif tap.selector:
            layer += f"[{tap.selector!r}]"
        return layer if self.calls == "last" else f"{layer} ({self.calls})"

    def named(self, values: Sequence[Any]) -> dict[str, Any]:
        """The values of the calls that count, by their names in a row."""
        if self.calls != "all":
            return {self.name: values[0]}
        return {f"{self.name} #{number}": value for number, value in enumerate(values)}

    def found(self, outputs: dict[str, Any]) -> list[Any]:
        """The values of the calls that count, of a row's."""
        if self.calls != "all":
            return [outputs[self.name]] if self.name in outputs else []
        names = (f"{self.name} #{number}" for number in range(len(outputs)))
        return [outputs[name] for name in names if name in outputs]


@dataclass(frozen=True)
class Wants:
    """What a row of a teacher holds.

    Attributes:
        output: whether logits are in it.
        keys: what a mapping calls its logits, besides ``logits``.
        axes: the class axes that criteria name; None is the usual one.
        looks: the layers, each once.
    """

    output: bool
    keys: tuple[str, ...] = ()
    axes: tuple[int | None, ...] = ()
    looks: tuple[Look, ...] = ()

    @property
    def layers(self) -> frozenset[tuple[str, bool]]:
        """The layers as a backend captures them."""
        return frozenset(look.tap.key for look in self.looks)

    @property
    def names(self) -> tuple[str, ...]:
        """All that is in a row, for a fingerprint."""
        output = (f"{LOGITS} {' '.join(self.keys)}".rstrip(),) if self.output else ()
        return (*output, *sorted(look.name for look in self.looks))


def wants_of(criteria: Iterable[Criterion], teacher: str) -> Wants:
    """What criteria look at in a teacher, once they have begun.

    A criterion says by a method ``teacher_looks(name)`` which layers it looks at, as pairs of a
    `kdhooks.config.mappings.LayerTap` and the calls that count. Terms that name no layer look at the output.

    Args:
        criteria: of the run.
        teacher: its name.

    Raises:
        UsageError: that can't be known, or needs two different outputs.
    """
    looks: dict[str, Look] = {}
    keys: dict[tuple[str, ...], None] = {}
    axes: dict[int | None, None] = {}
    for criterion in criteria:
        live = [term for term in criterion.terms if constant_value(term.weight) != 0]
        if any(term.layer is None for term in live):
            keys[tuple(getattr(criterion, "outputs", ()))] = None
            axes[getattr(criterion, "axis", None)] = None
        if any(term.layer is not None for term in live):
            if not hasattr(criterion, "teacher_looks"):
                kind = type(criterion).__name__
                raise UsageError(f"{kind} looks at layers and has no method teacher_looks(name) that says at which")
            found = [Look(tap, calls) for tap, calls in criterion.teacher_looks(teacher)]
            looks |= {look.name: look for look in found}
    if len(keys) > 1:
        named = " and ".join(", ".join(one) or "logits" for one in keys)
        raise UsageError(f"the criteria look at different outputs of it ({named}), and one is stored")
    return Wants(bool(keys), next(iter(keys), ()), tuple(axes), tuple(looks.values()))
