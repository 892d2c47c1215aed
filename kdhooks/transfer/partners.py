"""Which tensor of the source belongs to which of the student: rename rules, names, prefixes, order.

Rules: names and shapes only. A tensor of the source is taken once; the order of the ways is that of the list above,
and each looks only at what the earlier ones have left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import NamedTuple

from kdhooks.config.finetune_settings import FinetuneSettings
from kdhooks.errors import TransferError
from kdhooks.transfer.report import Shape

Shapes = Mapping[str, Shape]


class Partner(NamedTuple):
    """A tensor of the source, and how it was found."""

    source: str
    how: str = ""


@dataclass
class Found:
    """What was found.

    Attributes:
        partners: by the student's names.
        dropped: the source's tensors that a rule leaves out.
        notes: for the report.
    """

    partners: dict[str, Partner]
    dropped: tuple[str, ...]
    notes: list[str]


def partners(target: Shapes, source: Shapes, settings: FinetuneSettings) -> Found:
    """The partner of each of the student's tensors that has one.

    Raises:
        TransferError: rename rules map two tensors to one name.
    """
    renamed, notes = rename(source, settings.rename)
    shapes = {new: source[old] for new, old in renamed.items()}
    found = {name: name for name in target if name in shapes}
    how = {name: "" for name in found}
    if settings.prefixes != "none":
        open_here, open_there = _left(target, found), _left(shapes, found.values())
        for mine, theirs, words in _by_prefix(open_here, open_there, settings.prefixes, notes):
            found[mine], how[mine] = theirs, words
    if settings.by_order:
        open_here, open_there = _left(target, found), _left(shapes, found.values())
        for mine, theirs in _by_order(open_here, open_there):
            found[mine], how[mine] = theirs, "by order"
    dropped = tuple(sorted(set(source) - set(renamed.values())))
    return Found({mine: Partner(renamed[theirs], how[mine]) for mine, theirs in found.items()}, dropped, notes)


def rename(names: Shapes, rules: Mapping[str, str | None]) -> tuple[dict[str, str], list[str]]:
    r"""New names -> the source's names, and what to note.

    Raises:
        TransferError: two names become one.

    >>> rename({"net.fc.weight": (1,)}, {r"^net\.": "", "fc": "head"})[0]
    {'head.weight': 'net.fc.weight'}
    """
    used = dict.fromkeys(rules, False)
    compiled = [(rule, re.compile(rule), new) for rule, new in rules.items()]
    renamed: dict[str, str] = {}
    for old in names:
        name: str | None = old
        for rule, pattern, new in compiled:
            if name is not None and pattern.search(name):
                used[rule] = True
                name = None if new is None else pattern.sub(new, name)
        if name is None:
            continue
        if name in renamed:
            raise TransferError(
                f"the rules map two tensors of the source to {name!r}: {renamed[name]!r} and {old!r}",
                "Map one of them to null, which leaves it out.",
                key="rename",
            )
        renamed[name] = old
    return renamed, [f"the rename rule {rule!r} fits no name of the source" for rule, seen in used.items() if not seen]


def _left(shapes: Shapes, taken: object) -> dict[str, Shape]:
    gone = set(taken)  # type: ignore[call-overload]
    return {name: shape for name, shape in shapes.items() if name not in gone}


Vote = tuple[str, str]
"""A side, ``source`` or ``student``, and what stands before its names."""


def _by_prefix(
    target: dict[str, Shape], source: dict[str, Shape], wanted: str | Sequence[str], notes: list[str]
) -> Iterator[tuple[str, str, str]]:
    """Pairs of names of which one is the other behind a prefix, prefix by prefix, the one that fits most first."""
    for _ in range(len(target)):
        votes = _votes(target, source, wanted)
        ranked = sorted(votes, key=lambda vote: _fit(votes[vote], target, source), reverse=True)
        if not ranked:
            return
        best = ranked[0]
        rivals = [vote for vote in ranked if _fit(votes[vote], target, source) == _fit(votes[best], target, source)]
        if len(rivals) > 1 and _contradict([votes[vote] for vote in rivals]):
            words = ", ".join(repr(prefix) for _, prefix in rivals[:4])
            notes.append(f"the prefixes {words} fit equally well, so none was taken off: write a rename rule")
            return
        side, prefix = best
        words = f"without {prefix!r}" if side == "source" else f"below {prefix!r}"
        for mine, theirs in votes[best]:
            del target[mine], source[theirs]
            yield mine, theirs, words


def _votes(target: Shapes, source: Shapes, wanted: str | Sequence[str]) -> dict[Vote, list[tuple[str, str]]]:
    votes: dict[Vote, list[tuple[str, str]]] = {}
    for theirs in source:
        for prefix, rest in _cuts(theirs, wanted):
            if rest in target:
                votes.setdefault(("source", prefix), []).append((rest, theirs))
    for mine in target:
        for prefix, rest in _cuts(mine, wanted):
            if rest in source:
                votes.setdefault(("student", prefix), []).append((mine, rest))
    return {vote: pairs for vote, pairs in votes.items() if wanted != "auto" or _is_sign(pairs, target, source)}


def _is_sign(pairs: Sequence[tuple[str, str]], target: Shapes, source: Shapes) -> bool:
    """Whether names say that a prefix is one: a shape is the same, or several names have as many axes."""
    if any(target[mine] == source[theirs] for mine, theirs in pairs):
        return True
    return len(pairs) > 1 and all(len(target[mine]) == len(source[theirs]) for mine, theirs in pairs)


def _cuts(name: str, wanted: str | Sequence[str]) -> Iterator[tuple[str, str]]:
    """What may stand before a name, and the rest."""
    if not isinstance(wanted, str):
        yield from ((prefix, name.removeprefix(prefix)) for prefix in wanted if name.startswith(prefix))
        return
    for at, letter in enumerate(name):
        if letter in "./":
            yield name[: at + 1], name[at + 1 :]


def _fit(pairs: Sequence[tuple[str, str]], target: Shapes, source: Shapes) -> tuple[int, int]:
    """How many pairs have one shape, and how many there are."""
    return sum(target[mine] == source[theirs] for mine, theirs in pairs), len(pairs)


def _contradict(groups: Sequence[Sequence[tuple[str, str]]]) -> bool:
    """Whether two prefixes give one tensor two partners."""
    seen: dict[str, str] = {}
    back: dict[str, str] = {}
    for mine, theirs in (pair for pairs in groups for pair in pairs):
        if seen.setdefault(mine, theirs) != theirs or back.setdefault(theirs, mine) != mine:
            return True
    return False


def _by_order(target: Shapes, source: Shapes) -> Iterator[tuple[str, str]]:
    """Pairs of one shape in the order of both sides, leaving out as little as it can."""
    mine, theirs = list(target), list(source)
    shapes = [target[name] for name in mine], [source[name] for name in theirs]
    for first, second, size in SequenceMatcher(None, *shapes, autojunk=False).get_matching_blocks():
        yield from zip(mine[first : first + size], theirs[second : second + size], strict=True)
