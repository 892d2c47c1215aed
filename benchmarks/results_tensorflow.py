"""FashionMNIST in Keras: a small student alone and under a teacher, all by ``model.fit`` and `DistillationCallback`.

    python -m benchmarks.results_tensorflow [--seeds 3] [--quick]

One thread, some minutes. FashionMNIST is found as kdhooks finds it (Debian's package dataset-fashion-mnist). The
teacher and every finished run are kept in .kdhooks/results_tensorflow, so an interrupted command goes on where it
stopped; docs/results_tensorflow.md is written anew after every row. ``--quick`` runs all of it with few images, to
see that it works, and writes its page beside its runs.

Rules: settings are chosen among `TRIALS` by one seed on the validation images, which are training images that neither
teacher nor students see; a student meets the test images once, after its last step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.results_store import Store
from benchmarks.results_tensorflow_page import write
from benchmarks.results_tensorflow_rows import (
    BATCH,
    EPOCHS,
    LABELLED,
    PICTURES,
    TAUGHT,
    TEACHER_EPOCHS,
    TITLES,
    TRIAL_SEED,
    TRIALS,
    Recipe,
    feature_trials,
)
from kdhooks import Distillation
from kdhooks.datasets import UNLABELLED, build_dataset
from kdhooks_tf import DistillationCallback

Array = Any


@dataclass(frozen=True)
class Data:
    """Images [N, 28, 28, 1] and labels [N] of the three parts."""

    train: tuple[Array, Array]
    validation: tuple[Array, Array]
    test: tuple[Array, Array]


def load(quick: bool) -> Data:
    """50,000 images to train on, 10,000 to choose settings by, and the 10,000 of the test."""

    def part(train: bool, rows: slice) -> tuple[Array, Array]:
        data = build_dataset("FashionMNIST", {"train": train})
        pixels = data.inputs[rows].reshape(-1, 28, 28, 1).astype("float32")
        return (pixels / 255 - 0.286) / 0.353, data.targets[rows].astype("int64")

    if quick:
        return Data(part(True, slice(3000)), part(True, slice(TAUGHT, TAUGHT + 500)), part(False, slice(500)))
    return Data(part(True, slice(TAUGHT)), part(True, slice(TAUGHT, None)), part(False, slice(None)))


def network(widths: Sequence[tuple[int, int]], *, pooled: bool) -> Any:
    """Convolutions of these widths and strides, the last called ``features``, and a linear layer."""
    x = inputs = keras.Input((28, 28, 1))
    for index, (width, stride) in enumerate(widths):
        x = layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU(name="features" if index == len(widths) - 1 else None)(x)
    x = layers.GlobalAveragePooling2D()(x) if pooled else layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def make_teacher() -> Any:
    return network([(32, 2), (64, 1), (128, 2)], pooled=True)


def make_student() -> Any:
    return network([(8, 2), (16, 2)], pooled=False)


def compiled(model: Any, recipe: Recipe, steps: int) -> Any:
    """The user's own compile; rows without a label count for nothing in its loss."""
    rate = keras.optimizers.schedules.CosineDecay(recipe.rate, steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.decay)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=UNLABELLED)
    model.compile(optimizer, loss)
    return model


def accuracy(model: Any, part: tuple[Array, Array]) -> float:
    """Correct answers in percent."""
    return 100 * float((model.predict(part[0], 1000, verbose=0).argmax(-1) == part[1]).mean())


def distiller_of(recipe: Recipe, teacher: Any) -> Distillation:
    """0.1 CE + 0.9 of the teacher's term, and the pair of features where the recipe has one."""
    criterion: dict[str, Any] = {
        "KnowledgeDistillationLoss": {
            "temperature": recipe.temperature,
            "loss_types": ["CE", recipe.kind],
            "loss_weights": [0.1, 0.9],
        }
    }
    if recipe.features:
        criterion["IntermediateLayersKnowledgeDistillationLoss"] = {
            "layer_mappings": [["features"]],
            "loss_types": "MSE",
            "loss_weights": recipe.features,
        }
    return Distillation({"distillation": {"train": {"criterion": criterion}}}, teacher_model=teacher)


class Bench:
    """Runs recipes, each with a seed once.

    Args:
        folder: of the teacher and the runs.
        quick: few images, one epoch.
    """

    def __init__(self, folder: Path, quick: bool) -> None:
        self.store, self.data, self.quick = Store(folder / "runs.json"), load(quick), quick
        self.epochs = 1 if quick else EPOCHS
        self.pool = min(PICTURES, len(self.data.train[0]))
        self.labelled = self.pool // (PICTURES // LABELLED)
        self.teacher = self._teacher(folder / "teacher.weights.h5")

    def _teacher(self, path: Path) -> Any:
        keras.utils.set_random_seed(0)
        teacher = make_teacher()
        if path.exists():
            teacher.load_weights(path)
            return teacher
        began, epochs = time.process_time(), 1 if self.quick else TEACHER_EPOCHS
        x, y = self.data.train
        compiled(teacher, Recipe(2e-3, 1e-2), epochs * -(-len(x) // BATCH)).fit(x, y, BATCH, epochs, verbose=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        teacher.save_weights(path)
        found = {"test": accuracy(teacher, self.data.test), "validation": accuracy(teacher, self.data.validation)}
        found |= {"seconds": time.process_time() - began, "parameters": teacher.count_params()}
        self.store.add("teacher", 0, repr(self.quick), found)
        say(f"teacher: {found}")
        return teacher

    def run(self, row: str, recipe: Recipe, seed: int, part: str) -> float:
        """The accuracy of a run on a part of the data, made now or found."""
        # A trial of its own for each recipe: the best of a row may be asked for again.
        key = row if part == "test" else f"trial {row}: {recipe.text()}"
        description = repr((recipe, part, self.quick, PICTURES, LABELLED, BATCH, EPOCHS, TEACHER_EPOCHS))
        found = self.store.get(key, seed, description)
        if found is None:
            found = self._train(recipe, seed, part)
            self.store.add(key, seed, description, {**found, "text": recipe.text()})
            say(f"{key}, seed {seed}: {found['score']:.2f} % ({found['seconds']:.0f} s)")
        return float(found["score"])

    def _train(self, recipe: Recipe, seed: int, part: str) -> dict[str, Any]:
        x, y = (each[: self.pool] for each in self.data.train)
        few = np.random.default_rng(seed).permutation(self.pool)[: self.labelled]
        epochs, callbacks = self.epochs, []
        if recipe.kind:
            known = y[few]
            y = np.full_like(y, UNLABELLED)
            y[few] = known
            callbacks = [DistillationCallback(distiller_of(recipe, self.teacher))]
        else:
            x, y, epochs = x[few], y[few], epochs * (self.pool // self.labelled)
        keras.utils.set_random_seed(seed)
        student, began = make_student(), time.process_time()
        compiled(student, recipe, epochs * -(-len(x) // BATCH))
        student.fit(x, y, BATCH, epochs, verbose=0, callbacks=callbacks)
        seconds = time.process_time() - began
        parameters = student.count_params()
        train = accuracy(student, (x[y != UNLABELLED], y[y != UNLABELLED]))
        score = accuracy(student, self.data.validation if part == "validation" else self.data.test)
        keras.backend.clear_session()
        return {"score": score, "train": train, "seconds": seconds, "parameters": parameters}

    def best(self, row: str, recipes: Sequence[Recipe]) -> Recipe:
        """The recipe with the highest accuracy on the validation images, by one seed."""
        return max(recipes, key=lambda recipe: self.run(row, recipe, TRIAL_SEED, "validation"))


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="paired students a row")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    folder = Path(".kdhooks") / ("results_tensorflow-quick" if options.quick else "results_tensorflow")
    page = folder / "page.md" if options.quick else Path("docs/results_tensorflow.md")
    bench = Bench(folder, options.quick)
    chosen = {row: bench.best(row, recipes) for row, recipes in TRIALS.items()}
    chosen["features"] = bench.best("features", feature_trials(chosen["logits"]))
    for row in TITLES:
        for seed in range(options.seeds):
            bench.run(row, chosen[row], seed, "test")
        write(page, bench.store)
    say(f"{page} is written")


if __name__ == "__main__":
    main()
