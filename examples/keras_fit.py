"""Knowledge distillation in ``model.fit``: a Keras student on digits, with one callback.

    python examples/keras_fit.py
    python examples/keras_fit.py --quick     # an epoch or two, to see that it runs

The student sees 1,200 digits of which 100 have a label, the teacher was trained with all labels. The model,
its compile and its fit are plain Keras; the callback adds the teacher's term to the loss. The same student is
also fitted without it, on the 100 digits that it can use then. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

from kdhooks import Distillation
from kdhooks_tf import DistillationCallback

UNLABELLED = -100
SAVED = Path(".kdhooks/digits-student.keras")
CONF = {
    "distillation": {
        "train": {
            "criterion": {
                "KnowledgeDistillationLoss": {
                    "temperature": 4.0,
                    "loss_types": ["CE", "KL"],  # the compiled loss, and the teacher's term
                    "loss_weights": [0.1, 0.9],
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


def model(width: int, name: str) -> Any:
    made = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(10),
        ],
        name=name,
    )
    made.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        # Rows without a label count for nothing in the student's own loss.
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=UNLABELLED),
        metrics=["accuracy"],
    )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="distillation in model.fit")
    parser.add_argument("--quick", action="store_true")
    epochs = 2 if parser.parse_args().quick else 40
    keras.utils.set_random_seed(0)
    x, y, test_x, test_y = load()

    teacher = model(256, "teacher")
    teacher.fit(x, y, batch_size=64, epochs=epochs // 2, verbose=0)

    student = model(16, "student")
    alone = model(16, "alone")
    alone.set_weights(student.get_weights())
    alone.fit(x[:100], y[:100], batch_size=64, epochs=epochs * 10, verbose=0)  # about as many steps

    few = np.where(np.arange(len(y)) < 100, y, UNLABELLED)
    callback = DistillationCallback(Distillation(CONF, teacher_model=teacher))
    history = student.fit(x, few, batch_size=64, epochs=epochs, verbose=0, callbacks=[callback]).history

    print("the first and the last epoch:")
    for name in ("loss", "distillation/CE", "distillation/KL"):
        print(f"  {name:<18}{history[name][0]:>8.3f}{history[name][-1]:>8.3f}")
    print(f"\n{'model':<18}{'labels':>8}{'parameters':>12}{'accuracy':>10}")
    for name, one, labels in (("teacher", teacher, 1200), ("student alone", alone, 100), ("distilled", student, 100)):
        accuracy = one.evaluate(test_x, test_y, verbose=0, return_dict=True)["accuracy"]
        print(f"{name:<18}{labels:>8,}{one.count_params():>12,}{100 * accuracy:>9.1f}%")

    SAVED.parent.mkdir(exist_ok=True)
    student.save(SAVED)  # an ordinary model: loads where there is no kdhooks
    print(f"saved: {SAVED}")


if __name__ == "__main__":
    main()
