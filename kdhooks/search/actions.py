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
from kdhooks.search.attention import attention_shown
from kdhooks.search.candidates import Candidate
from kdhooks.search.evaluating import Evaluating
from kdhooks.search.returned import metrics_of
from kdhooks.search.training import Training
from kdhooks.search.trial import Report, Rules, Stages
from kdhooks.search.weights import Weights

_PACKAGES = {"pytorch": "torch", "tensorflow": "tensorflow"}


class CandidateActions:
    """The actions of one search; see `kdhooks.search.trial.Actions`.

    Args:
        agent: the `AutoDistillation`, whose functions, teacher and data are used as they are set when they are needed.
        settings: of ``auto_distillation``.
        weights: the files of trained candidates.
        others: all candidates of the study, on the rank that has it.
    """

    def __init__(
        self,
        agent: Any,
        settings: AutoDistillationSettings,
        weights: Weights,
        others: Callable[[], Sequence[Candidate]],
    ) -> None:
        self._agent, self._settings, self._weights, self._others = agent, settings, weights, others
        self._training = Training(agent, settings)
        self._evaluating = Evaluating(agent, settings)
        self._inputs: Any = None

    @property
    def rules(self) -> Rules:
        """What holds for candidates, with the functions that are set now."""
        search, agent = self._settings.search, self._agent
        judged, trained = agent.eval_func is not None, agent.train_func is not None
        return Rules(search.metrics, search.limits, trained=trained, judged=judged)

    def build(self, arch: Mapping[str, Any], seed: int) -> Any:
        """A new model, from generators with this seed."""
        if self._agent.model_builder is None:
            raise UsageError("no model_builder is set: it is called with an architecture and returns the model")
        seeded = backends(self._agent)
        for backend in seeded:
            backend.seed(seed)
        model = self._agent.model_builder(dict(arch))
        if framework_of(model) is not None and backend_of(model) not in seeded:  # the builder has loaded it
            backend_of(model).seed(seed)
            model = self._agent.model_builder(dict(arch))
        return model

    def train(self, model: Any, report: Report) -> tuple[Any, Stages]:
        """The trained model, and what its stages did."""
        if self._agent.train_func is None:
            with attention_shown(self._settings, (model, *teachers_by_name(self._agent.teacher_model).values())):
                return self._training(model, report)
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
        names = self._settings.search.metrics
        if self._agent.eval_func is None:
            wanted = [name for name in names if name not in MEASURED]
            return self._evaluating(model, wanted) if wanted else {}
        with backend_of(model).evaluation_mode(model):
            returned = self._agent.eval_func(model)
        return metrics_of(returned, names)

    def measure(self, model: Any, names: Sequence[str]) -> Mapping[str, Any]:
        """What the model costs, by name."""
        backend = backend_of(model)
        return backend.measure(model, self._example(backend), names, self._settings.measure)

    def keep(self, model: Any, candidate: Candidate) -> str | None:
        """Write the weights where they are worth it; the file."""
        return self._weights.keep(model, candidate, self._others())

    def _example(self, backend: Backend) -> Any:
        """What the program has set, or the first batch of the data; read once."""
        if self._agent.example_inputs is not None:
            return self._agent.example_inputs
        if self._inputs is None:
            conf = self._evaluating.conf
            train, evaluation = conf.settings.distillation.train, conf.settings.evaluation
            sources = (
                self._agent.eval_dataloader,
                evaluation.dataloader if evaluation is not None else None,
                self._agent.train_dataloader,
                train.dataloader,
            )
            source = next((one for one in sources if one is not None), None)
            self._inputs = None if source is None else backend.first_inputs(source, conf)
        return self._inputs


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
