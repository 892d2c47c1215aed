"""A program: one of several workers of a `MultiWorkerMirroredStrategy`, or a single device; prints JSON.

The cluster stands in ``TF_CONFIG``; without it the same loops run on one device with the whole batches.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks_tf import DistillationCallback
from tests.tf.mirrored_models import CASES, ROWS, Trained, data, loop, student

NAMES = ("teacher elsewhere", "schedules", "synchronized norm", "mean teacher")


def plain(left: Trained) -> dict[str, Any]:
    groups = {"student": left.student, "teacher": left.teacher, "matchers": left.matchers}
    arrays = {name: [one[0].tolist() for one in group] for name, group in groups.items()}
    return {**arrays, "losses": left.losses, "totals": left.totals, "means": left.means, "steps": left.steps}


def fit_fails(strategy: Any) -> dict[str, Any]:
    """What Keras' own `fit` does, with our callback, and what is left on the model."""
    case = CASES["logits"]
    with strategy.scope():
        model = student()
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    keras.config.disable_traceback_filtering()
    try:
        model.fit(*data(), ROWS, verbose=0, callbacks=[DistillationCallback(case.distiller(model))])
    except ValueError as error:
        functions = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        return {
            "error": str(error).splitlines()[0],
            "before callbacks": "_maybe_symbolic_build" in functions and "on_train_begin" not in functions,
            "left": sorted(set(vars(model)) & {"compute_loss", "train_step", "fit", "call"}),
        }
    return {}


def main() -> None:
    """All cases, and where there are workers Keras' fit."""
    cluster = json.loads(os.environ.get("TF_CONFIG", "{}"))
    if not cluster:
        found = {name: plain(loop(tf.distribute.get_strategy(), CASES[name])) for name in NAMES}
        json.dump(found, sys.stdout)
        return
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index, rows = cluster["task"]["index"], ROWS // len(cluster["cluster"]["worker"])

    def share(batch: Any) -> Any:
        return batch[index * rows : (index + 1) * rows]

    found = {name: plain(loop(strategy, CASES[name], share=share)) for name in NAMES}
    inputs, _ = data()
    inputs[3 * ROWS - 1] = np.nan  # the third step's last row, which is the last worker's
    found["first"] = loop(strategy, CASES["logits"], share=share, inputs=inputs).first
    json.dump({**found, "fit": fit_fails(strategy)}, sys.stdout)


if __name__ == "__main__":
    main()
