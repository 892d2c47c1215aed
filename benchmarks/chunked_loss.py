"""Distillation over a large vocabulary: `chunked_distillation` against the direct computation, and against Liger's.

Each variant runs in a process of its own, in turn, for one forward and backward on the same numbers;
figures are medians over the repeats. Processor time is the sum over threads, which a busy machine
disturbs less. Extra memory is the peak of the resident set during the step less
what was resident before it (inputs and weights). The direct computation of the full size takes about
16 GB. Liger's `LigerFusedLinearJSDLoss` with beta 0 is the same KL without T², so its weight has the T²; it runs with
its default chunks of 1,024 tokens, with and without `torch.compile` (its default; compiling is not measured), and with
chunks of 128 tokens, which need less memory. Where liger-kernel is not installed its variants are left out.

Run: python -m benchmarks.chunked_loss [--tokens 4096] [--vocabulary 128000] [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.goals import Goal
from benchmarks.peers import missing
from kdhooks.torch.losses import chunked_distillation

TEMPERATURE, WEIGHTS = 2.0, (0.5, 0.5)
Inputs = dict[str, Tensor]


def direct(given: Inputs) -> Tensor:
    """The loss as people write it: all logits of both models at once."""
    student = F.linear(given["hidden"], given["weight"])
    with torch.no_grad():
        teacher = F.linear(given["teacher_hidden"], given["teacher_weight"])
    soft = F.kl_div(
        F.log_softmax(student / TEMPERATURE, dim=-1), F.softmax(teacher / TEMPERATURE, dim=-1), reduction="batchmean"
    )
    return WEIGHTS[0] * F.cross_entropy(student, given["target"]) + WEIGHTS[1] * TEMPERATURE**2 * soft


def chunked(given: Inputs) -> Tensor:
    """The same in chunks of tokens."""
    return chunked_distillation(
        given["hidden"],
        given["weight"],
        given["teacher_hidden"],
        given["teacher_weight"],
        target=given["target"],
        temperature=TEMPERATURE,
        loss_weights=WEIGHTS,
    )


def liger(chunk: int, compiled: bool) -> Callable[[Inputs], Tensor]:
    """Liger's chunked loss of the same total."""

    def step(given: Inputs) -> Tensor:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        criterion = LigerFusedLinearJSDLoss(
            weight_hard_loss=WEIGHTS[0],
            weight_soft_loss=WEIGHTS[1] * TEMPERATURE**2,
            beta=0.0,
            temperature=TEMPERATURE,
            compiled=compiled,
            chunk_size=chunk,
        )
        heads = given["hidden"], given["weight"], given["teacher_hidden"], given["teacher_weight"]
        return torch.as_tensor(criterion(*heads, given["target"]))

    return step


COMPILED = "liger-compiled"
LIGER = {"liger": liger(1024, False), COMPILED: liger(1024, True), "liger-128": liger(128, False)}
VARIANTS: dict[str, Callable[[Inputs], Tensor]] = {"direct": direct, "chunked": chunked, **LIGER}
AIMS = {"direct": (0.5, 1 / 12), "liger": (0.85, 1.0), COMPILED: (0.85, 1.0), "liger-128": (0.85, 1.0)}
"""What time and extra memory of ours may be at most, over those of the others."""


def inputs(tokens: int, vocabulary: int, hidden: int) -> Inputs:
    """Hidden states, heads and labels, always the same."""
    torch.manual_seed(0)
    made = {
        "hidden": torch.randn(tokens, hidden),
        "weight": torch.randn(vocabulary, hidden).mul_(hidden**-0.5),
        "teacher_hidden": torch.randn(tokens, hidden),
        "teacher_weight": torch.randn(vocabulary, hidden).mul_(hidden**-0.5),
        "target": torch.randint(vocabulary, (tokens,)),
    }
    for name in ("hidden", "weight"):
        made[name].requires_grad_()
    return made


def resident() -> float:
    """GB that the process holds now, where the system says so, and its peak so far otherwise."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak()
    return pages * resource.getpagesize() / 1e9


def peak() -> float:
    """GB that the process has held at most; the resource module would count what its parent held before it as well."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1e9
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def compile_first(step: Callable[[Inputs], Tensor], sizes: tuple[int, int, int]) -> None:
    """Let torch.compile meet the shapes, so that only what it made is measured."""
    step(inputs(*sizes)).backward()
    gc.collect()


def measure(variant: str, sizes: tuple[int, int, int], gradients: Path | None) -> dict[str, float]:
    """One forward and backward of a variant in this process."""
    step = VARIANTS[variant]
    step(inputs(8, 64, 16)).backward()  # what is loaded on first use
    given = inputs(*sizes)
    if variant == COMPILED:
        compile_first(step, sizes)
    before, began, worked = resident(), time.perf_counter(), time.process_time()
    loss = step(given)
    loss.backward()
    seconds, cpu_seconds, extra = time.perf_counter() - began, time.process_time() - worked, peak() - before
    if gradients is not None:
        torch.save([given["hidden"].grad, given["weight"].grad], gradients)
    return {"loss": float(loss.detach()), "seconds": seconds, "cpu_seconds": cpu_seconds, "extra_gb": extra}


def in_a_process(variant: str, options: argparse.Namespace, gradients: Path | None) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.chunked_loss", "--variant", variant]
    for name in ("tokens", "vocabulary", "hidden", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    if gradients is not None:
        command += ["--gradients", str(gradients)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return result


def difference(first: Path, second: Path) -> float:
    """The largest difference of two files of gradients, relative to the largest gradient."""
    pairs = zip(torch.load(first, weights_only=True), torch.load(second, weights_only=True), strict=True)
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """The variants in turn; medians, and the ratios of the chunked one to each of the others."""
    lacking = [name for name in options.variants if name in LIGER] and missing("liger_kernel")
    names = [name for name in options.variants if not (lacking and name in LIGER)]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in names}
        for repeat in range(options.repeats):
            for name in names if repeat % 2 else reversed(names):
                runs[name].append(in_a_process(name, options, None if repeat else files[name]))
        apart = {name: difference(files["chunked"], files[name]) for name in names if name != "chunked"}
    sizes = {name: getattr(options, name) for name in ("tokens", "vocabulary", "hidden", "repeats")}
    return {
        "variants": {
            name: {key: statistics.median(run[key] for run in each) for key in each[0]} for name, each in runs.items()
        },
        "ratios": {name: ratios(runs["chunked"], runs[name]) for name in apart},
        "gradient_differences": apart,
        "missing": lacking,
        **sizes,
    }


def ratios(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> dict[str, float]:
    """Medians of the repeats' own ratios; NaN where sizes are so small that another's figure is 0."""
    pairs = list(zip(ours, theirs, strict=True))
    return {
        key: statistics.median(one[key] / other[key] if other[key] else math.nan for one, other in pairs)
        for key in KEYS
    }


KEYS = ("seconds", "cpu_seconds", "extra_gb")


def markdown(result: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        "| variant | s | processors, s | extra GB | our time / its | at most | our extra memory / its | at most |",
        "| --- " * 8 + "|",
    ]
    for name, one in result["variants"].items():
        told = f"| {TITLES[name]} | {one['seconds']:.2f} | {one['cpu_seconds']:.2f} | {one['extra_gb']:.2f} "
        if name == "chunked":
            lines.append(told + "| – | – | – | – |")
            continue
        ratio, (time_aim, memory_aim) = result["ratios"][name], AIMS[name]
        lines.append(f"{told}| {ratio['seconds']:.3f} | {time_aim:.3g} | {ratio['extra_gb']:.3f} | {memory_aim:.3g} |")
    return "\n".join(lines)


TITLES = {
    "direct": "direct",
    "chunked": "`chunked_distillation`",
    "liger": "Liger, chunks of 1,024, not compiled",
    COMPILED: "Liger, chunks of 1,024, compiled",
    "liger-128": "Liger, chunks of 128, not compiled",
}


def goals(result: dict[str, Any]) -> list[Goal]:
    """What is aimed for, against Liger."""
    made = []
    for name, ratio in result["ratios"].items():
        if name in LIGER:
            (time_aim, memory_aim), title = AIMS[name], TITLES[name]
            made.append(Goal(f"chunked loss over {title}: time", ratio["seconds"], time_aim))
            made.append(Goal(f"chunked loss over {title}: extra memory", ratio["extra_gb"], memory_aim))
    return made


def section(result: dict[str, Any]) -> str:
    """The page's section."""
    apart = max(result["gradient_differences"].values())
    return f"""## Large vocabularies

`chunked_distillation` (CE + KL) against the direct computation and Liger's chunked loss, each in a process of its own,
in turn: {result["tokens"]:,} tokens, a vocabulary of {result["vocabulary"]:,}, hidden size {result["hidden"]}, fp32,
{result["repeats"]} repeats, the same total on all sides. Compiling is not among Liger's time.

{markdown(result)}

Gradients agree within {apart:.1e} of the largest."""


def main() -> None:
    """Measure both variants and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--variant", choices=sorted(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--gradients", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.variant:
        sizes = (options.tokens, options.vocabulary, options.hidden)
        print(json.dumps(measure(options.variant, sizes, options.gradients)))
        return
    result = compare(options)
    print(section(result))
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
