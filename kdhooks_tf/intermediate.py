"""The criterion of hidden features, as users hold it; what happens to a pair of layers is in `layer_pairs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kdhooks.pairs.bound import Bound
from kdhooks.pairs.criterion import PairsCriterion
from kdhooks.pairs.options import PairOptions
from kdhooks.schedules import Schedule
from kdhooks_tf.feature_losses import RULES
from kdhooks_tf.layer_pairs import LayerPairs
from kdhooks_tf.matcher_training import MatcherTraining, learning
from kdhooks_tf.matchers import build_matcher
from kdhooks_tf.outputs import shape_of
from kdhooks_tf.pair_modules import SEED, parameter_dtype
from kdhooks_tf.taps import Taps
from kdhooks_tf.teacher import Teacher
from kdhooks_tf.weighing import scheduled, without_branch

Tensor = Any


class IntermediateLayersKnowledgeDistillationLoss(PairsCriterion):
    """The student's hidden features follow the teacher's.

    ``w * student_loss + sum over pairs of w_i * loss_i(matcher_i(student_feature), teacher_feature)``, where w is 1
    with `add_origin_loss` and 0 without. Matchers learn from this total by an optimizer of the class and
    configuration of the student's, which follows its learning rate.

    Args:
        layer_mappings: pairs of layers, in any form of `kdhooks.config.mappings`; a pattern stands for several.
        loss_types: a loss by name, or ``{name: options}``: one for all, one for each mapping, or one for each
            pair; MSE where there is none.
        loss_weights: numbers or schedules, counted the same way; 1 / pairs where there are none.
        add_origin_loss: whether the loop's own loss counts.
        feature_matchers: a matcher by name, counted the same way; ``auto`` where there is none, and no matcher
            for losses that compare features of any size.
        teacher: which one of several is followed.
        student_label: what the loop's own loss is called among the components.
        layer_mappings_for_knowledge_transfer: the longer classic name of `layer_mappings`.
        balance: ``gradient`` multiplies each weight so that, at weight 1, the pair's gradient on its layer of the
            student is as long as that of the loop's own loss; in a `tf.function` only.
        feature_mask: which positions count: the key of a mask [N, T] in the student's input, such as
            ``attention_mask``, or a function of the input; None takes the step's `mask` where it fits.

    Attributes:
        student_model, teacher_model: of the run, or set by a program that drives the criterion itself.
        layer_mappings: the names of the layers of each pair.
        layer_output_process: the selectors of each pair.
        loss_types, loss_weights: of each pair; the weights are functions of the step.

    Raises:
        UsageError: a mapping of no known form, an unknown loss or matcher, or lists of different lengths.

    Example:
        >>> import keras, tensorflow as tf
        >>> from kdhooks import Distillation
        >>> def model(width):
        ...     return keras.Sequential(
        ...         [keras.Input((4,)), keras.layers.Dense(width, name="hidden"), keras.layers.Dense(3)]
        ...     )
        >>> student, optimizer = model(5), keras.optimizers.SGD(0.1)
        >>> distiller = Distillation(student_model=student, teacher_model=model(8))
        >>> distiller.optimizer = optimizer
        >>> distiller.criterion = IntermediateLayersKnowledgeDistillationLoss([["hidden"]], add_origin_loss=True)
        >>> cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> x, y = tf.ones([8, 4]), tf.zeros([8], tf.int32)
        >>> with distiller:
        ...     with tf.GradientTape() as tape:
        ...         output = student(x, training=True)
        ...         loss = distiller.on_after_compute_loss(x, output, cross_entropy(y, output))  # trains the matcher
        ...     gradients = tape.gradient(loss, student.trainable_variables)
        ...     optimizer.apply(gradients, student.trainable_variables)
        >>> sorted(distiller.losses)
        ['CE', 'MSE[hidden]', 'total']
    """

    rules = RULES

    @property
    def feature_matchers(self) -> list[Any]:
        """The matcher of each pair; None until its shapes are known, and where the loss needs none.

        Where a pair has several layers a list, one for each.
        """
        made = {} if self._pairs is None else self._pairs.modules
        found = [made[index].matchers if index in made else [] for index in range(len(self.terms))]
        return [matchers if len(matchers) > 1 else next(iter(matchers), None) for matchers in found]

    @property
    def training(self) -> MatcherTraining | None:
        """What trains the matchers and the losses that own variables; None before the training begins."""
        return None if self._pairs is None else self._pairs.training

    def init_feature_matcher(self, student_feature: Tensor, teacher_feature: Tensor, index: int = 0) -> Any:
        """A new matcher for two features, as the pair of this index has it.

        Raises:
            ModelError: its matcher fits no such shapes.
        """
        name = self._options.matchers[index].replace("none", "auto")
        shapes = shape_of(student_feature) or [], shape_of(teacher_feature) or []
        return build_matcher(name, *shapes, seed=SEED + index, dtype=parameter_dtype(student_feature))

    def loss_cal(self) -> Tensor:
        """The weighted sum over pairs, after a forward of the student and `teacher_model_forward`.

        Matchers learn from it by the optimizer that the student was compiled with.
        """
        return learning([self._working().training], super().loss_cal)

    # ---- what this backend knows -------------------------------------------------------------------

    def scheduled(self, schedule: Schedule) -> Callable[[Any], Any]:
        """A schedule that also takes the step of a graph."""
        return without_branch(scheduled(schedule)) if self._balanced else scheduled(schedule)

    def pairs_at_work(self, options: PairOptions, bound: Bound, teacher: str) -> LayerPairs:
        """The pairs on the models of a run."""
        return LayerPairs(options, bound, teacher, self.locate, self._mask)

    def own_student(self) -> tuple[Taps, Any]:
        """What captures the layers of the student that a program has set, and what it was compiled with."""
        return Taps(self.student_model), getattr(self.student_model, "optimizer", None)

    def own_teacher(self) -> Teacher:
        """Runs the teacher that a program has set."""
        return Teacher(self.teacher_model, self.student_model)

    def added_up(self, losses: list[Tensor]) -> Tensor:
        """The sum of scalars, in float32 at least."""
        wide = [tf.cast(loss, tf.float32) if loss.dtype.size < 4 else loss for loss in losses]
        return tf.add_n(wide)
