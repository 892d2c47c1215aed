"""The criterion of domain adaptation, as users hold it; what happens at a step is in `work`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.domains import AdaptationCriterion
from kdhooks.domains.criterion import has_loss
from kdhooks.pairs.bound import Bound
from kdhooks.schedules import Schedule
from kdhooks_tf.adaptation import ADAPTERS
from kdhooks_tf.domains.work import AdaptersAtWork
from kdhooks_tf.matcher_training import MatcherTraining
from kdhooks_tf.weighing import scheduled, without_branch


class DomainAdaptationLoss(AdaptationCriterion):
    """The student's source and target domain become alike: a weighted sum of adapters.

    It only adds to the loop's own loss: its student's weight is 0, and where no other criterion counts that loss, it
    counts with 1. Each step needs ``target_input``, which goes through the student once more, with ``training=True``.
    In a `tf.function` a weight that changes from step to step costs its term also where it is 0.

    Args:
        criterion: adapters by name with their options, as ``{"DANN": {"layer": "hidden", "weight": 1.0}}``; or a list.
        options: the other keys of the section ``domain_adaptation``: ``joint_forward``, ``reversal``,
            ``target_label_weight``, ``ignore_index``, ``a_distance``.

    Raises:
        ConfigError: with all that is wrong, and for what is there in PyTorch only.

    Example:
        >>> import keras, tensorflow as tf
        >>> from kdhooks import Distillation
        >>> layers = keras.layers
        >>> student = keras.Sequential([keras.Input((4,)), layers.Dense(8, "relu", name="hidden"), layers.Dense(3)])
        >>> distiller = Distillation(student_model=student)
        >>> distiller.criterion = DomainAdaptationLoss({"DANN": {"layer": "hidden", "hidden_size": 16}})
        >>> distiller.optimizer = optimizer = keras.optimizers.SGD(0.1)
        >>> cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> x, y, x_target = tf.ones([8, 4]), tf.zeros([8], tf.int32), tf.zeros([6, 4])
        >>> with distiller:
        ...     with tf.GradientTape() as tape:
        ...         output = student(x, training=True)
        ...         loss = cross_entropy(y, output)
        ...         loss = distiller.on_after_compute_loss(x, output, loss, target_input=x_target)
        ...     gradients = tape.gradient(loss, student.trainable_variables)
        ...     optimizer.apply(gradients, student.trainable_variables)  # the discriminator has stepped already
        >>> sorted(distiller.losses)
        ['CE', 'DANN', 'DANN.domain_accuracy', 'total']
    """

    _work: Any
    _counted: int = 0

    def __init__(self, criterion: Any, **options: Any) -> None:
        super().__init__(criterion, **options)

    def _take(self, conf: DistillationConf) -> None:
        super()._take(conf)
        for named in self.settings.criterion:
            if named.name not in ADAPTERS:
                message = f"{named.options['rules'].title} is for PyTorch, and the models are Keras models"
                names = ", ".join(sorted(ADAPTERS))
                raise conf.problem(named.path, message, f"In TensorFlow there are {names}.", of_key=True)
        if self.settings.alternating:
            message = "alternating steps are for PyTorch, and the models are Keras models"
            raise conf.problem("domain_adaptation.alternating", message, "Remove it: a single step reverses gradients.")

    @property
    def steps(self) -> int:
        """Of training that were counted, for the reversal; waits for the device."""
        return self._counted if self._work is None else int(self._work.counter.step)

    @steps.setter
    def steps(self, steps: int) -> None:
        self._counted = steps
        if getattr(self, "_work", None) is not None:
            self._work.counter.step = steps

    @property
    def training(self) -> MatcherTraining | None:
        """What trains the discriminators; None before the training begins."""
        return None if self._work is None else self._work.training

    def scheduled(self, schedule: Schedule) -> Callable[[Any], Any]:
        """A schedule that also takes the step of a graph.

        What terms share, and what they measure besides, would be out of reach in a branch of their own.
        """
        return without_branch(scheduled(schedule))

    def at_work(self, bound: Bound) -> AdaptersAtWork:
        """The adapters on the student of a run."""
        return AdaptersAtWork(
            self, bound, [index for index, one in enumerate(self.settings.criterion) if has_loss(one)]
        )
