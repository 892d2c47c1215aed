"""All benchmarks, one after the other, each in a process of its own, and the page that shows them.

Run: make bench, which is python -m benchmarks [--threads 2] [--reuse]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import tensorflow_page
from benchmarks.machine import processor
from benchmarks.step_cost import markdown

ROOT = Path(__file__).resolve().parents[1]
STORE = ROOT / ".kdhooks" / "benchmarks"
MODULES = ("step_cost", "intermediate", "chunked_loss", "tensorflow_step")

PAGE = """# Benchmarks

Ratios, not absolute times, since machines differ and are noisy: both sides run in turn in one run, swapping the order
from round to round. Times are medians over the rounds, a ratio is the median of the rounds' own ratios.

Command: `make bench`. Machine: {processor}, {threads} threads, Python {python}, torch {torch}, TensorFlow {tensorflow},
Keras {keras}.

## What a step costs

A whole training step (student's forward, teacher's forward, loss, backward, SGD with momentum) with the hooks, against
a loop written by hand that computes the same loss: cross-entropy, and KL at T = 4 times T², fp32, the teacher under
no_grad.

{step_cost}

What is aimed for: a ratio of at most 1.02 where the models cost something, and at most 60 µs where they cost nothing.
The hooks' own work is constant a step: one call, one small `stack` that keeps the components for later, no wait for the
device.

## Hidden layers

A teacher of 12 layers of which only layer 4 is tapped, against running all of it (its forward only; the aim is 0.6),
and a step with six pairs of layers, ResNet-56 → ResNet-20, batch 128, against a loop with forward hooks written by hand
that computes the same (the aim is 1.02). Both sides of the latter allocate and free many megabytes of features a step,
which makes it noisier than the others.

{intermediate}

## Large vocabularies

`chunked_distillation` (CE + KL) against the direct computation, each in a process of its own: {tokens} tokens, a
vocabulary of {vocabulary}, hidden size {hidden}, fp32, {repeats} repeats. The aims are half of the time and a twelfth
of the extra memory.

{chunked_loss}

## TensorFlow

A whole training step, {student} under {teacher}, {size} × {size}, batch {batch}, SGD with momentum, fp32: cross-entropy
and KL at T = 4 times T², alone, with the MSE of a pair of features (the end of stage 2), and with a pair whose 1x1
convolution is trained beside the student. All sides begin with the same weights, get the same batches, and the loss of
their first steps is compared before anything is measured. The loop by hand is one `tf.function`; fits are Keras' own,
whose rounds are taken in turn with those of the others. *Processors* is the ratio of the time of all processors.

{tensorflow_step}

What is aimed for, against the loop by hand: at most 1.03 with logits and 1.05 with a pair; against
`keras.distillation.Distiller`, which runs the student twice, at most 0.75. The small models show what is constant a
step: Keras' own share of it is the difference of the fit with a `compute_loss` written by hand to the loop, ours that
of the fit with the callback to the former. The fit of the student alone has no teacher, so it computes less.
"""


def hidden_layers(results: dict[str, dict[str, Any]]) -> str:
    """The rows of `benchmarks.intermediate` as a table."""
    titles = {"teacher_ends_at_4_of_12": "teacher ends at layer 4 of 12", "six_pairs": "a step with six pairs"}
    lines = ["| case | by hand, ms | kdhooks, ms | ratio | quartiles |", "| --- " * 5 + "|"]
    for name, title in titles.items():
        case = results[name]
        low, high = case["ratio_quartiles"]
        same = ", the same loss to the last bit" if case.get("same_bits") else ""
        lines.append(
            f"| {title}{same} | {case['hand_written_s'] * 1e3:.1f} | {case['hooks_s'] * 1e3:.1f} "
            f"| {case['ratio']:.3f} | {low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)


def large_vocabulary(result: dict[str, Any]) -> str:
    """The figures of `benchmarks.chunked_loss` as a table."""
    direct, chunked = result["direct"], result["chunked"]
    return "\n".join(
        [
            "| | direct | chunked | ratio |",
            "| --- " * 4 + "|",
            f"| time, s | {direct['seconds']:.2f} | {chunked['seconds']:.2f} | {result['time_ratio']:.3f} |",
            f"| extra GB | {direct['extra_gb']:.2f} | {chunked['extra_gb']:.2f} | {result['memory_ratio']:.3f} |",
            "",
            f"Gradients agree within {result['gradient_difference']:.1e} of the largest.",
        ]
    )


def main() -> None:
    """Measure, and write docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reuse", action="store_true", help="write the page from the last figures")
    options = parser.parse_args()
    STORE.mkdir(parents=True, exist_ok=True)
    figures: dict[str, dict[str, Any]] = {}
    for module in MODULES:
        file = STORE / f"{module}.json"
        if not options.reuse:
            command = [sys.executable, "-m", f"benchmarks.{module}", "--threads", str(options.threads)]
            threads = {"OMP_NUM_THREADS": str(options.threads)}
            subprocess.run([*command, "--json", str(file)], check=True, cwd=ROOT, env=os.environ | threads)
        figures[module] = json.loads(file.read_text())
    chunked = figures["chunked_loss"]
    text = PAGE.format(
        processor=processor(),
        threads=options.threads,
        python=platform.python_version(),
        torch=torch.__version__,
        step_cost=markdown(figures["step_cost"]),
        intermediate=hidden_layers(figures["intermediate"]),
        chunked_loss=large_vocabulary(chunked),
        tensorflow_step=tensorflow_page.markdown(figures["tensorflow_step"]),
        **{
            key: figures["tensorflow_step"][key]
            for key in ("tensorflow", "keras", "student", "teacher", "size", "batch")
        },
        **{key: f"{chunked[key]:,}" for key in ("tokens", "vocabulary", "hidden", "repeats")},
    )
    (ROOT / "docs" / "benchmarks.md").write_text(text)


if __name__ == "__main__":
    main()
