"""A program: a user's loops on two logical devices and on one; prints as JSON how far apart they are."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.errors import ConfigError
from tests.tf.mirrored_models import CASES, ROWS, compared, data, loop, student


def main() -> None:
    """All cases in a graph, some eagerly."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    mirrored, single = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), tf.distribute.get_strategy()
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        alone = loop(single, case)
        found[name] = compared(loop(mirrored, case), alone)
        if name in ("schedules", "logits"):
            found[f"{name}, eagerly"] = compared(loop(mirrored, case, graph=False), alone)
        if name == "schedules":
            found["resumed"] = compared(loop(mirrored, case, resume_at=2), alone)
    inputs, _ = data()
    inputs[3 * ROWS - 1] = np.nan  # the third step's last row, which is the second replica's
    for where, strategy in (("spoiled", mirrored), ("spoiled, alone", single)):
        spoiled = loop(strategy, CASES["teacher elsewhere"], inputs=inputs)
        found[where] = {"first": spoiled.first, "reason": spoiled.reason}
    found["elsewhere"] = unmirrored_average(mirrored)
    json.dump(found, sys.stdout)


def unmirrored_average(strategy: Any) -> str:
    """What is said where a mean teacher was made outside of the student's strategy."""
    with strategy.scope():
        model = student()
    distiller = Distillation({"distillation": {"teacher": {"ema": 0.9}}}, student_model=model, teacher_model=student())
    try:
        distiller.on_train_begin()
    except ConfigError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main()
