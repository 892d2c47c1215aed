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
from kdhooks_tf.data import as_tensors

END_OF_DATA = (StopIteration, tf.errors.OutOfRangeError)
"""How an iterator says that it has no more."""


class TargetBatches:
    """Batches of the target domain, without end: the input, and labels where they are asked for.

    Args:
        dataset: of batches, inputs alone or ``(inputs, labels)``; a dataset, or what can be iterated over again.
        strategy: whose replicas share each batch.
        split: gives the input and the labels of a batch.
        labels: whether labels train the student.

    Raises:
        UsageError: it is nothing of this, or of single samples.
    """

    def __init__(self, dataset: Any, strategy: Any, split: Callable[[Any], tuple[Any, Any]], *, labels: bool) -> None:
        self._data, self._split, self._labels = check_target(dataset), split, labels
        if strategy.num_replicas_in_sync > 1:
            if not isinstance(dataset, tf.data.Dataset):
                raise UsageError("with several replicas the target of a DistillationCallback is a tf.data.Dataset")
            self._data = strategy.experimental_distribute_dataset(dataset)
        self._batches = iter(self._data)

    def __next__(self) -> Any:
        try:
            batch = next(self._batches)
        except END_OF_DATA:
            self._batches = iter(self._data)
            batch = self._first()
        given, labels = self._split(batch)
        return as_tensors(given), as_tensors(labels) if self._labels else None

    def _first(self) -> Any:
        try:
            return next(self._batches)
        except END_OF_DATA:
            raise UsageError("the target of the DistillationCallback has no batches") from None


def check_target(dataset: Any) -> Any:
    """The data, if it can be iterated over again; UsageError otherwise."""
    if not hasattr(dataset, "__iter__") or isinstance(dataset, Iterator) or hasattr(dataset, "shape"):
        raise UsageError(
            f"the target of a DistillationCallback is a tf.data.Dataset of batches, not {type(dataset).__name__}: "
            "tf.data.Dataset.from_tensor_slices(x_target).shuffle(len(x_target)).batch(32)"
        )
    if isinstance(dataset, tf.data.Dataset) and any(
        one.shape.rank == 0 for one in tf.nest.flatten(dataset.element_spec)
    ):
        raise UsageError("the target dataset of a DistillationCallback has single samples: add .batch(32)")
    return dataset


class PairedSteps:
    """Runs a model's train step on a batch of either domain; stands in the place of Keras' train function.

    Args:
        model: whose ``train_step`` is called, and whose settings of ``compile`` hold.
        targets: gives the other batches.
        set_target: told of the target's batch before each step, in the thread of the step.
    """

    def __init__(self, model: Any, targets: TargetBatches, set_target: Callable[[Any], None]) -> None:
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
