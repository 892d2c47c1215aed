"""A program: stored outputs and a fast teacher on two logical devices; prints as JSON how far apart runs are."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.errors import ConfigError
from kdhooks_tf import DistillationCallback
from tests.tf.loop_models import classifier
from tests.tf.test_stored_teacher import conf, counting, rows

ROWS, EPOCHS = 24, 2


def fitted(strategy: Any, settings: Any, *, everywhere: bool = False) -> list[Any]:
    """The student's weights after a fit, under a teacher on one device, or on all of them."""
    with strategy.scope() if everywhere else nullcontext():
        teacher = counting() if not everywhere else classifier(2, 16)
    with strategy.scope():
        student = classifier(1, dropout=0.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        student.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    generator = np.random.default_rng(7)
    x, y = generator.normal(size=[ROWS, 6]).astype("float32"), generator.integers(4, size=[ROWS])
    callback = DistillationCallback(Distillation(settings, student_model=student, teacher_model=teacher))
    student.fit(x, y, 8, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[callback])
    return [np.array(weight) for weight in student.get_weights()]


def apart(one: list[Any], other: list[Any]) -> float:
    """The largest difference of two models' weights."""
    return max(float(np.abs(mine - theirs).max()) for mine, theirs in zip(one, other, strict=True))


def main() -> None:
    """Live, cold, warm; and in low precision, compiled."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with tempfile.TemporaryDirectory() as folder:
        weights, counts = [], []
        for settings in (conf(None), conf(Path(folder)), conf(Path(folder))):
            weights.append(fitted(strategy, settings))
            counts.append(rows())
        fast = [fitted(strategy, conf(None, teacher={"precision": one})) for one in ("bf16", "auto")]
    plain = fitted(strategy, conf(None), everywhere=True)
    compiled = fitted(strategy, conf(None, teacher={"compile": True}), everywhere=True)
    try:
        fitted(strategy, conf(None, teacher={"compile": True}))
        refused = ""
    except ConfigError as error:
        refused = str(error)
    found = {
        "rows": counts,
        "live and cold": apart(weights[0], weights[1]),
        "cold and warm": apart(weights[1], weights[2]),
        "compiled": apart(plain, compiled),
        "refused": refused,
        "fast": max(apart(weights[0], one) for one in fast),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
