"""A program that trains matchers on two logical devices and on one; prints how far apart their weights are."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tests.tf.feature_models import CROSS_ENTROPY, arrays, batches, distillation, models, stepping

ROWS = 8


def optimizer() -> Any:
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))


def main() -> None:
    """Four steps of both, compared."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        student, teacher = models()
        ours = optimizer()
        ours.build(student.trainable_variables)  # outside of the function, as Keras asks for under a strategy
    distiller = distillation(student, teacher, ours)

    def replica(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            output = student(x, training=True)
            total = distiller.on_after_compute_loss(x, output, CROSS_ENTROPY(y, output))
            scaled = ours.scale_loss(total)
        gradients = tape.gradient(scaled, student.trainable_variables)
        ours.apply_gradients(zip(gradients, student.trainable_variables, strict=True))

    step = tf.function(lambda x, y: strategy.run(replica, args=(x, y)))
    alone, other = models()
    single = optimizer()
    single.build(alone.trainable_variables)
    whole = distillation(alone, other, single)
    with distiller, whole:
        together = stepping(whole, alone, single, "graph")
        for x, y in batches(4, 2 * ROWS):
            split: Any = strategy.experimental_distribute_values_from_function
            halves = [[whole_batch[:ROWS], whole_batch[ROWS:]] for whole_batch in (x, y)]
            step(*(split(lambda at, part=part: part[at.replica_id_in_sync_group]) for part in halves))
            together(x, y)
        for one, two in zip(distiller.parameters(), whole.parameters(), strict=True):
            here, there = (part.numpy() for part in one.value.values)
            print(abs(here - there).max(), abs(here - two.numpy()).max())
        print(max(abs(a - b).max() for a, b in zip(arrays(student.weights), arrays(alone.weights), strict=True)))


if __name__ == "__main__":
    main()
