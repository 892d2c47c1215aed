"""The target domain's batches beside those of a Keras fit.

Keras serves a fit one stream of batches, so a step that takes two is made here: with Keras' own train step, its
``jit_compile``, ``run_eagerly`` and ``steps_per_execution``, and a second argument. Both batches are inputs of the
step, so XLA may compile it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from kdhooks.errors import UsageError

END_OF_DATA = (StopIteration, tf.errors.OutOfRangeError)
"""How an iterator says that it has no more."""


class TargetBatches:
    """Batches of the target domain, without end.

    Args:
        dataset: of batches, inputs alone or ``(inputs, labels)``.
        strategy: whose replicas share each batch.

    Raises:
        UsageError: it is no dataset, or of single samples, or empty.
    """

    def __init__(self, dataset: Any, strategy: Any) -> None:
        endless = check_target(dataset).repeat()
        if strategy.num_replicas_in_sync > 1:
            endless = strategy.experimental_distribute_dataset(endless)
        self._batches = iter(endless)

    def __next__(self) -> Any:
        try:
            return next(self._batches)
        except END_OF_DATA:
            raise UsageError("the target dataset of the DistillationCallback has no batches") from None


def check_target(dataset: Any) -> Any:
    """The dataset, if it is one of batches; UsageError otherwise."""
    if not isinstance(dataset, tf.data.Dataset):
        raise UsageError(
            f"the target of a DistillationCallback is a tf.data.Dataset of batches, not {type(dataset).__name__}: "
            "tf.data.Dataset.from_tensor_slices(x_target).shuffle(len(x_target)).batch(32)"
        )
    if any(one.shape.rank == 0 for one in tf.nest.flatten(dataset.element_spec)):
        raise UsageError("the target dataset of a DistillationCallback has single samples: add .batch(32)")
    return dataset


class PairedSteps:
    """Runs a model's train step on a batch of either domain; stands in the place of Keras' train function.

    Args:
        model: whose ``train_step`` is called, and whose settings of ``compile`` hold.
        targets: the other batches.
        set_target: told of the target's batch before each step, in the thread of the step.
    """

    def __init__(self, model: Any, targets: Iterator[Any] | TargetBatches, set_target: Callable[[Any], None]) -> None:
        self._targets, self._steps = targets, int(model.steps_per_execution)
        strategy = model.distribute_strategy

        def on_a_replica(data: Any, target: Any) -> Any:
            set_target(target)
            try:
                return model.train_step(data)
            finally:
                set_target(None)

        def step(data: Any, target: Any) -> Any:
            logs = strategy.run(on_a_replica, args=(data, target))
            if strategy.num_replicas_in_sync == 1:
                return logs
            return tf.nest.map_structure(lambda one: strategy.experimental_local_results(one)[0], logs)

        step = tf.autograph.experimental.do_not_convert(step)
        if not model.run_eagerly:
            step = tf.function(step, reduce_retracing=True, jit_compile=model.jit_compile)
        self._step = step

    def __call__(self, iterator: Any) -> Any:
        """As many steps as Keras makes in one call; ``StopIteration`` where there is no batch for the first."""
        logs = self._step(next(iterator), next(self._targets))
        for _ in range(self._steps - 1):
            try:
                data = next(iterator)
            except END_OF_DATA:
                break
            logs = self._step(data, next(self._targets))
        return logs
