"""Small runs of `fit()` that tests start here and in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks import Distillation

FEATURES, CLASSES = 6, 4
SGD = {"SGD": {"learning_rate": 0.1, "momentum": 0.9}}
NOTHING = {"loss_weights": [1.0, 0.0]}


def student_model() -> Any:
    keras.utils.set_random_seed(1)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            layers.Dense(16),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.2),
            layers.Dense(CLASSES),
        ]
    )


def teacher_model() -> Any:
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(32, activation="tanh"), keras.layers.Dense(CLASSES)]
    )


def weights(model: Any) -> list[Any]:
    return [np.array(variable.numpy()) for variable in model.variables]


def equal(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def rows(count: int = 48, seed: int = 3) -> tuple[Any, Any]:
    x = np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)
    return x, x[:, :CLASSES].argmax(1)


def batches(count: int = 6, size: int = 8, seed: int = 3) -> list[tuple[Any, Any]]:
    x, y = rows(count * size, seed)
    return list(zip(np.split(x, count), np.split(y, count), strict=True))


def settings(folder: Path | str, *, criterion: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    criterion = {"temperature": 2.0, "loss_weights": [0.5, 0.5]} if criterion is None else criterion
    train = {"end_epoch": 2, "criterion": {"KnowledgeDistillationLoss": criterion}} | train
    return {"distillation": {"train": train}, "tuning": {"workspace": {"path": str(folder)}, "random_seed": 5}}


def distillation(conf: dict[str, Any], loader: Any = None) -> Distillation:
    distiller = Distillation(conf, student_model=student_model(), teacher_model=teacher_model())
    distiller.train_dataloader = loader
    return distiller


def long_run(folder: Path, *, resume: bool = True, end_epoch: int = 10) -> Distillation:
    """A run with all that a checkpoint has to keep: dropout, momentum, schedule, accumulation, rolled-over rows."""
    conf = settings(
        folder,
        end_epoch=end_epoch,
        checkpoint_steps=3,
        gradient_clipping=1.0,
        gradient_accumulation=2,
        iteration=29,  # the last group of an epoch has one batch
        frequency=3,
        optimizer={"SGD": {"learning_rate": 0.05, "momentum": 0.9}},
        scheduler={"CosineAnnealing": {"warmup_epochs": 1}},
        dataloader={
            "batch_size": 4,
            "shuffle": True,
            "last_batch": "rollover",
            "dataset": {"dummy": {"shape": [FEATURES], "size": 150, "classes": CLASSES}},
        },
    )
    conf["tuning"]["workspace"]["resume"] = resume
    distiller = distillation(conf)
    distiller.eval_dataloader = batches(2, seed=4)
    return distiller


def finish(distiller: Distillation, path: Path) -> None:
    """Train to the end and write down everything that two equal runs have in common."""
    student = distiller.fit()
    numbers = [*weights(student), *(np.array(variable.numpy()) for variable in distiller.optimizer.variables)]
    numbers += [np.array([record["losses"]["total"], record["score"] or 0.0]) for record in distiller.history]
    np.savez(path, *numbers)


def _child(folder: Path, out: Path) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    tf.config.threading.set_intra_op_parallelism_threads(1)
    finish(long_run(folder, end_epoch=200), out)


def killed_when_there_is_a_checkpoint(folder: Path, number: int) -> int | None:
    """Start a long run in a process of its own and send it a signal once it has saved; returns its exit code."""
    process = get_context("spawn").Process(target=_child, args=(folder, folder / "never.npz"))
    process.start()
    limit = time.monotonic() + 60
    while not (folder / "checkpoint.npz").exists() and process.is_alive() and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(process.pid or 0, number)
    process.join(60)
    return process.exitcode


SIGNALS = (signal.SIGKILL, signal.SIGTERM)
