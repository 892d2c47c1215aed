"""Pairs of layers at work: captured, matched, compared, trained and saved.

What a pair's modules own is trained beside the student by `matcher_training`. What terms share is computed outside of
the branches in which a graph computes a term.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.criterion import Step, Term
from kdhooks.errors import CheckpointError, ModelError
from kdhooks.pairs.at_work import PairsAtWork, Sides
from kdhooks.pairs.bound import Bound, Locate
from kdhooks.pairs.masks import FeatureMask
from kdhooks.pairs.options import PairOptions
from kdhooks.schedules import Schedule, constant_value
from kdhooks_tf.balance import gradient_ratio
from kdhooks_tf.layer_mappings import VALUES
from kdhooks_tf.matcher_training import MatcherTraining, array_of
from kdhooks_tf.monitor import Monitor
from kdhooks_tf.outputs import as_call, constant, shape_of
from kdhooks_tf.pair_modules import PairModules, parameter_dtype
from kdhooks_tf.replicas import strategy_of
from kdhooks_tf.weighing import live_now, outside_branches, scheduled

Tensor = Any


class LayerPairs(PairsAtWork):
    """The pairs of one criterion on the models of one run.

    Args:
        options: what the user wrote.
        bound: the models.
        teacher: the one that is followed.
        locate: makes errors.
        mask: the option ``feature_mask``.

    Attributes:
        training: trains what the pairs' modules own.
    """

    values = VALUES

    def __init__(
        self, options: PairOptions, bound: Bound, teacher: str, locate: Locate, mask: FeatureMask | None = None
    ) -> None:
        super().__init__(options, bound, teacher, locate, mask)
        self.training = MatcherTraining(bound.optimizer)

    def monitor(self) -> Monitor:
        """An empty monitor, for what is noted about the teacher's features."""
        return Monitor(strategy_of(self.bound.student.model), over_workers=False)

    def scheduled(self, schedule: Schedule) -> Callable[[Any], Any]:
        """A schedule that also takes the step of a graph, of whose float64 it makes what losses compute in."""
        at = scheduled(schedule)

        def narrow(step: Any) -> Any:
            value = at(step)
            return tf.cast(value, tf.float32) if tf.is_tensor(value) else value

        return narrow

    # ---- a step ------------------------------------------------------------------------------------

    def loss(self, index: int, step: Step) -> Tensor:
        """The unweighted loss of a pair."""
        value = super().loss(index, step)
        self.training.used(self.modules[index].trainable_variables, live_now())
        return value

    def seen(self, index: int, step: Step) -> list[Sides]:
        """Both sides' features at a step, where other terms can have them too."""
        with outside_branches():
            return super().seen(index, step)

    def constants(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's features of one call, through which no gradient flows."""
        return [constant(feature) for feature in teacher]

    def added_up(self, features: Sequence[Tensor]) -> Tensor | None:
        """A scalar that is finite where features are; None where they are no floats."""
        sums = [tf.reduce_sum(_wide(one)) for one in features if one.dtype.is_floating]
        return None if not sums else sums[0] if len(sums) == 1 else tf.add_n(sums)

    def mean(self, losses: Sequence[Tensor]) -> Tensor:
        """The mean of several scalars."""
        return tf.add_n(losses) / len(losses)

    def gradient_ratio(self, student_loss: Tensor, value: Tensor, keys: Sequence[Any], what: str) -> Tensor:
        """How much harder one loss pulls on the student's layers than another."""
        slots = self.bound.student.slots
        anchors = [one for key in keys for one in tf.nest.flatten(slots[key].read()) if tf.is_tensor(one)]
        return gradient_ratio(student_loss, value, anchors, what)

    # ---- modules -----------------------------------------------------------------------------------

    def look(self, terms: Sequence[Term]) -> None:
        """Make the modules of all pairs for the first batch of the training data, where there is one.

        Within a function that is traced there is nothing to run ahead of: the first loss makes them.
        """
        if not tf.inside_function():
            with strategy_of(self.bound.student.model).scope():
                super().look(terms)

    def run_student(self, given: Any) -> None:
        """A forward of the student that counts as one before a loss, and moves no statistics."""
        student = self.bound.student.model
        args, kwargs = as_call(student, given)
        with tf.GradientTape():
            student(*args, training=False, **kwargs)

    def make(self, index: int, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> PairModules:
        """A pair's modules for features of these shapes."""
        shapes = [self.shape(tensor) for tensor in student], [self.shape(tensor) for tensor in teacher]
        return self._made(index, *shapes, parameter_dtype(student[0]))

    def _made(self, index: int, student: Sequence[Any], teacher: Sequence[Any], dtype: str) -> PairModules:
        return PairModules(index, self.options.matchers[index], self.options.losses[index], student, teacher, dtype)

    def trainable(self, modules: PairModules) -> Sequence[Any]:
        """The variables of a pair's modules that learn."""
        return modules.trainable_variables

    def admit(self, index: int, parameters: Sequence[Any]) -> None:
        """Train the variables of a pair from now on; where steps pass it over, with an optimizer of its own."""
        self.training.add(parameters, alone=constant_value(self.options.weights[index]) is None)

    def leave(self) -> None:
        """Nothing of ours is in the user's optimizer."""

    def integer_kind(self, tensor: Tensor) -> str | None:
        """The dtype of a tensor whose values are no floats."""
        return None if tensor.dtype.is_floating else str(tensor.dtype.name)

    def shape(self, tensor: Tensor) -> list[Any]:
        """A tensor's shape; None where a size is not known before the step."""
        return shape_of(tensor) or []

    # ---- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Shapes, weights and what the optimizers keep for them; plain data and arrays."""
        made = {
            str(index): {
                "student": modules.shapes[0],
                "teacher": modules.shapes[1],
                "dtype": modules.dtype,
                "weights": [array_of(variable) for variable in modules.variables],
            }
            for index, modules in self.modules.items()
        }
        return {"pairs": len(self.pairs), "modules": made, "training": self.training.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the modules of a saved run, with its weights and what its optimizers kept for them.

        Raises:
            CheckpointError: it is of other pairs, matchers or losses, or of another optimizer.
        """
        self.check_state(state)
        with strategy_of(self.bound.student.model).scope():
            made = {int(number): self._saved(int(number), saved) for number, saved in state["modules"].items()}
            variables = [variable for modules in made.values() for variable in modules.trainable_variables]
            self.training.load_state_dict(variables if self.bound.trains else (), state["training"])
        self.modules = made

    def _saved(self, index: int, saved: Mapping[str, Any]) -> PairModules:
        try:
            modules = self._made(index, saved["student"], saved["teacher"], saved["dtype"])
        except ModelError as error:
            raise CheckpointError(f"the state belongs to other matchers or losses: {error}") from None
        shapes, given = [list(one.shape) for one in modules.variables], [list(np.shape(w)) for w in saved["weights"]]
        if shapes != given:
            raise CheckpointError(
                f"the state belongs to other matchers or losses: pair {self.pairs[index]} has weights of shapes "
                f"{shapes}, and the state {given}"
            )
        for variable, value in zip(modules.variables, saved["weights"], strict=True):
            variable.assign(value)
        return modules


def _wide(feature: Tensor) -> Tensor:
    return tf.cast(feature, tf.float32) if feature.dtype.size < 4 else feature
