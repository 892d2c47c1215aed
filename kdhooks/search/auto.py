"""`AutoDistillation`, the object that a user holds: joins the study, the trials and what a user sets.

What happens to a candidate is in `trial` and `actions`, what is proposed in `study`, when it ends in `course`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdhooks.backend import backend_of
from kdhooks.config.model import Settings
from kdhooks.errors import UsageError
from kdhooks.messages import logger
from kdhooks.search.candidates import Candidate
from kdhooks.search.proposals.advisor import Advisor
from kdhooks.search.proposals.space import Space
from kdhooks.search.results.result import SearchResult
from kdhooks.search.studies.study import Proposal, Study
from kdhooks.search.trials.actions import CandidateActions, backends, generators_kept
from kdhooks.search.trials.agent import Agent
from kdhooks.search.trials.course import Course
from kdhooks.search.trials.identity import identity_of
from kdhooks.search.trials.together import Together, joined
from kdhooks.search.trials.trial import Report
from kdhooks.search.trials.weights import Weights

MEMORY = "memory"
"""The storage that ends with its study."""


class AutoDistillation(Agent):
    """Searches for the architecture of the student, distils each candidate, and tells the best one.

    Args:
        model_builder: called with an architecture, a dict of parameters by name; returns a new model. An attribute
            ``identity`` of it, plain data by name, tells studies of different builders apart.
        conf: the path of a YAML file, a dict of the same form or of the classic one, or a `DistillationConf`. It and
            `model_builder` may come in either order.
        teacher_model: one model, a list of models, or a mapping of models by name, that all candidates learn from.
        train_func: called with a model; trains it and returns it or nothing. None takes the configuration's stages.
        eval_func: called with a trained model in evaluation mode; returns a number, several in the order of
            ``metrics``, or a mapping by name. Metrics that are measured on the model itself may be left out.
            None takes the configuration's evaluation.

    Attributes:
        train_dataloader, eval_dataloader: the data of training and evaluation; None takes the configuration's.
        example_inputs: inputs of one row or more, on which latency and the like are measured; None takes the data's.

    Example:
        >>> import tempfile, torch
        >>> from kdhooks import AutoDistillation
        >>> search = {"search_space": {"width": [2, 4, 8]}, "search_algorithm": "Grid", "storage": "memory"}
        >>> agent = AutoDistillation(
        ...     lambda arch: torch.nn.Linear(arch["width"], 1),
        ...     {"auto_distillation": {"search": {**search, "keep_weights": "none"}}},
        ...     train_func=lambda model: None,
        ...     eval_func=lambda model: -abs(model.in_features - 4),
        ... )
        >>> agent.search_loop()
        {'width': 4}
        >>> len(agent.search_result)
        3
    """

    _report: Report | None = None
    _settled: Settings | None = None  # of the course

    def search_loop(self) -> dict[str, Any] | None:
        """Propose, train and record candidates until trials, time or the space are used up.

        Candidates that the study knows already count. Where a process is killed another one takes its candidate up,
        so calling this again goes on, and several processes with one storage share the work.

        Returns:
            The best architecture; None where no candidate is complete.

        Raises:
            ConfigError, UsageError, DataError: a mistake that every candidate would make; nothing recorded is lost.
            MissingPackageError: Optuna, or what the storage needs, is not installed.
        """
        with self._working() as (course, together):
            while (proposal := course.next(together)) is not None:
                self._work_off(course, proposal, together)
            course.look(together)
        best = self.best_model_arch
        if best is None:
            logger.warning("no candidate is complete, so there is no best one: %s", self.search_result)
        return best

    search = search_loop

    def model_arch_proposition(self) -> dict[str, Any] | None:
        """The architecture that should be tried next; `train_evaluate` tries it.

        Returns:
            Its parameters by name; None where trials, time or the space are used up.
        """
        with self._working(closes=False) as (course, together):
            proposal = course.propose(together)
        return None if proposal is None else dict(proposal.arch)

    def train_evaluate(self, arch: Mapping[str, Any]) -> dict[str, float]:
        """Build, train, measure and record the candidate of an architecture.

        Args:
            arch: one that `model_arch_proposition` returned, or any other of the space. What has been tried before is
                not trained again.

        Returns:
            The metrics of the search by name, in their order; NaN where a candidate ended before it. Why it did so is
            its ``reason`` in `search_result`.

        Raises:
            UsageError: the architecture does not belong to the space.
            ConfigError, UsageError, DataError: a mistake that every candidate would make; see `search_loop`.
        """
        if not isinstance(arch, Mapping):
            raise UsageError(f"train_evaluate takes an architecture, a dict of parameters by name, not {arch!r:.80}")
        with self._working(closes=False) as (course, together):
            found = course.proposal_of(arch, together)
            candidate = found if isinstance(found, Candidate) else self._work_off(course, found, together)
        return {name: candidate.metrics.get(name, math.nan) for name in self.settings.search.metrics}

    def report(self, step: int, score: float) -> None:
        """Give the pruner a score of the model that `train_func` is training; without a pruner nothing happens.

        Args:
            step: counted from 0: the number of the epoch.
            score: the first metric of the search.

        Raises:
            kdhooks.search.trials.endings.Ended: the pruner ends this candidate; leave it to the search.
            UsageError: no candidate is being trained.
        """
        if self._report is None:
            raise UsageError("report() is for train_func, while the search trains a candidate")
        if self.settings.search.pruner is not None:
            self._report(step, score)

    def best_model(self) -> Any:
        """A model of the best architecture with the weights that its candidate was judged with.

        Raises:
            UsageError: no candidate is complete, or its weights were not kept.
            DataError: the file of weights is gone.
        """
        with self._working() as (course, together):
            course.look(together)
            best = self.search_result.best
            if best is None:
                raise UsageError("no candidate is complete yet, so there is no best model: search_loop() comes first")
            if best.weights is None:
                keep = self.settings.search.keep_weights
                raise UsageError(f"the weights of candidate {best.number} were not kept: keep_weights is {keep!r}")
            model = self.model_builder(dict(best.arch))
            backend_of(model).read_weights(model, Path(best.weights))
        return model

    def look(self) -> SearchResult:
        """Read what the study holds, also from earlier runs and other machines; nothing is proposed or trained."""
        with self._working() as (course, together):
            course.look(together)
        return self.search_result

    # ---- inside ------------------------------------------------------------------------------------

    @contextmanager
    def reporting(self, report: Report) -> Iterator[None]:
        """Within the block `report` gives scores of the candidate that is being trained."""
        self._report = report
        try:
            yield
        finally:
            self._report = None

    @contextmanager
    def _working(self, *, closes: bool = True) -> Iterator[tuple[Course, Together]]:
        """Within the block the ranks are one group, and the program's generators are afterwards as before."""
        course = self._opened()
        with generators_kept(self), joined(backends(self)) as together:
            try:
                yield course, together
            finally:
                if closes and self.settings.search.storage != MEMORY:  # which would be lost
                    self.close()

    def _opened(self) -> Course:
        """The course of the configuration, which may have been changed since the last call."""
        if self._course is None or self._settled is not self.config.settings:
            self.close()
            self._settled = self.config.settings
            search = self.settings.search
            weights = Weights(self.folder / "weights", search)
            space = Space(search.search_space, search.relations)
            actions = CandidateActions(self, self.settings, space.key)
            self._course = Course(self._open_study, space, search, weights, actions)
        return self._course

    def _open_study(self) -> Study:
        search = self.settings.search
        space = Space(search.search_space, search.relations)
        identity = identity_of(self.settings, self.config.settings.distillation.train)
        built = getattr(self.model_builder, "identity", {})
        study = Study(self.config, space=space, settings=search, identity={**identity, **built})
        if self._sampler is not None:
            study.advisor = Advisor(space, search, self._sampler)
        return study

    def _work_off(self, course: Course, proposal: Proposal, together: Together) -> Candidate:
        self._result = self._best_arch = None
        return course.work_off(proposal, together)
