"""What a search does with every candidate: build, train, judge, measure, keep its weights.

Rules: the user's functions are asked first, and what they leave out comes from the configuration. Whatever serves
all candidates is made once: the teacher, the data, the batch for measuring.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kdhooks.backend import Backend, backend_of, framework_of, load_backend
from kdhooks.config.search_settings import MEASURED, AutoDistillationSettings
from kdhooks.criterion import teachers_by_name
from kdhooks.errors import UsageError
from kdhooks.search.measured import inputs_for
from kdhooks.search.studies.study import Proposal
from kdhooks.search.trials.attention import attention_shown
from kdhooks.search.trials.evaluating import Evaluating
from kdhooks.search.trials.returned import metrics_of
from kdhooks.search.trials.training import Training
from kdhooks.search.trials.trial import Report, Rules, Stages

_PACKAGES = {"pytorch": "torch", "tensorflow": "tensorflow"}


class CandidateActions:
    """The actions of one search; see `kdhooks.search.trials.trial.Actions`.

    Args:
        agent: the `AutoDistillation`, whose functions, teacher and data are used as they are set when they are needed.
        settings: of ``auto_distillation``.
        key: what tells architectures apart.
    """

    def __init__(
        self,
        agent: Any,
        settings: AutoDistillationSettings,
        key: Callable[[Mapping[str, Any]], str],
    ) -> None:
        self._agent, self._settings, self._key = agent, settings, key
        self._evaluating = Evaluating(agent, settings)
        self._training = Training(agent, settings, self._evaluating)
        self._inputs: Any = None

    @property
    def rules(self) -> Rules:
        """What holds for candidates, with the functions that are set now."""
        search, agent = self._settings.search, self._agent
        judged, trained = agent.eval_func is not None, agent.train_func is not None
        return Rules(search.metrics, search.limits, trained=trained, judged=judged)

    def build(self, proposal: Proposal) -> Any:
        """A new model, from generators with the proposal's seed."""
        if self._agent.model_builder is None:
            raise UsageError("no model_builder is set: it is called with an architecture and returns the model")
        seeded = backends(self._agent)
        for backend in seeded:
            backend.seed(proposal.seed)
        model = self._agent.model_builder(dict(proposal.arch))
        if framework_of(model) is not None and backend_of(model) not in seeded:  # the builder has loaded it
            backend_of(model).seed(proposal.seed)
            model = self._agent.model_builder(dict(proposal.arch))
        return model

    def prepare(self, model: Any) -> None:
        """Make ready what judges the model."""
        if self._agent.eval_func is None and self._wanted:
            self._evaluating.check(model, self._wanted)

    def train(self, model: Any, proposal: Proposal, report: Report) -> tuple[Any, Stages]:
        """The trained model, and what its stages did."""
        if self._agent.train_func is None:
            with attention_shown(self._settings, (model, *teachers_by_name(self._agent.teacher_model).values())):
                return self._training(model, proposal.seed, self._key(proposal.arch), report)
        with self._agent.reporting(report):
            returned = self._agent.train_func(model)
        if returned is None:
            return model, ()
        if framework_of(returned) is None:
            kind = type(returned).__name__
            raise UsageError(f"train_func returned an object of type {kind}: it must return the model, or nothing")
        return returned, ()

    def judge(self, model: Any) -> dict[str, float]:
        """Metrics by name; without `eval_func` those that the configuration's evaluation gives."""
        if self._agent.eval_func is None:
            return self._evaluating(model, self._wanted) if self._wanted else {}
        with backend_of(model).evaluation_mode(model):
            returned = self._agent.eval_func(model)
        return metrics_of(returned, self._settings.search.metrics)

    def measure(self, model: Any, names: Sequence[str]) -> Mapping[str, Any]:
        """What the model costs, by name."""
        backend = backend_of(model)
        if self._agent.train_func is None:  # the loop would move it, and it is measured once before and once after
            backend.place(model, self._agent.config)
        return backend.measure(model, self._example(backend), names, self._settings.measure)

    def done(self) -> None:
        """Let others begin with the blocks that the candidate has learned."""
        self._training.commit()

    def _example(self, backend: Backend) -> Any:
        """What the program has set, or the first batch of the data; read once."""
        if self._agent.example_inputs is not None:
            return self._agent.example_inputs
        if self._inputs is None:
            conf = self._evaluating.conf_with()
            train, evaluation = conf.settings.distillation.train, conf.settings.evaluation
            evaluated = None if evaluation is None else evaluation.dataloader
            loaders = (self._evaluating.loader, evaluated, self._agent.train_dataloader, train.dataloader)
            self._inputs = inputs_for(backend, conf, None, *loaders)
        return self._inputs

    @property
    def _wanted(self) -> list[str]:
        """The metrics that an evaluation has to give."""
        return [name for name in self._settings.search.metrics if name not in MEASURED]


def backends(agent: Any) -> list[Backend]:
    """The backends whose generators a candidate may draw from.

    That of the configuration or the teacher; without either those of all frameworks that the program has loaded.
    """
    named = agent.config.settings.model.framework
    if named is not None:
        return [load_backend(named)]
    teachers = teachers_by_name(agent.teacher_model)
    if teachers:
        return [backend_of(next(iter(teachers.values())))]
    return [load_backend(framework) for framework, package in _PACKAGES.items() if package in sys.modules]


@contextmanager
def generators_kept(agent: Any) -> Iterator[None]:
    """Whatever is drawn within the block is given back afterwards."""
    before = [(backend, backend.rng_state()) for backend in backends(agent)]
    try:
        yield
    finally:
        for backend, state in before:
            backend.set_rng_state(state)
