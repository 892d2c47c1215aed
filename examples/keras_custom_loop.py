"""Knowledge distillation in a loop with a `GradientTape`: four lines more, marked with "kdhooks".

    python examples/keras_custom_loop.py
    python examples/keras_custom_loop.py --quick     # a few steps, to see that it runs

The student sees 1,200 digits of which 100 have a label; the teacher was trained with all labels. A step is
one `tf.function`, traced once, although the weight of the teacher's term changes from step to step. The same
loop runs twice from the same weights, once without the four lines. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from kdhooks import Distillation

UNLABELLED = -100
CONF = {
    "distillation": {
        "train": {
            "criterion": {
                "KnowledgeDistillationLoss": {
                    "temperature": 4.0,
                    "loss_types": ["CE", "KL"],  # the loop's own loss, and the teacher's term
                    "loss_weights": [0.5, {"cosine": {"from": 1.0, "to": 0.2, "steps": 400}}],
                }
            }
        }
    }
}


def load() -> tuple[Any, Any, Any, Any]:
    """Training images [1200, 64] and labels, test images and labels."""
    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    x, y = (pixels[order] / 16).astype("float32"), digits[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]


def network(width: int) -> Any:
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(width, activation="relu"), keras.layers.Dense(10)])


def train(student: Any, distiller: Distillation | None, x: Any, y: Any, epochs: int) -> Any:
    """The user's own loop; without a distiller it trains alone."""
    optimizer = keras.optimizers.Adam(3e-3)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=UNLABELLED)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=1).batch(64, drop_remainder=True)

    @tf.function
    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            output = student(x, training=True)
            loss = cross_entropy(y, output)
            if distiller is not None:
                loss = distiller.on_after_compute_loss(x, output, loss)  # kdhooks
        optimizer.apply(tape.gradient(loss, student.trainable_variables), student.trainable_variables)

    if distiller is not None:
        distiller.on_train_begin(optimizer=optimizer)  # kdhooks
    for _ in range(epochs):
        for batch in batches:
            step(*batch)
        if distiller is not None:
            distiller.on_epoch_end()  # kdhooks
    if distiller is not None:
        distiller.on_train_end()  # kdhooks
    return student


def accuracy(model: Any, x: Any, y: Any) -> float:
    return 100 * float((model.predict(x, verbose=0).argmax(-1) == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="distillation in a loop with a GradientTape")
    parser.add_argument("--quick", action="store_true")
    epochs = 2 if parser.parse_args().quick else 40
    keras.utils.set_random_seed(0)
    x, y, test_x, test_y = load()
    teacher = train(network(256), None, x, y, epochs)

    few = np.where(np.arange(len(y)) < 100, y, UNLABELLED)
    student, alone = network(32), network(32)
    alone.set_weights(student.get_weights())
    train(alone, None, x, few, epochs)
    distiller = Distillation(CONF, student_model=student, teacher_model=teacher)
    train(student, distiller, x, few, epochs)

    print(f"\n{'model':<18}{'labels':>8}{'parameters':>12}{'accuracy':>10}")
    for name, model, labels in (("teacher", teacher, 1200), ("student alone", alone, 100), ("distilled", student, 100)):
        print(f"{name:<18}{labels:>8,}{model.count_params():>12,}{accuracy(model, test_x, test_y):>9.1f}%")


if __name__ == "__main__":
    main()
