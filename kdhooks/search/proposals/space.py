"""The search space: which architectures there are, how they are told apart, and how search algorithms see them.

An architecture is a mapping from the names of its parameters to their values, in the order of the file, without
the parameters whose conditions do not hold. Algorithms see every parameter always: one that an architecture lacks
has its first value there, so equal architectures are equal points and every algorithm can search a space with
conditions.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdhooks.config.search_settings import Dimension, Relation
from kdhooks.errors import UsageError
from kdhooks.names import did_you_mean
from kdhooks.search.proposals.axes import Axis, axis, same

COUNTED = 10**6
"""A space with more architectures is not counted."""
_LOOKED_AT = 3 * COUNTED  # partial architectures: relations may leave few of very many

Arch = dict[str, Any]
Code = dict[str, Any]
"""What algorithms see of an architecture: a rank, a category or a number for every parameter."""


class Space:
    """What can be searched.

    Args:
        dimensions: at least one, with different names.
        relations: which architectures do not belong to it.

    Attributes:
        names: of all parameters, in the order of the file.
        dimensions: as they were given.

    Raises:
        UsageError: nothing to search, conditions in a circle, or a relation that can't be read.

    >>> from kdhooks.config.search_settings import Choices, When
    >>> block, kernel = Choices("block", ("conv", "dense")), Choices("kernel", (3, 5), (When("block", ("conv",)),))
    >>> space = Space([block, kernel])
    >>> space.size(), [space.key(arch) for arch in space.points()][-1]
    (3, '{"block":"dense"}')
    """

    def __init__(self, dimensions: Iterable[Dimension], relations: Iterable[Relation] = ()) -> None:
        self.dimensions, self.relations = tuple(dimensions), tuple(relations)
        self.names = tuple(dimension.name for dimension in self.dimensions)
        if not self.names:
            raise UsageError("the search space is empty: it needs one parameter at least")
        if len(set(self.names)) < len(self.names):
            raise UsageError(f"the search space has a parameter twice: {', '.join(self.names)}")
        self.axes: Mapping[str, Axis] = {dimension.name: axis(dimension) for dimension in self.dimensions}
        for each in self.axes.values():
            if not len(each.values):
                raise UsageError(f"the search space has no value for {each.name!r}")
        self._order = _by_condition(self.axes)
        self._due = self._relations_by_parameter()
        self._least = 0  # so many architectures there are at least
        self._size: int | None = None  # where they were counted to the end

    @property
    def continuous(self) -> bool:
        """Whether a parameter may be any number between two."""
        return any(each.continuous for each in self.axes.values())

    def size(self) -> int | None:
        """How many architectures there are; None for infinitely many, and for more than are worth counting."""
        return None if self.exceeds(COUNTED) else self._size

    def exceeds(self, count: int) -> bool:
        """Whether there are more than so many architectures; no more are counted than that takes."""
        if self._size is None and self._least <= count:
            self._count(count)
        return self._size is None or self._size > count

    def points(self) -> Iterator[Arch]:
        """Every architecture once; the last parameter changes first.

        Raises:
            UsageError: there are infinitely many.
        """
        for each in self.axes.values():
            if each.continuous:
                raise UsageError(f"the architectures can't be listed: {each.name!r} may be any number between two")
        for found in self._extend({}, 0):
            if found is not None:
                yield self._sorted(found)

    def key(self, arch: Mapping[str, Any]) -> str:
        """What tells architectures apart: JSON in one spelling."""
        return json.dumps({name: arch[name] for name in sorted(arch)}, separators=(",", ":"))

    def check(self, arch: Mapping[str, Any]) -> Arch:
        """The architecture as the space spells it: in its order, with its own values (128 for 128.0).

        Raises:
            UsageError: it does not belong to the space; the message says why.
        """
        for name in arch:
            if name not in self.axes:
                advice = did_you_mean(str(name), self.names, what="Its parameters")
                raise UsageError(f"the search space has no parameter {name!r}. {advice}")
        spelled: Arch = {}
        for each in self._order:
            if not self._has(spelled, each):
                if each.name in arch:
                    where = _conditions(each)
                    raise UsageError(f"{_shown(arch)} can't have {each.name!r}: that is only there where {where}")
            elif each.name not in arch:
                raise UsageError(f"{_shown(arch)} lacks the parameter {each.name!r}")
            else:
                spelled[each.name] = self._spelled(each, arch[each.name])
        for relation in self.relations:
            if not relation.holds(spelled):
                raise UsageError(f"{_shown(arch)} breaks the relation {relation.text!r}")
        return self._sorted(spelled)

    def keeps_relations(self, arch: Mapping[str, Any]) -> bool:
        """Whether an architecture breaks none of the relations."""
        return all(relation.holds(arch) for relation in self.relations)

    def encode(self, arch: Mapping[str, Any]) -> Code:
        """How algorithms see an architecture."""
        return {name: each.encode(arch[name] if name in arch else each.values[0]) for name, each in self.axes.items()}

    def decode(self, code: Mapping[str, Any]) -> Arch:
        """The architecture of a code, without the parameters whose conditions do not hold."""
        arch: Arch = {}
        for each in self._order:
            if self._has(arch, each):
                arch[each.name] = each.decode(code[each.name])
        return self._sorted(arch)

    def draw(self, generator: random.Random) -> Arch:
        """An architecture by chance, each parameter's values equally likely; it may break relations."""
        arch: Arch = {}
        for each in self._order:
            if self._has(arch, each):
                arch[each.name] = each.draw(generator)
        return self._sorted(arch)

    def distance(self, arch: Mapping[str, Any], other: Mapping[str, Any]) -> float:
        """How unlike two architectures are: squares of differences between 0 and 1, summed over all parameters."""
        return sum(self._apart(each, arch, other) for each in self.axes.values())

    def describe(self) -> list[dict[str, Any]]:
        """Plain data that is equal for equal spaces, apart from relations."""
        return [
            {
                "name": each.name,
                "values": [each.values[0], each.values[-1], len(each.values)]
                if each.continuous or not isinstance(each.values, tuple)
                else list(each.values),
                "kind": "interval" if each.continuous else "choices" if isinstance(each.values, tuple) else "steps",
                "log": each.logarithmic,
                "when": [[condition.name, list(condition.values)] for condition in each.when],
            }
            for each in self.axes.values()
        ]

    def _count(self, most: int) -> None:
        """Count the architectures, at least until there are more than `most`."""
        if self.continuous:
            self._least = COUNTED + 1
        elif not self.relations and not any(each.when for each in self.axes.values()):
            self._size = math.prod(len(each.values) for each in self.axes.values())
        else:
            found = 0
            for looked_at, point in enumerate(self._extend({}, 0)):
                found += point is not None
                if found > most or looked_at > _LOOKED_AT:
                    self._least = found if found > most else COUNTED + 1
                    return
            self._size = found

    def _extend(self, arch: Arch, depth: int) -> Iterator[Arch | None]:
        """All architectures that begin with these parameters; None for each that a relation ended early."""
        if depth == len(self._order):
            yield arch
            return
        each = self._order[depth]
        if not self._has(arch, each):
            yield from self._extend(arch, depth + 1)
            return
        for value in each.values:
            longer = {**arch, each.name: value}
            if all(relation.holds(longer) for relation in self._due[each.name]):
                yield from self._extend(longer, depth + 1)
            else:
                yield None

    def _relations_by_parameter(self) -> Mapping[str, Sequence[Relation]]:
        """The relations that can be judged once a parameter has its value: the last one that they speak of."""
        due: dict[str, list[Relation]] = {name: [] for name in self.names}
        for relation in self.relations:
            names, text = relation.names, relation.text
            for name in names:
                if name not in self.axes:
                    advice = did_you_mean(name, self.names, what="Its parameters")
                    raise UsageError(f"the relation {text!r} speaks of {name!r}, which is not searched. {advice}")
                if not self.axes[name].ordered:
                    raise UsageError(f"the relation {text!r} counts with {name!r}, whose values are no numbers")
            last = [each.name for each in self._order if each.name in names][-1:]
            due[last[0] if last else self._order[0].name].append(relation)
        return due

    def _has(self, arch: Mapping[str, Any], each: Axis) -> bool:
        return all(
            condition.name in arch and any(same(arch[condition.name], value) for value in condition.values)
            for condition in each.when
        )

    def _spelled(self, each: Axis, value: object) -> Any:
        try:
            place = each.position(value)
        except (TypeError, ValueError):
            raise UsageError(f"{each.name!r} can't be {value!r}: {_range(each)}") from None
        return float(value) if each.continuous else each.values[place]  # type: ignore[arg-type]

    def _sorted(self, arch: Arch) -> Arch:
        return {name: arch[name] for name in self.names if name in arch}

    def _apart(self, each: Axis, arch: Mapping[str, Any], other: Mapping[str, Any]) -> float:
        if each.name not in arch or each.name not in other:
            return float((each.name in arch) != (each.name in other))
        if each.ordered:
            return (each.place(arch[each.name]) - each.place(other[each.name])) ** 2
        return float(not same(arch[each.name], other[each.name]))


def _by_condition(axes: Mapping[str, Axis]) -> list[Axis]:
    """The axes, each behind those that its conditions speak of, else in their order."""
    order: list[Axis] = []
    waiting = list(axes.values())
    while waiting:
        known = {each.name for each in order}
        ready = [each for each in waiting if all(condition.name in known for condition in each.when)]
        if not ready:
            missing = [c.name for each in waiting for c in each.when if c.name not in axes]
            if missing:
                raise UsageError(f"a condition speaks of {missing[0]!r}, which is not searched")
            raise UsageError(f"conditions go in a circle: {', '.join(each.name for each in waiting)}")
        order.append(ready[0])
        waiting.remove(ready[0])
    return order


def _shown(arch: Mapping[str, Any]) -> str:
    return "the architecture {" + ", ".join(f"{name}: {value}" for name, value in arch.items()) + "}"


def _conditions(each: Axis) -> str:
    return " and ".join(
        f"{condition.name} is {' or '.join(str(value) for value in condition.values)}" for condition in each.when
    )


def _range(each: Axis) -> str:
    if isinstance(each.values, tuple) and not each.continuous:
        return f"it is one of {', '.join(str(value) for value in each.values)}"
    kind = "a number" if each.continuous else f"one of {len(each.values)} numbers"
    return f"it is {kind} between {each.values[0]} and {each.values[-1]}"
