"""A program that trains a matcher whose weight is 0 for a while, on two logical devices; prints where it moved."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tests.tf.feature_models import CROSS_ENTROPY, all_equal, batches, distillation, models

WEIGHT = {"piecewise": {"values": {0: 1.0, 2: 0.0, 4: 1.0}}}


def main() -> None:
    """Six steps, of which two pass the pair over."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        student, teacher = models()
        ours = keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.01, weight_decay=0.1))
        ours.build(student.trainable_variables)
    mappings = [["first"], ["block.layer"]]
    distiller = distillation(student, teacher, ours, layer_mappings=mappings, loss_weights=[WEIGHT, 1.0])

    def replica(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            output = student(x, training=True)
            total = distiller.on_after_compute_loss(x, output, CROSS_ENTROPY(y, output))
            scaled = ours.scale_loss(total)
        gradients = tape.gradient(scaled, student.trainable_variables)
        ours.apply_gradients(zip(gradients, student.trainable_variables, strict=True))

    step = tf.function(lambda x, y: strategy.run(replica, args=(x, y)))
    kept: list[Any] = []
    with distiller:
        for x, y in [*batches(), *batches()][:6]:
            step(x, y)
            variables = distiller.criterion.feature_matchers[0].variables
            kept.append([part.numpy() for variable in variables for part in variable.value.values])
        for index in (1, 2, 3, 4):
            print("stayed" if all_equal(kept[index - 1], kept[index]) else "moved")
        for _, optimizer in distiller.criterion.training.groups:
            print(int(optimizer.iterations.value.values[0].numpy()))


if __name__ == "__main__":
    main()
