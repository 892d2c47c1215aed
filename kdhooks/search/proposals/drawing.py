"""Architectures that were not seen yet: by chance, in order, or as near as can be to one that was wished for."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from kdhooks.search.proposals.space import Arch, Space

LISTED = 20_000
"""Spaces with at most so many architectures are listed; from larger ones candidates are drawn."""
_DRAWS = 20_000
_NEARBY = 1_000  # draws among which the nearest one is taken


def unseen(space: Space, seen: Collection[str], generator: random.Random) -> Arch | None:
    """One of the architectures that were not seen, by chance; None where there is none, or none is found.

    In a space that can be listed all are equally likely.
    """
    if _is_listed(space):
        left = [arch for arch in space.points() if space.key(arch) not in seen]
        return left[generator.randrange(len(left))] if left else None
    return next(_drawn(space, seen, generator), None)


def first_unseen(space: Space, seen: Collection[str]) -> Arch | None:
    """The first architecture, in the order of the space, that was not seen."""
    return next((arch for arch in space.points() if space.key(arch) not in seen), None)


def nearest_unseen(
    space: Space, seen: Collection[str], wished: Mapping[str, Any], generator: random.Random
) -> Arch | None:
    """The architecture nearest to one that can't be had; chance decides between equals."""
    near = None
    if _is_listed(space):
        left = [arch for arch in space.points() if space.key(arch) not in seen]
    else:
        left = list(islice(_drawn(space, seen, generator), _NEARBY))
    least = float("inf")
    generator.shuffle(left)
    for arch in left:
        distance = space.distance(arch, wished)
        if distance < least:
            near, least = arch, distance
    return near


def _is_listed(space: Space) -> bool:
    return not space.exceeds(LISTED)


def _drawn(space: Space, seen: Collection[str], generator: random.Random) -> Iterator[Arch]:
    for _ in range(_DRAWS):
        arch = space.draw(generator)
        if space.keeps_relations(arch) and space.key(arch) not in seen:
            yield arch
