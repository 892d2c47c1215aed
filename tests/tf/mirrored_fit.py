"""A program: `model.fit` with the callback on two logical devices and on one; prints as JSON how far apart they are."""

from __future__ import annotations

import json
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks_tf import DistillationCallback
from tests.tf.mirrored_models import (
    CASES,
    MOVING,
    ROWS,
    STEPS,
    Case,
    apart,
    between_replicas,
    data,
    logits,
    losses_apart,
    pair,
    per_replica,
    student,
)

EPOCHS = 2
NOTHING = Case({**logits(0.0), **pair(0.0)})
NOTHING.criterion["KnowledgeDistillationLoss"]["loss_weights"] = [1.0, 0.0]


def history_of(fit: Any) -> list[dict[str, float]]:
    return [{name: values[epoch] for name, values in fit.history.items()} for epoch in range(EPOCHS)]


class Fitted:
    """One fit: what it left on each replica, and what it logged."""

    def __init__(self, strategy: Any, case: Case | None, rows: int = ROWS * STEPS, **options: Any) -> None:
        with strategy.scope():
            model = student(norm=None if case is None else case.norm)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"], **options)
        x, y = data(rows)
        callbacks = []
        self.steps, self.matchers, self.records = (0, 0), [], []
        if case is not None:
            self.distiller = case.distiller(model)
            callbacks = [DistillationCallback(self.distiller)]
        fit = model.fit(
            x, y, ROWS, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=callbacks, validation_data=data(ROWS)
        )
        self.logs = history_of(fit)
        if case is not None:
            self.steps = (self.distiller.step, sum(record["steps"] for record in self.distiller.history))
            self.matchers = per_replica(self.distiller.parameters())
            self.records = [record["losses"] for record in self.distiller.history]
        self.student = per_replica(model.variables)
        self.trained = per_replica(model.trainable_variables)
        self.finite = all(np.isfinite(value) for log in (*self.logs, *self.records) for value in log.values())
        self.left = sorted(set(vars(model)) & {"compute_loss", "train_step", "fit", "call"})


def compared(many: Fitted, one: Fitted) -> dict[str, Any]:
    return {
        "between": between_replicas(many.student, many.matchers),
        "student": apart(many.student, one.student),
        "matchers": apart(many.matchers, one.matchers),
        "logs": losses_apart(many.logs, one.logs),
        "records": losses_apart(many.records, one.records),
        "steps": many.steps,
        "copies": sorted({len(copies) for copies in (*many.student, *many.matchers)}),
        "names": list(many.logs[0]),
        "left": many.left,
    }


def main() -> None:
    """Fits that are compared with one device, and fits whose last batch can't be shared evenly."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    mirrored, single = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), tf.distribute.get_strategy()
    moving = Case({**logits(MOVING, MOVING), **pair(MOVING)}, norm="synchronized", mirrored=False)
    found: dict[str, Any] = {}
    for name, case in (("logits", CASES["logits"]), ("schedules", moving), ("mean teacher", CASES["mean teacher"])):
        found[name] = compared(Fitted(mirrored, case), Fitted(single, case))
    both = CASES["teacher elsewhere"]
    found["eagerly"] = compared(Fitted(mirrored, both, run_eagerly=True), Fitted(single, both))
    plain, nothing = Fitted(mirrored, None), Fitted(mirrored, NOTHING)
    found["weight 0"] = {
        "same": all(np.array_equal(a, b) for a, b in zip(plain.student, nothing.student, strict=True)),
        "loss": [log["loss"] for log in plain.logs] == [log["loss"] for log in nothing.logs],
    }
    uneven = Fitted(mirrored, both, ROWS + 1)  # the last batch has a row for the first replica and none for the other
    found["uneven"] = {
        "between": between_replicas(uneven.student, uneven.matchers),
        "finite": uneven.finite,
        "steps": uneven.steps,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
