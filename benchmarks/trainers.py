"""What distillation costs in other people's trainers: each one with kdhooks against the same with the loss by hand.

Each trainer has a program of its own (`benchmarks.trainers_lightning`, `_transformers`, `_accelerate`, `_skorch`),
which says what its sides train; here they run one after the other, and their ratios stand in one table. A trainer
whose package is not installed is named as missing.

What is aimed for: at most 1.03 of that trainer with a distillation loss that is written by hand.

Run: python -m benchmarks.trainers [--steps 40] [--rounds 20] [--only NAME ...] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.alternate import spread, verdict
from benchmarks.goals import Goal

AT_MOST = 1.03


class Trained(NamedTuple):
    """A trainer: its title, the package it needs, and whether its program times whole epochs of the steps."""

    title: str
    package: str
    epochs: bool = False

    @property
    def program(self) -> str:
        """The module that measures it."""
        return f"benchmarks.trainers_{self.package}"


TRAINERS = (
    Trained("Lightning", "lightning"),
    Trained("Hugging Face Trainer", "transformers"),
    Trained("Accelerate", "accelerate", epochs=True),
    Trained("skorch", "skorch", epochs=True),
)


def measure(trainer: Trained, steps: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step on both sides, and their ratio with its quartiles."""
    found = import_module(trainer.program).run(steps, rounds)
    if "ratios" in found and "seconds" in found:  # as `benchmarks.alternate.figures` has them
        ratio = next(one for one in found["ratios"] if one["at_most"] is not None)
        by = 1e3 / (steps if trainer.epochs else 1)
        hand, ours = (by * found["seconds"][ratio[side]]["median"] for side in ("to", "of"))
    else:
        ratio, hand, ours = spread(found["ratios"]), found["hand_ms"], found["ours_ms"]
    about = {"hand_ms": hand, "ours_ms": ours, "steps": steps, "rounds": rounds}
    return {**about, "median": ratio["median"], "quartiles": ratio["quartiles"]}


def markdown(found: Mapping[str, Any]) -> str:
    """All ratios as one table."""
    lines = [
        "| trainer | a step by hand, ms | with kdhooks, ms | ratio | quartiles | at most | reached |",
        "| --- " * 7 + "|",
    ]
    for title, one in found["trainers"].items():
        low, high = one["quartiles"]
        lines.append(
            f"| {title} | {one['hand_ms']:.2f} | {one['ours_ms']:.2f} | {one['median']:.3f} | {low:.3f} to {high:.3f} "
            f"| {verdict(one['median'], AT_MOST)} |"
        )
    return "\n".join(lines)


def goals(found: Mapping[str, Any]) -> list[Goal]:
    """What is aimed for."""
    return [
        Goal(f"{title} with kdhooks / the loss by hand", one["median"], AT_MOST)
        for title, one in found["trainers"].items()
    ]


def section(found: Mapping[str, Any]) -> str:
    """The page's section."""
    return f"""## In other trainers

A step of a trainer with kdhooks against the same trainer with a distillation loss that is written by hand. Both sides
train the same students from the same teachers in one process, in turn.

{markdown(found)}"""


def main() -> None:
    """Measure, print, and write the figures."""
    names = [one.package for one in TRAINERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="of a training, or of an epoch")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    for name in ("lightning.pytorch", "kdhooks"):
        logging.getLogger(name).setLevel(logging.ERROR)  # no table an epoch
    chosen = [one for one in TRAINERS if one.package in options.only]
    missing = [one.package for one in chosen if find_spec(one.package) is None or find_spec(one.program) is None]
    trainers = {one.title: measure(one, options.steps, options.rounds) for one in chosen if one.package not in missing}
    found = {"trainers": trainers, "missing": missing}
    print(markdown(found))
    if missing:
        print(f"missing: {', '.join(missing)}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
