"""Adapters on the student of one run: made, driven, trained and saved.

What an adapter owns is trained beside the student by `kdhooks_tf.matcher_training`, in the step of the loss.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.adaptation import WarmStart, a_distance
from kdhooks.config.layer_taps import LayerTap
from kdhooks.config.model import Named
from kdhooks.criterion import Step
from kdhooks.domains.criterion import AdaptationCriterion, check_names
from kdhooks.errors import CheckpointError, KDHooksError, LayerError, ModelError
from kdhooks.pairs.bound import Bound, say_made_later
from kdhooks.schedules import constant_value, parse_schedule
from kdhooks_tf.adaptation import ADAPTERS, Adapter, DomainBatch
from kdhooks_tf.clock import Clock
from kdhooks_tf.domains.both import BothDomains, Domain
from kdhooks_tf.domains.labels import labelled_loss
from kdhooks_tf.matcher_training import MatcherTraining, array_of
from kdhooks_tf.outputs import as_call
from kdhooks_tf.replicas import strategy_of
from kdhooks_tf.weighing import PRESENT, live_now, outside_branches

Tensor = Any


class Placed:
    """An adapter, and where on the student it looks.

    Attributes:
        adapter: made, and built at the first loss.
        taps: the layers whose features it compares.
    """

    def __init__(self, adapter: Adapter, taps: list[LayerTap]) -> None:
        self.adapter, self.taps = adapter, taps

    def batch(self, domain: Domain) -> DomainBatch:
        """What this adapter looks at in a domain."""
        return DomainBatch(tuple(domain.features[tap] for tap in self.taps), domain.logits, domain.labels)


class _Here(threading.local):
    """A step of this thread; replicas of a distribution strategy trace in threads of their own.

    Attributes:
        seen: the step, and both domains' batches.
        lives: for each adapter whether its weight is above 0; None where it surely is.
    """

    def __init__(self) -> None:
        self.seen: tuple[Step, Domain, Domain] | None = None
        self.lives: dict[int, Tensor | None] = {}


class StepCounter(Clock):
    """Counts steps of training, in Python or in the graph of a step."""

    def count(self, lives: Sequence[Tensor | None]) -> None:
        """One more step, where one of these is true or None."""
        now = self.now()
        if not tf.is_tensor(now) or None in lives:
            self.advance(now)
            return
        some = tf.cast(tf.reduce_any(tf.stack(list(lives))), tf.int64)
        self._graph_variable().assign_add(some)


class AdaptersAtWork:
    """The adapters of one criterion on the student of one run.

    Args:
        criterion: what the user wrote; it makes errors.
        bound: the run's models.
        indices: of the adapters that have a loss.

    Attributes:
        counter: counts steps of training, for the reversal.
        training: trains what adapters own.
    """

    def __init__(self, criterion: AdaptationCriterion, bound: Bound, indices: Sequence[int]) -> None:
        self.criterion, self.bound, self.settings = criterion, bound, criterion.settings
        self.counter = StepCounter(strategy_of(bound.student.model))
        self.training = MatcherTraining(bound.optimizer, "discriminators")
        self.placed = {index: self._place(index, self.settings.criterion[index]) for index in indices}
        features = [tap for one in self.placed.values() for tap in one.taps]
        joint = self.settings.joint_forward
        self.both = BothDomains(bound.student, features, joint=joint, outputs=criterion.outputs)
        self._built: list[int] = []
        self._here = _Here()

    # ---- on the student ----------------------------------------------------------------------------

    def _place(self, index: int, named: Named) -> Placed:
        """The adapter of a name, with the layers that it looks at found in the student."""
        try:
            made = ADAPTERS[named.name](**named.options["options"])
        except (KDHooksError, TypeError) as error:
            raise self.criterion.problem(index, error) from None
        return Placed(made, [self.criterion.found(self.bound.student, tap) for tap in named.options["layers"]])

    def attach(self) -> None:
        """Put shims on the layers."""
        self.both.attach()

    def detach(self) -> None:
        """Take everything off the student."""
        self._here.seen = None
        self.bound.student.detach()

    def release(self) -> bool:
        """Let go of a step's features, and count it where it reversed a gradient; False, since it is counted here."""
        lives = [live for index, live in self._here.lives.items() if self.placed[index].adapter.adversarial]
        self._here.lives, self._here.seen = {}, None
        self.bound.student.release()
        if lives:
            self.counter.count(lives)
        return False

    # ---- a step ------------------------------------------------------------------------------------

    def domains(self, step: Step) -> tuple[Domain, Domain]:
        """Both domains' batches at a step; run once."""
        seen = self._here.seen
        if seen is None or seen[0] is not step:
            try:
                with outside_branches():
                    seen = self._here.seen = (step, *self.both.at(step))
            except LayerError as error:
                raise ModelError(f"{error.message}. {error.advice}".rstrip(". ")) from None
        return seen[1:]

    def loss(self, index: int, step: Step) -> Tensor:
        """The unweighted loss of an adapter."""
        one = self.placed[index]
        source, target = map(one.batch, self.domains(step))
        try:
            self._build(index, source, target)
            coefficient = coefficient_at(self.settings.reversal, self.counter.now()) if one.adapter.adversarial else 1.0
            value = one.adapter(source, target, coefficient=coefficient)
        except ModelError as error:
            raise self.criterion.problem(index, error) from None
        self._here.lives[index] = live = live_now()
        self.training.used(one.adapter.trainable_variables, live)
        return value

    def measures(self, index: int) -> dict[str, Tensor]:
        """What an adapter measured at its last loss."""
        measured = self.placed[index].adapter.measures()
        if self.settings.a_distance and "domain_accuracy" in measured:
            measured["a_distance"] = a_distance(measured["domain_accuracy"])
        live = self._here.lives.get(index)
        for value in () if live is None else measured.values():
            setattr(value, PRESENT, live)
        return measured

    def labelled(self, step: Step) -> Tensor:
        """The cross-entropy of the target's labelled rows."""
        _, target = self.domains(step)
        return labelled_loss(target.logits, target.labels, self.settings.ignore_index)

    # ---- what adapters own -------------------------------------------------------------------------

    def _build(self, index: int, source: DomainBatch, target: DomainBatch) -> None:
        if index in self._built:
            return
        adapter = self.placed[index].adapter
        adapter.build(source, target)
        self._built.append(index)
        if self.bound.trains:
            changes = constant_value(parse_schedule(self.settings.criterion[index].options["weight"])) is None
            self.training.add(adapter.trainable_variables, alone=changes)

    def parameters(self) -> Iterator[Any]:
        """What learns; made for a first batch where there was no loss yet."""
        if not self._built and self.placed and not tf.inside_function():
            with strategy_of(self.bound.student.model).scope():
                self._look()
        return (variable for index in self._built for variable in self.placed[index].adapter.trainable_variables)

    def _look(self) -> None:
        """Make all adapters for the first batch of the training data, which stands for both domains."""
        with self.bound.first_input() as given:
            if given is None:
                say_made_later("discriminators")
                return
            student = self.bound.student.model
            args, kwargs = as_call(student, given)
            with tf.GradientTape():
                both = self.both.read(student(*args, training=False, **kwargs), None)
            for index, one in self.placed.items():
                self._build(index, one.batch(both), one.batch(both))
        self.bound.student.release()

    # ---- an epoch's end ----------------------------------------------------------------------------

    def predictions(self) -> Any:
        """None are kept of the steps, which may stand in a graph.

        Raises:
            ConfigError: validators need a loader.
        """
        message = "looks at the target domain at each epoch's end, and there is nothing to look at"
        advice = "Set distiller.target_eval_dataloader, or name a dataset in domain_adaptation.eval_dataloader."
        raise self.criterion.located("domain_adaptation.validator", message, advice)

    def end_epoch(self) -> None:
        """Nothing is kept of an epoch."""

    # ---- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Sizes, weights and what the optimizers keep for them; plain data and arrays."""
        adapters = {
            str(index): {"sizes": dict(adapter.made_for or {}), "weights": [array_of(one) for one in adapter.variables]}
            for index in self._built
            for adapter in [self.placed[index].adapter]
        }
        return {"adapters": adapters, "training": self.training.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the adapters of a saved run, with their weights and what optimizers kept for them.

        Raises:
            CheckpointError: it is of other adapters, or of other shapes.
        """
        try:
            check_names(state["names"], self.settings)
            with strategy_of(self.bound.student.model).scope():
                self._restore(state)
        except ModelError as error:
            raise CheckpointError(f"the state belongs to another domain adaptation: {error}") from None

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._built = []
        for number, saved in state["adapters"].items():
            index = int(number)
            self.placed[index] = self._place(index, self.settings.criterion[index])
            adapter = self.placed[index].adapter
            adapter.make(dict(saved["sizes"]))
            shapes, given = (
                [list(one.shape) for one in adapter.variables],
                [list(np.shape(w)) for w in saved["weights"]],
            )
            if shapes != given:
                raise ModelError(f"{adapter.name} has weights of shapes {shapes}, and the state {given}")
            for variable, value in zip(adapter.variables, saved["weights"], strict=True):
                variable.assign(value)
            self._built.append(index)
        variables = [one for index in self._built for one in self.placed[index].adapter.trainable_variables]
        self.training.load_state_dict(variables if self.bound.trains else (), state["training"])


def coefficient_at(warm: WarmStart, step: Any) -> Any:
    """The reversal's coefficient at a step, an integer or a scalar of a graph."""
    if not tf.is_tensor(step):
        return warm(step)
    return warm.at(tf.cast(step, tf.float64) / warm.steps, tf.exp)
