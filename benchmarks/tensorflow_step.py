"""What a step costs in TensorFlow, against loops and fits written by hand that compute the same loss.

All sides of a case stand in one process and do their rounds in turn, in an order that is reversed from round to round;
figures are medians over the rounds, and ratios are medians of the rounds' own ratios, since machines are noisy. Beside
the time on the wall stands that of all processors together, which other programs disturb less.

Run: make bench (all of them), or python -m benchmarks.tensorflow_step [--rounds 25] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import tensorflow_sides as sides
from benchmarks.tensorflow_models import mlp, resnet
from benchmarks.tensorflow_page import markdown

HAND, HOOKS, CALLBACK = "tf.function by hand", "tf.function with hooks", "fit with the callback"
FIT, PLAIN, DISTILLER = "fit, compute_loss by hand", "fit of the student alone", "keras.distillation.Distiller"
MAKERS: dict[str, Callable[[sides.Case], Any]] = {
    HAND: sides.by_hand,
    HOOKS: sides.with_hooks,
    CALLBACK: sides.with_callback,
    FIT: sides.fit_by_hand,
    PLAIN: sides.plain_fit,
    DISTILLER: sides.with_distiller,
}
OTHER_LOSS = (PLAIN,)
LOGITS = ((HOOKS, HAND), (CALLBACK, HAND))
PAIR = ((HOOKS, HAND), (CALLBACK, HAND), (DISTILLER, HAND), (CALLBACK, DISTILLER))
SMALL = ((HOOKS, HAND), (FIT, HAND), (CALLBACK, HAND), (CALLBACK, FIT), (PLAIN, HAND))


def compare(case: sides.Case, ratios: Sequence[tuple[str, str]], *, rounds: int) -> dict[str, Any]:
    """Time all sides that the ratios name, in turn.

    Returns:
        The first step's loss; for each side the median seconds of a step (``wall``, ``processor``); for each ratio the
        median, the quartiles and the median of the differences in microseconds.

    Raises:
        ValueError: two sides don't compute the same loss.
    """
    names = list(dict.fromkeys(name for ratio in ratios for name in reversed(ratio)))
    made = {name: MAKERS[name](case) for name in names}
    try:
        loss = check_losses({name: side.first_loss for name, side in made.items() if name not in OTHER_LOSS})
        for side in made.values():
            side()  # what is compiled or allocated once
        times: dict[str, list[sides.Time]] = {name: [] for name in names}
        for index in range(rounds):
            for name in names if index % 2 else reversed(names):
                times[name].append(made[name]())
    finally:
        for side in made.values():
            side.close()
        made.clear()
        gc.collect()
    return {
        "first_loss": loss,
        "rounds": rounds,
        "steps": case.steps,
        "seconds": {name: _seconds(times[name]) for name in names},
        "ratios": [{"of": one, "to": other, **_ratio(times[one], times[other])} for one, other in ratios],
    }


def check_losses(losses: Mapping[str, float]) -> float:
    """The loss of the first step, which must be the same on all sides."""
    first = next(iter(losses.values()))
    for name, loss in losses.items():
        if not math.isclose(loss, first, rel_tol=1e-5, abs_tol=1e-6):
            raise ValueError(f"{name} begins with the loss {loss}, and {next(iter(losses))} with {first}")
    return first


def _seconds(times: Sequence[sides.Time]) -> dict[str, float]:
    return {
        "wall": statistics.median(time.wall for time in times),
        "processor": statistics.median(time.processor for time in times),
    }


def _ratio(mine: Sequence[sides.Time], theirs: Sequence[sides.Time]) -> dict[str, Any]:
    pairs = list(zip(mine, theirs, strict=True))
    ratios = sorted(one.wall / other.wall for one, other in pairs)
    return {
        "ratio": statistics.median(ratios),
        "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "processor_ratio": statistics.median(one.processor / other.processor for one, other in pairs),
        "extra_us": statistics.median(one.wall - other.wall for one, other in pairs) * 1e6,
    }


def _batches(shape: Sequence[int], classes: int, *, batch: int) -> Any:
    """Four batches, again and again, held in memory."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4, batch, *shape)).astype("float32")
    y = random.integers(0, classes, (4, batch)).astype("int32")
    return tf.data.Dataset.from_tensor_slices((x, y)).repeat().prefetch(2)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All cases."""
    student, teacher = resnet(options.depths[0], 1, size=options.size), resnet(options.depths[1], 2, size=options.size)
    images = {"data": _batches((options.size, options.size, 3), 100, batch=options.batch), "steps": options.steps}
    rows = {"data": _batches((64,), 10, batch=64), "steps": options.small_steps}
    cases = {
        "logits": (sides.Case(student, teacher, **images), LOGITS),
        "pair": (sides.Case(student, teacher, layer="stage2", **images), PAIR),
        "pair_with_matcher": (sides.Case(student, teacher, layer="stage2", matcher="conv1x1", **images), LOGITS),
        "small": (sides.Case(mlp(32, 1), mlp(128, 2), **rows), SMALL),
    }
    result: dict[str, Any] = {}
    for name, (case, ratios) in cases.items():
        if name in options.cases:
            result[name] = compare(case, ratios, rounds=options.rounds)
            print(markdown({"cases": {name: result[name]}}), flush=True)
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "student": f"ResNet-{options.depths[0]}",
        "teacher": f"ResNet-{options.depths[1]}",
        "size": options.size,
        "batch": options.batch,
        "threads": options.threads,
        "cases": result,
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=25)
    made.add_argument("--steps", type=int, default=1, help="of a round of the ResNets")
    made.add_argument("--small-steps", type=int, default=200, help="of a round of the MLPs")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--depths", type=int, nargs=2, default=(20, 56), help="of the student and the teacher")
    made.add_argument("--size", type=int, default=32, help="of an image")
    made.add_argument("--batch", type=int, default=128, help="images in a batch")
    made.add_argument("--cases", nargs="+", default=["logits", "pair", "pair_with_matcher", "small"])
    made.add_argument("--json", type=Path, help="write the figures to this file")
    return made


def main() -> None:
    """Measure and print."""
    options = parser().parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    result = measure(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
