"""A study: proposes candidates, remembers them, and outlives every worker.

It is an ordinary study of Optuna's, which the Optuna Dashboard can open: one trial for each candidate with its
parameters, values and state, and stubs of workers that died. Ours are the user attributes ``worker``, ``beat``,
``claim``, ``candidate`` and ``released``.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.config.search_settings import SearchSettings
from kdhooks.errors import UsageError
from kdhooks.messages import logger
from kdhooks.search.candidates import Candidate
from kdhooks.search.proposals.advisor import Advisor, check_fits
from kdhooks.search.proposals.seeds import seed_of
from kdhooks.search.proposals.space import Arch, Space
from kdhooks.search.studies.book import Entry
from kdhooks.search.studies.claims import DEATHS, Claims, candidates_of, deaths, next_number, orphans, values_of
from kdhooks.search.studies.opening import description, open_book
from kdhooks.search.studies.pruning import courses_of, is_hopeless
from kdhooks.search.studies.records import usable
from kdhooks.search.studies.storages import opened
from kdhooks.search.studies.workers import Heart, Watch, myself, shown

_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0  # seconds between two looks at the last candidates of other workers


@dataclass(frozen=True)
class Proposal:
    """A candidate to train.

    Attributes:
        number: in the order of proposals, counted from 0; the same again after its worker died.
        arch: the parameters for the model builder.
        seed: of its training, a function of the search's seed and the architecture alone.
    """

    number: int
    arch: Mapping[str, Any]
    seed: int


class Study:
    """A study that this process works on, perhaps with others.

    Args:
        conf: whose folder holds the default journal, and whose lines messages show.
        space: what is searched.
        settings: of the search.
        identity: what else makes it this search; a study with another one is refused.

    Attributes:
        advisor: proposes architectures; may be replaced by anything with its method `propose`.
        name: of the study in its storage.
        url: of the storage, without a password.

    Raises:
        ConfigError: the storage can't be opened, its study is of another search, or the algorithm or pruner can't
            be used for it.
        MissingPackageError: Optuna, a driver, or what the algorithm needs is not installed.

    >>> from kdhooks.config.search_settings import Choices
    >>> settings = SearchSettings(search_algorithm="Grid", storage="memory")
    >>> with Study(DistillationConf(), space=Space([Choices("width", (8, 16))]), settings=settings) as study:
    ...     proposal = study.propose()
    ...     done = study.finish(proposal, Candidate(proposal.number, proposal.arch, "complete", {"accuracy": 0.9}))
    ...     [candidate.metrics["accuracy"] for candidate in study.candidates()]
    [0.9]
    """

    def __init__(
        self,
        conf: DistillationConf,
        *,
        space: Space,
        settings: SearchSettings,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        check_fits(conf, space, settings)
        self._space, self._settings = space, settings
        self.advisor = Advisor(space, settings)
        self.name = settings.study_name or conf.settings.model.name
        self._storage = opened(conf, settings.storage)
        self.url = self._storage.url
        try:
            described = description(space, settings, identity or {})
            self._book = open_book(conf, self._storage, self.name, settings, described)
        except BaseException:
            self._storage.close()
            raise
        self._worker = myself(settings.heartbeat)
        self._claims = Claims(self._book, self._worker, Watch(), settings.metrics)
        self._heart = Heart(self._book.give_sign, settings.heartbeat)
        self._held: dict[int, int] = {}  # trials of this process by the numbers of their candidates
        self._begin = time.monotonic()
        self._is_exhausted = False
        self._deaths: Mapping[int, int] = {}  # of each candidate, when the last one was chosen
        weakref.finalize(self, self._heart.stop)  # signs of life of a forgotten study would be lies

    def propose(self) -> Proposal | None:
        """What to train next; None when trials, space or time are used up.

        A worker for whom nothing is left waits until the others have finished, and takes up the candidate of one
        that dies.
        """
        wait = _FIRST_WAIT
        while not self._is_late():
            entries = self._claims.entries()
            if self._has_work(entries):
                proposal = self._take()
                if proposal is not None and not self._is_deadly(proposal):
                    return proposal
                continue
            others = [each for each in entries if each.running and not self._claims.is_mine(each)]
            if not others:
                return None
            if wait == _FIRST_WAIT:
                logger.info("waiting for the last candidates of other workers: %s", _workers(others))
            time.sleep(wait)
            wait = min(1.5 * wait, _LONGEST_WAIT)
        return None

    def given(self, arch: Mapping[str, Any]) -> Proposal:
        """A candidate that the user chose; it counts as others do.

        Raises:
            UsageError: the architecture is not in the space, or has been taken already.
        """
        proposal = self._take(self._space.check(arch))
        assert proposal is not None  # only a search that chooses can have nothing left
        return proposal

    def finish(self, proposal: Proposal, candidate: Candidate) -> Candidate:
        """Record what came of a proposal.

        Returns:
            The candidate as it is recorded. One without a usable number for each metric is `failed`.

        Raises:
            UsageError: this study has not made that proposal, or it is finished.
        """
        trial_id = self._trial_of(proposal)
        candidate = replace(candidate, number=proposal.number, arch=dict(proposal.arch), worker=shown(self._worker))
        scores = self._book.entry(trial_id).scores if candidate.state == "pruned" else {}
        candidate = usable(candidate, self._settings.metrics, scores)
        is_recorded = self._book.finish(trial_id, candidate, values_of(candidate, self._settings.metrics))
        self._heart.end(trial_id)
        del self._held[proposal.number]
        if not is_recorded:
            message = "candidate %d was given to another worker, which took this one for dead; its result is dropped"
            logger.warning(message, candidate.number)
        return candidate

    def candidates(self) -> list[Candidate]:
        """All candidates, finished and running, of all workers, by number."""
        return candidates_of(self._claims.entries())

    def report(self, proposal: Proposal, step: int, score: float) -> bool:
        """Tell a candidate's score after an epoch; whether it should end now.

        Args:
            proposal: in training.
            step: number of the epoch, counted from 0.
            score: of the first metric.
        """
        trial_id = self._trial_of(proposal)
        self._book.score(trial_id, step, float(score))
        pruner = self._settings.pruner
        if pruner is None:
            return False
        courses = courses_of(self._book.entries(), trial_id)
        is_over, rungs = is_hopeless(pruner, self._settings.higher_is_better[0], courses, proposal.number)
        self._book.note_rungs(trial_id, rungs)
        return is_over

    def close(self) -> None:
        """Give back what is not finished, for the next worker, and the storage's connections."""
        self._heart.stop()
        held, self._held = self._held, {}
        for trial_id in held.values():
            self._book.release(trial_id)
            self._claims.end(self._book.entry(trial_id))
        self._storage.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _take(self, arch: Arch | None = None) -> Proposal | None:
        """A ticket and the claim of what is to be trained; None where nothing is left by then."""
        trial_id = self._book.take_ticket(self._worker)
        self._heart.begin(trial_id)
        try:
            entries = self._claims.wait_for_turn(trial_id)
            claim = self._choose(entries) if arch is None else self._chosen(entries, arch)
            if claim is None:
                self._withdraw(trial_id)
                return None
            number, arch = claim
            self._book.claim(trial_id, number, arch)
            self._held[number] = trial_id
        except BaseException:
            self._withdraw(trial_id)
            raise
        shown_axes = {name: self._space.axes[name].shown_distribution() for name in arch}
        self._book.show(trial_id, {name: (arch[name], axis) for name, axis in shown_axes.items()})
        return Proposal(number, dict(arch), seed_of("train", self._settings.seed, self._space.key(arch)))

    def _withdraw(self, trial_id: int) -> None:
        self._heart.end(trial_id)
        self._book.end(self._book.entry(trial_id))

    def _choose(self, entries: Sequence[Entry]) -> tuple[int, Arch] | None:
        """The number and architecture of an orphan, or of something new."""
        self._deaths = deaths(entries)
        for orphan in orphans(entries):
            assert orphan.number is not None
            logger.info("candidate %d is taken up again", orphan.number)
            return orphan.number, dict(orphan.arch)
        number = next_number(entries)
        if self._is_enough(number):
            return None
        arch = self.advisor.propose(number, candidates_of(entries))
        self._is_exhausted = arch is None
        return None if arch is None else (number, arch)

    def _chosen(self, entries: Sequence[Entry], arch: Arch) -> tuple[int, Arch]:
        """The number of an architecture that the user chose."""
        key = self._space.key(arch)
        for candidate in candidates_of(entries):
            if self._space.key(candidate.arch) == key:
                raise UsageError(f"the architecture {key} is candidate {candidate.number} already ({candidate.state})")
        for orphan in orphans(entries):
            if self._space.key(orphan.arch) == key:
                assert orphan.number is not None
                return orphan.number, arch
        return next_number(entries), arch

    def _has_work(self, entries: Sequence[Entry]) -> bool:
        """Whether it is worth taking a ticket."""
        if orphans(entries):
            return True
        is_exhausted = self._is_exhausted or not self._space.exceeds(len(candidates_of(entries)))
        return not is_exhausted and not self._is_enough(next_number(entries))

    def _is_deadly(self, proposal: Proposal) -> bool:
        """Whether too many workers died of a candidate; it is recorded as failed then."""
        died = self._deaths[proposal.number]
        if died < DEATHS:
            return False
        reason = f"{died} workers died while they trained it"
        self.finish(proposal, Candidate(proposal.number, proposal.arch, "failed", reason=reason))
        return True

    def _is_enough(self, number: int) -> bool:
        most = self._settings.max_trials
        return most is not None and number >= most

    def _is_late(self) -> bool:
        timeout = self._settings.timeout
        return timeout is not None and time.monotonic() - self._begin >= timeout

    def _trial_of(self, proposal: Proposal) -> int:
        if proposal.number not in self._held:
            number = proposal.number
            raise UsageError(f"candidate {number} is not in training here: it is finished, or not of this study")
        return self._held[proposal.number]


def _workers(entries: Sequence[Entry]) -> str:
    return ", ".join(sorted({shown(each.worker) for each in entries}))
