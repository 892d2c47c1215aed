"""Hidden layers of a subclassed Keras model follow those of a wider teacher, in ``model.fit``.

    python examples/keras_hidden_layers.py
    python examples/keras_hidden_layers.py --quick     # an epoch or two, to see that it runs

Neither model is edited and the student runs once a step. Layers are named as attributes are, with list indices:
``blocks/0/dense``. The widths differ, so each pair gets a matcher, which trains itself beside the student and is
gone afterwards. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

from kdhooks import Distillation
from kdhooks_tf import DistillationCallback
from kdhooks_tf.layers import list_layers

CONF = {
    "distillation": {
        "train": {
            "criterion": {
                "KnowledgeDistillationLoss": {
                    "temperature": 4.0,
                    "loss_types": ["CE", "KL"],
                    "loss_weights": [0.1, 0.9],
                },
                "IntermediateLayersKnowledgeDistillationLoss": {
                    "layer_mappings": [
                        ["stem"],  # the same name in both
                        {"student": "blocks/{i}", "teacher": "blocks/{2*i+1}", "i": "0..1"},  # two pairs
                    ],
                    "loss_types": ["MSE", "cosine"],  # one for each mapping
                    "loss_weights": [0.1, 0.1],
                },
            }
        }
    }
}


class Block(keras.layers.Layer):
    """A dense layer with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(width, activation="relu")

    def call(self, x: Any) -> Any:
        return x + self.dense(x)


class Network(keras.Model):
    """The user's own class, which knows nothing of distillation."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = keras.layers.Dense(width, activation="relu")
        self.blocks = [Block(width) for _ in range(blocks)]
        self.head = keras.layers.Dense(10)

    def call(self, x: Any) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def compiled(width: int, blocks: int) -> Any:
    model = Network(width, blocks)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="distillation of hidden layers in model.fit")
    parser.add_argument("--quick", action="store_true")
    epochs = 2 if parser.parse_args().quick else 20
    keras.utils.set_random_seed(0)
    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    x, y = (pixels[order] / 16).astype("float32"), digits[order]
    train, test = (x[:1200], y[:1200]), (x[1200:], y[1200:])

    teacher, student = compiled(128, 4), compiled(12, 2)
    teacher.fit(*train, epochs=epochs, verbose=0)
    student(x[:1])  # a subclassed model has its layers' weights after a first call

    callback = DistillationCallback(Distillation(CONF, teacher_model=teacher))
    history = student.fit(*train, epochs=epochs, verbose=0, callbacks=[callback], validation_data=test).history

    print("the student's layers, by the names that a mapping takes:")
    for row in list_layers(student):
        print(f"  {row['layer']:<20}{row['type']}")
    print(f"\n{'':<34}{'first epoch':>12}{'last epoch':>12}")
    for name, values in history.items():
        print(f"{name:<34}{values[0]:>12.3f}{values[-1]:>12.3f}")
    print(f"\n{'model':<18}{'parameters':>12}{'accuracy':>10}")
    for title, model in (("teacher", teacher), ("student", student)):
        accuracy = model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
        print(f"{title:<18}{model.count_params():>12,}{100 * accuracy:>9.1f}%")


if __name__ == "__main__":
    main()
