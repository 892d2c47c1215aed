"""What a Keras teacher costs in each of the ways in which it can run, side by side in one process.

    python -m benchmarks.tensorflow_teacher --threads 1

Rounds alternate between the ways; a figure is the median over rounds, and a ratio the median of ratios within a round.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.tensorflow_models import resnet
from kdhooks import Distillation
from kdhooks_tf.teacher import Teacher

PLAIN = "fp32, tf.function"
"""What the others are compared with."""

Run = Callable[[Any], Any]


def transformer(blocks: int, width: int, length: int = 64) -> Any:
    """An encoder of blocks with attention and two dense layers; [N, length, width] to [N, length, 100]."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((length, width))
    x = inputs
    for _ in range(blocks):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(width // 64 or 1, 64)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(width)(layers.Dense(4 * width, "gelu")(x)))
    return keras.Model(inputs, layers.Dense(100)(x))


def live(make: Callable[[], Any], *, function: bool, **options: Any) -> tuple[Run, Callable[[], None]]:
    """A teacher as a step calls it, eagerly or in a function, and what ends it."""
    teacher = Teacher(make(), keras.Sequential([layers.Dense(1)]), **options)
    teacher.on_train_begin()
    return (tf.function(teacher, autograph=False) if function else teacher), teacher.on_train_end


def cast_at_every_use(make: Callable[[], Any]) -> tuple[Run, Callable[[], None]]:
    """What a user gets by setting the layers' policies: Keras casts each weight whenever it is used."""
    model = make()
    for layer in model._flatten_layers():
        layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    return tf.function(lambda x: model(x, training=False), autograph=False), lambda: None


def stored(make: Callable[[], Any], x: Any) -> tuple[Run, Callable[[], None]]:
    """A warm store, read in a function."""
    folder = tempfile.TemporaryDirectory()
    student = make()
    distiller = Distillation(
        {"distillation": {"cache": {"path": folder.name}}}, student_model=student, teacher_model=make()
    )
    distiller.on_train_begin()
    output = tf.zeros(student(x).shape)

    def step(x: Any) -> Any:
        return distiller.on_after_compute_loss(x, output, tf.constant(0.0))

    step(x)  # fills it

    def end() -> None:
        distiller.on_train_end()
        folder.cleanup()

    return tf.function(step, autograph=False), end


def ways(make: Callable[[], Any], x: Any) -> dict[str, tuple[Run, Callable[[], None]]]:
    """Every way, with what ends it."""
    return {
        PLAIN: live(make, function=True),
        "fp32, eager": live(make, function=False),
        "fp32, XLA": live(make, function=True, compile=True),
        "bf16, eager loop": live(make, function=False, precision="bf16"),
        "bf16, tf.function": live(make, function=True, precision="bf16"),
        "bf16, tf.function, cast at every use": cast_at_every_use(make),
        "bf16, XLA": live(make, function=True, precision="bf16", compile=True),
        "warm store, with the loss": stored(make, x),
    }


def measure(make: Callable[[], Any], x: Any, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of each way, and its ratio to `PLAIN`."""
    sides = ways(make, x)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 2):
        for name, (run, _) in sides.items():
            begun = time.perf_counter()
            np.asarray(run(x))
            if turn > 1:  # the first ones trace
                seconds[name].append(time.perf_counter() - begun)
    for _, end in sides.values():
        end()
    plain = seconds[PLAIN]
    return {
        name: (1e3 * median(times), median(mine / base for mine, base in zip(times, plain, strict=True)))
        for name, times in seconds.items()
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, tuple[float, float]]]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="models and rounds that are as small as can be")
    given = parser.parse_args(arguments)
    if given.threads:
        tf.config.threading.set_intra_op_parallelism_threads(given.threads)
        tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    draw = np.random.default_rng(0)
    depth, blocks, width = (8, 1, 32) if given.quick else (56, 4, 384)
    cases = {
        f"ResNet-{depth}": (lambda: resnet(depth, 1), draw.normal(size=(4 if given.quick else 64, 32, 32, 3))),
        f"transformer {blocks} x {width}": (
            lambda: transformer(blocks, width),
            draw.normal(size=(2 if given.quick else 8, 64, width)),
        ),
    }
    found = {}
    for name, (make, x) in cases.items():
        found[name] = measure(make, tf.constant(x, tf.float32), 2 if given.quick else given.rounds)
        print(f"\n{name}\n\n| way | ms | of {PLAIN} |\n| --- | --- | --- |")
        for way, (milliseconds, ratio) in found[name].items():
            print(f"| {way} | {milliseconds:.1f} | {ratio:.2f} |")
    return found


if __name__ == "__main__":
    main()
