"""Parameters of ours, trained beside the student's in a loop that knows nothing of them.

A built Keras optimizer takes no new variables, so ours have one of the same class and configuration, which asks the
user's for its learning rate at every step. They step when a loss is computed: the gradients are those of the total
for these variables alone, taken by a tape that watches nothing else, so what the user's own tape sees is unchanged.
A loop that adds up the gradients of several losses by hand makes one step of the student for several of ours;
`on_step_end` changes nothing about that. The loop of `fit()` has them wait (`held`) and step with the student, by the
mean over its micro-batches. Keras' own ``gradient_accumulation_steps`` is part of the configuration and holds for ours.
Where a schedule's weight is 0 at a step, what only its pair owns takes none, neither momentum nor weight decay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks.criterion import Objective, Step, Weigh
from kdhooks.errors import CheckpointError
from kdhooks.messages import logger
from kdhooks_tf.tapes import stop_recording

Tensor = Any
Variable = Any


@contextmanager
def outside_of_graphs() -> Iterator[None]:
    """What is made within belongs to no graph that is being traced, and to all replicas of the strategy."""
    strategy = tf.distribute.get_strategy()
    with tf.init_scope():
        if tf.distribute.get_strategy() is strategy:
            yield
        else:
            with strategy.scope():
                yield


class MatcherTraining:
    """The trainable variables of one criterion and the optimizers that train them.

    Args:
        optimizer: the user's, or None.
        what: the variables in words.

    Attributes:
        groups: variables with their optimizer; those that were added at the same step have one in common, but for
            those of a pair that steps may pass over.
    """

    def __init__(self, optimizer: Any = None, what: str = "feature matchers") -> None:
        self._what = what
        self.groups: list[tuple[list[Variable], Any]] = []
        self._user: Any = optimizer if isinstance(optimizer, keras.optimizers.Optimizer) else None
        self._given = optimizer
        self._new: list[list[Variable]] = []
        self._joins = False  # whether more variables may share the last new group
        self._live: dict[int, Tensor | None] = {}
        self._tape: Any = None

    @property
    def variables(self) -> list[Variable]:
        """All of them, in the order in which they were added."""
        return [variable for variables in self._all() for variable in variables]

    def _all(self) -> list[list[Variable]]:
        """By group, those that have no optimizer yet last."""
        return [*(variables for variables, _ in self.groups), *self._new]

    def add(self, variables: Sequence[Variable], *, alone: bool = False) -> None:
        """More variables, which learn from the loss that is being computed on, `alone` with an optimizer of theirs."""
        if not variables:
            return
        if self._new and self._joins and not alone:
            self._new[-1] += variables
        else:
            self._new.append(list(variables))
        self._joins = not alone
        if self._tape is not None:
            self._watch(variables)

    # ---- a step ------------------------------------------------------------------------------------

    def begin(self, tape: Any) -> None:
        """A loss will be computed under this tape."""
        self._tape, self._live = tape, {}
        self._watch(self.variables)

    def end(self) -> None:
        """It is computed, or was not."""
        self._tape = None

    def used(self, variables: Sequence[Variable], live: Tensor | None) -> None:
        """The loss that is being computed looks at these variables, where `live` is true or None."""
        self._live.update(dict.fromkeys(map(id, variables), live))

    def live(self) -> list[Tensor | None]:
        """For each group whether this step is one of its steps; None where it surely is, or has no gradient."""
        return [self._live.get(id(variables[0])) for variables in self._all()]

    def _watch(self, variables: Sequence[Variable]) -> None:
        for variable in variables:
            self._tape.watch(_raw(variable))

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss as gradients are taken of it, so that small ones don't vanish in half precision."""
        user = self._user
        if user is None:
            return loss
        scale = self._scale() if _is_scaling(user) else user.loss_scale_factor
        return loss if scale is None else loss * tf.cast(scale, loss.dtype)

    def _scale(self) -> Any:
        """The scale of the user's LossScaleOptimizer at this step."""
        return self._user.dynamic_scale.value if self._user.built else self._user.initial_scale

    def step(self, gradients: Sequence[Tensor | None], live: Sequence[Tensor | None]) -> None:
        """One step of each optimizer whose group is live, with the gradients of `variables` for the scaled loss."""
        new, self._new, self._joins = self._new, [], False
        self.groups += [(variables, self._optimizer(variables)) for variables in new]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync  # optimizers add up the replicas' gradients
        rest = iter(gradients)
        for (variables, optimizer), steps in zip(self.groups, live, strict=True):
            pairs = [(gradient, one) for one in variables if (gradient := next(rest)) is not None]
            if _is_scaling(optimizer):
                optimizer.dynamic_scale.assign(tf.cast(self._scale(), tf.float32))
            if pairs:
                found = [gradient if replicas == 1 else gradient / replicas for gradient, _ in pairs]
                _apply(optimizer, found, [one for _, one in pairs], steps)

    def _optimizer(self, variables: Sequence[Variable]) -> Any:
        """One of the user's class and configuration, built for these variables."""
        with outside_of_graphs():
            user = self._user
            if user is None:
                logger.warning("%s", self._unknown())
                made: Any = keras.optimizers.Adam(1e-3, name="matchers")
            elif _is_scaling(user):
                made = type(user)(_following(user.inner_optimizer), user.initial_scale, name=user.name)
            else:
                made = _following(user)
            made.build(list(variables))
        return made

    def _unknown(self) -> str:
        why = "no optimizer is known" if self._given is None else f"{type(self._given).__name__} is not one of Keras"
        return (
            f"the {self._what} are trained by Adam with a learning rate of 0.001, since {why}: pass the student's "
            "to on_train_begin(optimizer=...)"
        )

    # ---- state -------------------------------------------------------------------------------------

    def state_dict(self) -> list[dict[str, Any]]:
        """How many variables each optimizer has, and what it keeps for them, as arrays."""
        groups: list[dict[str, Any]] = [
            {"variables": len(variables), "values": [array_of(one) for one in optimizer.variables]}
            for variables, optimizer in self.groups
        ]
        return groups + [{"variables": len(variables), "values": None} for variables in self._new]

    def load_state_dict(self, variables: Sequence[Variable], state: Sequence[Mapping[str, Any]]) -> None:
        """Train these variables from now on, and continue as they were.

        Raises:
            CheckpointError: another optimizer trained them.
        """
        self.groups, self._new, self._joins = [], [], False
        rest = list(variables)
        for saved in state:
            group, rest = rest[: saved["variables"]], rest[saved["variables"] :]
            if saved["values"] is None:
                self._new.append(group)
                continue
            optimizer = self._optimizer(group)
            kept = optimizer.variables
            if [tuple(one.shape) for one in kept] != [np.shape(value) for value in saved["values"]]:
                kind = type(optimizer).__name__
                raise CheckpointError(
                    f"the state's {self._what.split()[-1]} were trained by another optimizer than {kind}"
                )
            for one, value in zip(kept, saved["values"], strict=True):
                one.assign(value)
            self.groups.append((group, optimizer))
        self.add(rest)


def _raw(variable: Variable) -> Any:
    """The `tf.Variable` of a Keras variable; losses own such variables themselves."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def array_of(variable: Variable) -> np.ndarray[Any, Any]:
    """A copy of a variable's value; waits for the device."""
    return np.array(_raw(variable).numpy())


def _is_scaling(optimizer: Any) -> bool:
    """Whether it scales the loss, and skips steps whose gradients are not finite."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _apply(optimizer: Any, gradients: list[Tensor], variables: list[Variable], live: Tensor | None) -> None:
    """A step of an optimizer, where `live` is true or None."""

    def apply() -> Tensor:
        optimizer.apply(gradients, variables)
        return tf.constant(True)

    def across(distribution: Any, gradients: Any, live: Any) -> None:
        def applied() -> Tensor:
            distribution.extended.call_for_each_replica(optimizer.apply, args=(gradients, variables))
            return tf.constant(True)

        tf.cond(distribution.experimental_local_results(live)[0], applied, lambda: tf.constant(False))

    if live is None:
        apply()
    elif tf.__internal__.distribute.strategy_supports_no_merge_call():
        tf.cond(live, apply, lambda: tf.constant(False))
    else:  # no branch of a replica may leave it for what all replicas do together, as a step does
        tf.distribute.get_replica_context().merge_call(across, args=(gradients, live))


def _following(user: Any) -> Any:
    """An optimizer of the same class and configuration, whose learning rate is always the user's."""
    return type(user).from_config({**user.get_config(), "learning_rate": lambda: user.learning_rate})


def total(
    objective: Objective, step: Step, student_loss: Tensor, weigh: Weigh
) -> tuple[Tensor, tuple[str, ...], list[Tensor]]:
    """What `kdhooks.criterion.Objective.total` returns; criteria's own variables learn from it on the way.

    Args:
        objective: its criteria may have a `MatcherTraining` as their attribute ``training``.
        step: of the loop.
        student_loss: the loop's own.
        weigh: computes a component and multiplies it.
    """
    found = [getattr(criterion, "training", None) for criterion in objective.criteria]
    trainings = [training for training in found if training is not None]
    results: list[tuple[Tensor, tuple[str, ...], list[Tensor]]] = []

    def compute() -> Tensor:
        results.append(objective.total(step, student_loss, weigh))
        return results[-1][0]

    learning(trainings, compute)
    return results[-1]


class Held:
    """What waits for the student's step in the block of `held`, each time a loss is computed.

    Attributes:
        trainings: those whose variables learn.
        gradients: for each of them those of its variables.
        live: for each of them, and each of its groups, whether a step is due.
    """

    def __init__(self) -> None:
        self.trainings: list[MatcherTraining] = []
        self.gradients: list[list[Tensor | None]] = []
        self.live: list[list[Tensor | None]] = []

    def take(self, training: MatcherTraining, gradients: list[Tensor | None]) -> None:
        """Keep what would have been a step."""
        self.trainings.append(training)
        self.gradients.append(gradients)
        self.live.append(training.live())


_holding = threading.local()


@contextmanager
def held() -> Iterator[Held]:
    """Within the block variables of ours take no step; the loop hands what it gives to `MatcherTraining.step`."""
    _holding.held = Held()
    try:
        yield _holding.held
    finally:
        _holding.held = None


def learning(trainings: Sequence[MatcherTraining], compute: Callable[[], Tensor]) -> Tensor:
    """A loss, from which the variables of `trainings` learn once it is computed."""
    if not trainings:
        return compute()
    try:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for training in trainings:
                training.begin(tape)
            loss = compute()
            scaled = trainings[0].scaled(loss)
    finally:
        for training in trainings:
            training.end()
    counts = [len(training.variables) for training in trainings]
    if any(counts):
        variables = [_raw(variable) for training in trainings for variable in training.variables]
        with stop_recording():  # the user's tape has no use for what happens here
            gradients = iter(tape.gradient(scaled, variables))
            waiting = getattr(_holding, "held", None)
            for training, count in zip(trainings, counts, strict=True):
                found = [next(gradients) for _ in range(count)]
                if waiting is None:
                    training.step(found, training.live())
                else:
                    waiting.take(training, found)
    return loss
