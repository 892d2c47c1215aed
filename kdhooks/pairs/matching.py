"""Which parts a feature matcher is made of, found from two shapes alone.

A `Plan` names parts; a backend makes each of them on its own tensors. Where channels stand among the axes is the
backend's `Layout`: features are [N, D], [N, T, D] with the width last on both sides, and maps with two or three
axes of space. A size that is None is not known before the step, as in a graph that is traced for any batch: two such
sizes count as equal, and one such size as different from any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from kdhooks.errors import MatcherError
from kdhooks.names import Table

Shape = Sequence[int | None]

PartName = Literal[
    "project",
    "resize",
    "pool_tokens",
    "drop_tokens",
    "mean_of_space",
    "mean_of_tokens",
    "as_tokens",
    "as_grid",
    "on_grid",
    "flatten",
    "shape_as",
]


@dataclass(frozen=True)
class Layout:
    """Where channels stand in features with space.

    Attributes:
        channels: the axis of the channels of maps, 1 or -1.
        maps: how messages write the axes of a map.
    """

    channels: int
    maps: str

    def axis(self, shape: Shape) -> int:
        """The axis of the channels of a feature."""
        return self.channels if len(shape) >= 4 else -1

    def space(self, shape: Shape) -> list[int | None]:
        """The sizes of a map without rows and channels."""
        return list(shape[2:]) if self.channels == 1 else list(shape[1:-1])


CHANNELS_FIRST = Layout(1, "[N, C, H, W]")
CHANNELS_LAST = Layout(-1, "[N, H, W, C]")


@dataclass(frozen=True)
class Part:
    """One part of a matcher.

    Attributes:
        name: what it does.
        sizes: of ``project``, the channels from in to out; three sizes make two layers with a GELU between them.
        axis: of ``project``, the axis of the channels.
        count: of ``drop_tokens``, how many first tokens are left out.
    """

    name: PartName
    sizes: tuple[int, ...] = ()
    axis: int = -1
    count: int = 0


@dataclass(frozen=True)
class Plan:
    """The parts that make two features comparable.

    Attributes:
        student: applied to the student's feature, in order.
        teacher: applied to the teacher's, before the student's.
    """

    student: tuple[Part, ...] = ()
    teacher: tuple[Part, ...] = ()


Planner = Callable[[Shape, Shape, Layout], Plan]

MATCHERS: Table[Planner] = Table("feature matcher")
"""Every matcher by name: called with both shapes and the layout, it says with a `MatcherError` why it can't plan."""


def check_rows(student: Shape, teacher: Shape) -> None:
    """MatcherError where two features have different batches."""
    if not student or not teacher or (student[0] != teacher[0] and None not in (student[0], teacher[0])):
        raise MatcherError("both must have the same rows on their first axis")


def plan_matcher(name: str, student: Shape, teacher: Shape, layout: Layout) -> Plan:
    """The parts of a matcher for features of two shapes.

    Args:
        name: in `MATCHERS`.
        student: the shape of the student's feature, [N, ...].
        teacher: that of the teacher's.
        layout: of the backend.

    Raises:
        MatcherError: it fits no such shapes.

    >>> [part.name for part in plan_matcher("auto", [2, 4, 4, 8], [2, 7, 7, 8], CHANNELS_LAST).student]
    ['resize']
    """
    check_rows(student, teacher)
    return MATCHERS[name](student, teacher, layout)


@MATCHERS.register("identity")
def _identity(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    if not _equal(student, teacher):
        raise MatcherError("identity needs equal shapes")
    return Plan()


def _equal(student: Shape, teacher: Shape) -> bool:
    """Whether all sizes but the rows, which were compared before, are equal."""
    return list(student[1:]) == list(teacher[1:])


def _same_but(student: Shape, teacher: Shape, axis: int) -> bool:
    left, right = list(student[1:]), list(teacher[1:])
    if len(left) != len(right) or not left:
        return False
    place = axis - 1 if axis > 0 else axis
    del left[place], right[place]
    return left == right


@MATCHERS.register("linear")
def _linear(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    axis = layout.axis(student)
    if not _same_but(student, teacher, axis):
        raise MatcherError(f"linear maps axis {axis} and needs all others equal")
    return Plan((_projection(axis, student[axis], teacher[axis]),))


@MATCHERS.register("mlp")
def _mlp(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    axis = layout.axis(student)
    if not _same_but(student, teacher, axis):
        raise MatcherError(f"mlp maps axis {axis} and needs all others equal")
    inner, outer = student[axis], teacher[axis]
    hidden = None if inner is None or outer is None else max(inner, outer)
    return Plan((_projection(axis, inner, hidden, outer),))


@MATCHERS.register("conv1x1")
def _conv(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    if not 3 <= len(student) <= 5 or not _same_but(student, teacher, layout.channels):
        raise MatcherError(f"conv1x1 maps the channels of {layout.maps} and needs all other axes equal")
    return Plan((_projection(layout.channels, student[layout.channels], teacher[layout.channels]),))


@MATCHERS.register("token_pool")
def _token_pool(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    if len(student) != 3 or len(teacher) != 3 or student[2] != teacher[2]:
        raise MatcherError("token_pool needs [N, T, D] on both sides with the same D")
    return Plan((_POOL,))


@MATCHERS.register("resize")
def _resize(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    axes = len(student)
    if not 4 <= axes <= 5 or axes != len(teacher) or student[layout.channels] != teacher[layout.channels]:
        raise MatcherError(f"resize needs {layout.maps} on both sides with the same C")
    return Plan((_RESIZE,))


@MATCHERS.register("flatten")
def _flatten(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    inner, outer = _count(student[1:]), _count(teacher[1:])
    if inner is None or outer is None:
        raise MatcherError(_UNKNOWN)
    if inner * outer > _MOST:
        raise MatcherError(f"flatten would need {inner} x {outer} weights")
    return Plan((Part("flatten"), *_projected(inner, outer, -1), Part("shape_as")))


_MOST = 2**28
_UNKNOWN = "the sizes that it maps are not known before the step"
_POOL, _RESIZE, _TOKENS = Part("pool_tokens"), Part("resize"), Part("as_tokens")


def _projection(axis: int, *sizes: int | None) -> Part:
    known = tuple(size for size in sizes if size is not None)
    if len(known) < len(sizes):
        raise MatcherError(_UNKNOWN)
    return Part("project", known, axis)


def _projected(inner: int | None, outer: int | None, axis: int) -> tuple[Part, ...]:
    return () if inner == outer else (_projection(axis, inner, outer),)


def _count(sizes: Sequence[int | None]) -> int | None:
    """The product of sizes; None where one is unknown."""
    known = [size for size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else None


# ---- any two shapes --------------------------------------------------------------------------------


@MATCHERS.register("auto")
def _auto(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    if len(student) == len(teacher) and _equal(student, teacher):
        return Plan()
    if not (2 <= len(student) <= 5 and 2 <= len(teacher) <= 5):
        raise MatcherError(f"features have 2 to 5 axes, as in [N, D], [N, T, D] and {layout.maps}")
    kinds = min(len(student), 4), min(len(teacher), 4)
    if len(student) != len(teacher) and kinds == (4, 4):
        raise MatcherError("one has two axes of space and the other three")
    return _FOUND[kinds](student, teacher, layout)


def _rows(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    return Plan(_projected(student[-1], teacher[-1], -1))


def _maps(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    axis, mine, theirs = layout.channels, layout.space(student), layout.space(teacher)
    channels = _projected(student[axis], teacher[axis], axis)
    if mine == theirs:
        return Plan(channels)
    here, there = _count(mine), _count(theirs)
    smaller = here is not None and there is not None and there < here  # channels are mapped where space is smaller
    return Plan((_RESIZE, *channels) if smaller else (*channels, _RESIZE))


def _extra_tokens(longer: int | None, shorter: int | None) -> int:
    """How many class tokens the longer one has more: 1 or 2 beside a square grid of patches, or 0."""
    if longer is None or shorter is None:
        return 0
    extra = longer - shorter
    return extra if extra in (1, 2) and math.isqrt(shorter) ** 2 == shorter and shorter > 1 else 0


def _dropped(count: int | None) -> tuple[Part, ...]:
    return (Part("drop_tokens", count=count),) if count else ()


def _both_tokens(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    mine, theirs = _extra_tokens(student[1], teacher[1]), _extra_tokens(teacher[1], student[1])
    first = _dropped(mine) if mine or theirs else (_POOL,)
    return Plan((*first, *_projected(student[2], teacher[2], -1)), _dropped(theirs))


def _class_tokens(tokens: int | None) -> int | None:
    """Tokens beside a square grid of patches: 0, 1 or 2; None where there is no grid."""
    patches = [] if tokens is None else [(extra, tokens - extra) for extra in (0, 1, 2) if tokens > extra]
    return next((extra for extra, count in patches if math.isqrt(count) ** 2 == count), None)


def _map_to_tokens(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    channels = _projected(student[layout.channels], teacher[2], -1)
    places, tokens = _count(layout.space(student)), teacher[1]
    if len(student) == 4:
        for extra in (0, 1, 2):
            if places is not None and tokens is not None and places == tokens - extra:
                return Plan((_TOKENS, *channels), _dropped(extra))
        grid = _class_tokens(tokens)
        if grid is not None:
            return Plan((Part("on_grid"), _TOKENS, *channels), _dropped(grid))
    return Plan((_TOKENS, _POOL, *channels))


def _tokens_to_map(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    grid, axis = _class_tokens(student[1]), layout.channels
    drop = _dropped(grid)
    if len(teacher) == 4 and grid is not None:
        return Plan((*drop, Part("as_grid"), _RESIZE, *_projected(student[2], teacher[axis], axis)))
    return Plan((_POOL, *_projected(student[2], teacher[axis], -1)), (_TOKENS,))


def _map_to_rows(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    return Plan((Part("mean_of_space"), *_projected(student[layout.channels], teacher[1], -1)))


def _tokens_to_rows(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    return Plan((Part("mean_of_tokens"), *_projected(student[2], teacher[1], -1)))


def _rows_to_map(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    return Plan(_projected(student[1], teacher[layout.channels], -1), (Part("mean_of_space"),))


def _rows_to_tokens(student: Shape, teacher: Shape, layout: Layout) -> Plan:
    return Plan(_projected(student[1], teacher[2], -1), (Part("mean_of_tokens"),))


_FOUND: dict[tuple[int, int], Planner] = {
    (2, 2): _rows,
    (3, 3): _both_tokens,
    (4, 4): _maps,
    (4, 3): _map_to_tokens,
    (3, 4): _tokens_to_map,
    (4, 2): _map_to_rows,
    (3, 2): _tokens_to_rows,
    (2, 4): _rows_to_map,
    (2, 3): _rows_to_tokens,
}
"""By the number of axes of both sides."""
