"""FashionMNIST in Keras: a teacher, a small student alone and the same student distilled, by ``model.fit``.

    python examples/keras_fashion_mnist.py                   # 2,000 labels, 58,000 images without; some minutes
    python examples/keras_fashion_mnist.py --labelled 60000  # all labels
    python examples/keras_fashion_mnist.py --quick           # a few hundred images, to see that it runs

The teacher is trained first, with all labels, and kept in .kdhooks/keras-fashion-teacher.keras. The student has a few
labels; the images without one teach through the teacher, by its logits and by one pair of hidden layers. The data come
from Debian's package dataset-fashion-mnist, or from .kdhooks/datasets/FashionMNIST. docs/results_tensorflow.md has such
a comparison with several seeds and a control.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from kdhooks import Distillation
from kdhooks.datasets import UNLABELLED, build_dataset
from kdhooks_tf import DistillationCallback

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
                    "layer_mappings": [["features"]],  # [N, 7, 7, 16] and [N, 7, 7, 128]: a matcher joins them
                    "loss_types": "MSE",
                    "loss_weights": 0.1,
                },
            }
        }
    }
}
SAVED = Path(".kdhooks/keras-fashion-teacher.keras")
BATCH, EPOCHS = 128, 5


def load(train: bool, limit: int | None) -> tuple[Any, Any]:
    """Images [N, 28, 28, 1] and labels."""
    data = build_dataset("FashionMNIST", {"train": train, **({"limit": limit} if limit else {})})
    return data.inputs.reshape(-1, 28, 28, 1).astype("float32") / 255, data.targets


def network(name: str, *widths: int) -> Any:
    """Convolutions, the first and the last of stride 2, and a linear layer."""
    x = inputs = keras.Input((28, 28, 1))
    for index, width in enumerate(widths):
        stride = 2 if index in (0, len(widths) - 1) else 1
        x = layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU(name="features" if index == len(widths) - 1 else None)(x)
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)), name=name)


def compiled(model: Any, steps: int) -> Any:
    model.compile(
        optimizer=keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=UNLABELLED),
    )
    return model


def accuracy(model: Any, x: Any, y: Any) -> float:
    return 100 * float((model.predict(x, 1000, verbose=0).argmax(-1) == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="distillation on FashionMNIST by model.fit")
    parser.add_argument("--labelled", type=int, default=2000, help="images that keep their label")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    x, y = load(True, 512 if options.quick else None)
    test = load(False, 200 if options.quick else None)
    labelled, epochs = min(options.labelled, len(x) // 4 if options.quick else len(x)), 1 if options.quick else EPOCHS
    steps = epochs * -(-len(x) // BATCH)
    keras.utils.set_random_seed(0)

    if SAVED.exists() and not options.quick:
        teacher = keras.models.load_model(SAVED)
    else:
        teacher = compiled(network("teacher", 32, 64, 128), steps)
        teacher.fit(x, y, BATCH, epochs, verbose=2)
        SAVED.parent.mkdir(exist_ok=True)
        if not options.quick:
            teacher.save(SAVED)

    student, alone = compiled(network("student", 8, 16), steps), compiled(network("alone", 8, 16), steps)
    alone.set_weights(student.get_weights())
    # Alone, the images without a label are of no use; the few are repeated for as many steps.
    alone.fit(x[:labelled], y[:labelled], BATCH, steps // -(-labelled // BATCH), verbose=0)

    few = np.where(np.arange(len(y)) < labelled, y, UNLABELLED)
    callback = DistillationCallback(Distillation(CONF, teacher_model=teacher))
    student.fit(x, few, BATCH, epochs, verbose=2, callbacks=[callback])

    print(f"\n{'model':<18}{'labels':>8}{'parameters':>12}{'accuracy':>10}")
    rows = (("teacher", teacher, len(x)), ("student alone", alone, labelled), ("distilled", student, labelled))
    for name, model, labels in rows:
        print(f"{name:<18}{labels:>8,}{model.count_params():>12,}{accuracy(model, *test):>9.1f}%")


if __name__ == "__main__":
    main()
