"""Compares spellings: one rule for every table of names, and the suggestions of error messages.

``difflib`` alone ranks ``conv1`` above ``layer3.1.conv2`` for ``conv2``; the end of a dotted name
says more than its beginning, so names that end alike come first here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from kdhooks.errors import UsageError

Entry = TypeVar("Entry")


def fold(name: str) -> str:
    """The spelling that names are compared by: lower case, without ``_``, ``-``, spaces and dots.

    >>> fold("reverse_KL") == fold("Reverse-kl")
    True
    """
    return "".join(letter for letter in name.casefold() if letter not in "_- .")


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a user most likely meant, or None.

    >>> closest("conv2", ["conv1", "layer3.1.conv2"])
    'layer3.1.conv2'
    """
    names = list(known)
    by_fold = {fold(candidate): candidate for candidate in reversed(names)}
    if fold(name) in by_fold:
        return by_fold[fold(name)]
    tail = name.rsplit(".", 1)[-1]
    same_tail = [candidate for candidate in names if candidate.rsplit(".", 1)[-1] == tail]
    if same_tail:
        return max(same_tail, key=lambda candidate: difflib.SequenceMatcher(None, name, candidate).ratio())
    near = difflib.get_close_matches(fold(name), by_fold, n=1, cutoff=0.6)
    begun = sorted((spelling for spelling in by_fold if len(name) > 2 and spelling.startswith(fold(name))), key=len)
    return by_fold[(near or begun)[0]] if near or begun else None


def did_you_mean(name: str, known: Iterable[str], *, what: str = "Known names") -> str:
    """A suggestion for an unknown name: the closest one, or all there are.

    >>> did_you_mean("KLL", ["KL", "MSE"])
    "Did you mean 'KL'?"
    """
    names = sorted(set(known), key=str.casefold)
    near = closest(name, names)
    if near is not None:
        return f"Did you mean {near!r}?"
    return f"{what}: {', '.join(names)}" if names else ""


_WILD = re.compile(r"\*|\?|\[!?[^\]]+\]")


def pattern_of(text: str) -> re.Pattern[str]:
    """The names that a pattern means: a name with ``*``, ``?`` and ``[...]``, or ``re:`` and a regular expression.

    It must fit the whole name, or the name of something above it: ``layer1`` means all that is in it, and not
    ``layer10``. What stands between the parts of a name, ``.`` or ``/``, is fitted by ``*`` as well.

    Raises:
        re.error: no regular expression.

    >>> [name for name in ("layer1.0.weight", "layer10.0.weight") if pattern_of("layer1.*").fullmatch(name)]
    ['layer1.0.weight']
    """
    if text.startswith("re:"):
        body = text.removeprefix("re:")
    else:
        wild = [_wildcard(found[0]) for found in _WILD.finditer(text)] + [""]
        body = "".join(re.escape(plain) + sign for plain, sign in zip(_WILD.split(text), wild, strict=True))
    re.compile(body)  # an error counts its position from here
    return re.compile(f"(?:{body})(?:[./].*)?", re.DOTALL)


def _wildcard(sign: str) -> str:
    inner = sign[1:-1]
    return {"*": ".*", "?": "."}.get(sign) or f"[{'^' + inner[1:] if inner.startswith('!') else inner}]"


class Table(Generic[Entry]):
    """A public table of named things, case-insensitive, that a user may add to.

    Args:
        what: what the entries are, for messages: ``"loss"``, ``"dataset"``.

    >>> losses = Table[int]("loss")
    >>> losses.add("KL", 1, aliases=("kd",))
    >>> losses["kl"], losses["KD"], "MSE" in losses
    (1, 1, False)
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, Entry] = {}
        self._spelling: dict[str, str] = {}

    def add(self, name: str, entry: Entry, *, aliases: Iterable[str] = (), replace: bool = False) -> None:
        """Add an entry; UsageError where the name is taken and `replace` is False."""
        spellings = (name, *aliases)
        for spelling in spellings:  # all are checked before the first is added
            if not replace and fold(spelling) in self._spelling:
                raise UsageError(f"the {self.what} {spelling!r} exists already; pass replace=True to replace it")
        self._spelling.update((fold(spelling), name) for spelling in spellings)
        self._entries[name] = entry
        self._forget_unreachable()

    def _forget_unreachable(self) -> None:
        """Drop what `replace` left without a spelling of its own: an entry, and aliases of it."""
        gone = [name for name in self._entries if self._spelling[fold(name)] != name]
        for name in gone:
            del self._entries[name]
        self._spelling = {spelling: name for spelling, name in self._spelling.items() if name in self._entries}

    def register(self, name: str, *aliases: str) -> Callable[[Entry], Entry]:
        """`add` as a decorator."""

        def put(entry: Entry) -> Entry:
            self.add(name, entry, aliases=aliases)
            return entry

        return put

    def name(self, spelling: str) -> str | None:
        """The canonical name of a spelling, or None."""
        return self._spelling.get(fold(spelling))

    def __contains__(self, spelling: object) -> bool:
        return isinstance(spelling, str) and fold(spelling) in self._spelling

    def __getitem__(self, spelling: str) -> Entry:
        name = self.name(spelling)
        if name is None:
            suggestion = did_you_mean(spelling, self._entries)
            raise UsageError(f"unknown {self.what} {spelling!r}. {suggestion}".rstrip())
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> Iterable[tuple[str, Entry]]:
        """Canonical names and entries, in the order of registration."""
        return self._entries.items()
