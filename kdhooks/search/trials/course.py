"""A study under way in this process: what it proposes, who is being trained, and when all of it must end.

Rules: the study is on rank 0, and the other ranks hear what it says. A proposal whose trial is interrupted stays
open in the study and is taken up again.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from kdhooks.config.search_settings import SearchSettings
from kdhooks.errors import UsageError
from kdhooks.measurement import shown
from kdhooks.messages import logger
from kdhooks.search.candidates import Candidate
from kdhooks.search.proposals.space import Space
from kdhooks.search.studies.study import Proposal, Study
from kdhooks.search.trials.actions import CandidateActions
from kdhooks.search.trials.together import Together
from kdhooks.search.trials.trial import Trial
from kdhooks.search.trials.weights import Weights

_STATES = {"infeasible": "is infeasible", "pruned": "was pruned"}
SAME_FAILURES = 5
"""So many candidates that fail in the same way, with none trained before them, end a search."""


class Course:
    """A study and the candidates that this process works on.

    Args:
        open_study: opens it; called on rank 0, when it is needed first.
        space: what is searched.
        settings: of the search.
        weights: the files of trained candidates.
        actions: what is done with every candidate.
    """

    def __init__(
        self,
        open_study: Callable[[], Study],
        space: Space,
        settings: SearchSettings,
        weights: Weights,
        actions: CandidateActions,
    ) -> None:
        self.space, self.weights = space, weights
        self._open_study, self._settings, self._actions = open_study, settings, actions
        self._study: Study | None = None
        self._open: dict[str, Proposal] = {}
        self._known: list[Candidate] = []
        self._reasons: list[str] = []
        self._trained = False

    @property
    def study(self) -> Study:
        """The study, opened."""
        if self._study is None:
            self._study = self._open_study()
        return self._study

    @property
    def candidates(self) -> list[Candidate]:
        """All of the study as far as this process knows them; a closed one is not opened for it."""
        if self._study is not None:
            self._known = self._study.candidates()
        return self.weights.current(self._known)

    def next(self, together: Together) -> Proposal | None:
        """A proposal that is open here, or a new one; None where the search is over."""
        return next(iter(self._open.values()), None) or self.propose(together)

    def propose(self, together: Together) -> Proposal | None:
        """A new proposal; None where the search is over."""
        found = together.led(self._proposed)
        return None if found is None else self._opened(found)

    def proposal_of(self, arch: Mapping[str, Any], together: Together) -> Proposal | Candidate:
        """The proposal of an architecture, made where there is none; its candidate where it has been tried."""
        arch = self.space.check(arch)
        key = self.space.key(arch)
        if key in self._open:
            return self._open[key]
        self.look(together)
        for candidate in self._known:
            if candidate.state != "running" and self.space.key(candidate.arch) == key:
                return candidate
        found = together.led(lambda: _plain(self.study.given(arch)))
        return self._opened(found)

    def look(self, together: Together) -> None:
        """Let every rank know the candidates of the study."""
        found = together.led(lambda: [one.as_dict() for one in self.study.candidates()])
        self._known = [Candidate.from_dict(one) for one in found]

    def work_off(self, proposal: Proposal, together: Together) -> Candidate:
        """Train and record a candidate.

        Raises:
            KDHooksError: a mistake that the next candidate would make too; the proposal stays open.
        """
        rules = replace(self._actions.rules, lenient=self._trained)
        trial = Trial(proposal, rules, self._actions, together, self._prunes, self._keep)
        candidate = trial.run()
        if trial.lingers:  # Keras' models hold themselves in a circle, and so does much that failed
            gc.collect()
        recorded = together.led(lambda: self.study.finish(proposal, candidate).as_dict())
        candidate = Candidate.from_dict(recorded)
        del self._open[self.space.key(proposal.arch)]
        self._known.append(candidate)
        if together.leads:
            self.weights.remove_beaten(self.study.candidates())
        logger.info("%s", line_of(candidate, self._settings))
        self._end_where_all_fail(candidate)
        return candidate

    def close(self) -> None:
        """Leave the study; what is open stays open in it, for whoever comes next."""
        if self._study is not None:
            given_back = {proposal.number for proposal in self._open.values()}
            self._known = [one for one in self._study.candidates() if one.number not in given_back]
            self._study.close()
            self._study = None
        self._open.clear()
        self._reasons.clear()

    def _proposed(self) -> dict[str, Any] | None:
        proposal = self.study.propose()
        return None if proposal is None else _plain(proposal)

    def _prunes(self, proposal: Proposal, step: int, score: float) -> bool:
        return self.study.report(proposal, step, score)

    def _keep(self, model: Any, candidate: Candidate) -> str | None:
        return self.weights.keep(model, candidate, self.study.candidates())

    def _opened(self, found: Mapping[str, Any]) -> Proposal:
        proposal = Proposal(**found)
        self._open[self.space.key(proposal.arch)] = proposal
        return proposal

    def _end_where_all_fail(self, candidate: Candidate) -> None:
        """The one way in which failing candidates end a search: all of the first ones say the same."""
        self._trained = self._trained or candidate.state in ("complete", "pruned")
        if candidate.state != "failed":
            self._reasons.clear()
        else:
            self._reasons.append(candidate.reason)
        if not self._trained and len(self._reasons) == SAME_FAILURES and len(set(self._reasons)) == 1:
            raise UsageError(
                f"the first {SAME_FAILURES} candidates failed in the same way, so the search ends: {candidate.reason}. "
                "They are recorded, and another search goes on with the next one"
            )


def line_of(candidate: Candidate, settings: SearchSettings) -> str:
    """A candidate in one line, for people who watch.

    >>> settings = SearchSettings(metrics=("accuracy", "latency"), higher_is_better=(True, False))
    >>> line_of(Candidate(3, {"width": 8}, "complete", {"accuracy": 0.912, "latency": 0.0041}, seconds=12.3), settings)
    'candidate 3 (width 8): accuracy 0.912, latency 4.1 ms; 12.3 s'
    >>> line_of(Candidate(4, {"width": 9}, "failed", reason="accuracy is NaN", seconds=0.5), settings)
    'candidate 4 (width 9) failed: accuracy is NaN; 0.5 s'
    """
    arch = ", ".join(f"{name} {value}" for name, value in candidate.arch.items())
    begin, end = f"candidate {candidate.number} ({arch})", f"; {candidate.seconds:.1f} s"
    if candidate.state != "complete":
        return f"{begin} {_STATES.get(candidate.state, candidate.state)}: {_first_line(candidate.reason)}{end}"
    values = [f"{name} {shown(name, candidate.metrics[name])}" for name in settings.metrics]
    return f"{begin}: {', '.join(values)}{end}"


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0]


def _plain(proposal: Proposal) -> dict[str, Any]:
    """A proposal as other ranks hear it."""
    return {"number": proposal.number, "arch": dict(proposal.arch), "seed": proposal.seed}
