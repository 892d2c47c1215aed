"""Who trains what, among all workers of a study, with nothing but the study's storage between them.

It is Lamport's bakery: a worker takes a ticket, waits until every earlier ticket has its claim or its worker is dead,
chooses, and writes its own claim. So choosing goes one by one, everybody sees all earlier claims, and no lock can be
left behind by the dead. A candidate whose worker died is taken up again before anything new is proposed, under its
own number: with one worker, a search that was killed proposes the same as one that was not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdhooks.messages import logger
from kdhooks.search.candidates import Candidate
from kdhooks.search.studies.book import Book, Entry
from kdhooks.search.studies.workers import Watch, shown

DEATHS = 12
"""A candidate that so many workers died of is recorded as failed."""


_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.25  # seconds between two looks at the tickets before one's own


class Claims:
    """The claims of a study.

    Args:
        book: of the study.
        worker: this one, as `workers.myself` describes it.
        watch: tells who is dead.
        metrics: whose values a finished candidate has.
    """

    def __init__(self, book: Book, worker: Mapping[str, Any], watch: Watch, metrics: Sequence[str]) -> None:
        self._book, self._worker, self._watch, self._metrics = book, worker, watch, metrics

    def entries(self) -> list[Entry]:
        """All tickets, after those of dead workers have been ended."""
        entries = self._book.entries()
        dead = [each for each in entries if each.running and self._is_dead(each)]
        for each in dead:
            if each.number is not None and each.record is None:
                logger.info("the worker %s died with candidate %d", shown(each.worker), each.number)
            self.end(each)
        return self._book.entries() if dead else entries

    def wait_for_turn(self, trial_id: int) -> list[Entry]:
        """All tickets, once every one before that of the given trial has a claim or has ended."""
        wait = _FIRST_WAIT
        while True:
            entries = self.entries()
            ticket = next(each.ticket for each in entries if each.trial_id == trial_id)
            before = [each for each in entries if each.running and each.number is None and each.ticket < ticket]
            for each in filter(self.is_mine, before):  # taken by a call whose answer was lost
                self.end(each)
            if not before:
                return entries
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def is_mine(self, entry: Entry) -> bool:
        """Whether a ticket was taken through this object."""
        return bool(entry.worker["token"] == self._worker["token"])

    def end(self, entry: Entry) -> None:
        """End a ticket that nobody works on; a record that stands there makes it a finished candidate."""
        self._book.end(entry, None if entry.record is None else values_of(entry.candidate(), self._metrics))

    def _is_dead(self, entry: Entry) -> bool:
        return not self.is_mine(entry) and self._watch.is_dead(entry.trial_id, entry.worker, entry.beat)


def candidates_of(entries: Iterable[Entry]) -> list[Candidate]:
    """The candidates, finished and running, in the order of their numbers."""
    found: dict[int, Entry] = {}
    for each in sorted(entries, key=lambda entry: (entry.record is None, entry.ticket)):
        if each.number is not None and not each.stub:
            found.setdefault(each.number, each)  # a finished one counts, and of two the earlier
    return [found[number].candidate() for number in sorted(found)]


def orphans(entries: Iterable[Entry]) -> list[Entry]:
    """Stubs of candidates that nobody has taken up again, in the order of their numbers."""
    entries = list(entries)
    held = {each.number for each in entries if not each.stub}
    left: dict[int, Entry] = {}
    for each in entries:
        if each.stub and each.number is not None and each.number not in held:
            left[each.number] = each
    return [left[number] for number in sorted(left)]


def deaths(entries: Iterable[Entry]) -> Counter[int]:
    """How many workers have died with each candidate."""
    return Counter(each.number for each in entries if each.stub and each.number is not None and not each.released)


def next_number(entries: Iterable[Entry]) -> int:
    """The number of the next new candidate."""
    return max((each.number for each in entries if each.number is not None), default=-1) + 1


def values_of(candidate: Candidate, metrics: Sequence[str]) -> list[float] | None:
    """What the study shows as a candidate's values; None for one that has none."""
    if candidate.state not in ("complete", "pruned"):
        return None
    if any(metric not in candidate.metrics for metric in metrics):
        return None
    return [candidate.metrics[metric] for metric in metrics]
