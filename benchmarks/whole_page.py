"""The figures of `benchmarks.whole_run` as tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.alternate import ratios_table, spread
from benchmarks.goals import Goal, of_ratios

AIMS = {
    "images": (("kdhooks", "plain", 0.5), ("kdhooks", "kdhooks-alone", 1.12), ("kdhooks-compiled", "plain", None)),
    "text": (("kdhooks", "plain", 0.8), ("kdhooks", "kdhooks-alone", None)),
}
TITLES = {
    "kdhooks": "kdhooks, from an empty store",
    "kdhooks-alone": "kdhooks, student alone",
    "plain": "plain loop, fp32, no teacher",
    "live": "kdhooks, fp32, live teacher",
    "kdhooks-compiled": "kdhooks, student compiled",
    "live-new-views": "the same, new augmentation every epoch",
}


def summary(runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Runs by side, in the order of their seeds."""
    found: dict[str, Any] = {"sides": {}}
    for run in sorted(runs, key=lambda run: run["seed"]):
        side = found["sides"].setdefault(run["side"], {"seconds": [], "accuracy": [], "seeds": []})
        side["seeds"].append(run["seed"])
        side["seconds"].append(run["seconds"])
        if "accuracy" in run:
            side["accuracy"].append(run["accuracy"])
        if "teacher_accuracy" in run:
            found["teacher_accuracy"] = run["teacher_accuracy"]
        if run["side"] == "kdhooks":
            found["ledger"], found["store_mb"] = run["ledger"], run["store_mb"]
    return found


def pairs(found: Mapping[str, Any], of: str, to: str, what: str) -> list[tuple[float, float]]:
    """What two sides found with the same seeds; empty where one was not run."""
    sides = found["sides"]
    if of not in sides or to not in sides:
        return []
    one, other = (dict(zip(sides[side]["seeds"], sides[side][what], strict=False)) for side in (of, to))
    return [(one[seed], other[seed]) for seed in one if seed in other]


def ratios(kind: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ratios of whole runs, seed by seed."""
    made = []
    for of, to, at_most in AIMS[kind]:
        timed = pairs(found, of, to, "seconds")
        if timed:
            told = spread(one / other for one, other in timed)
            made.append({"of": TITLES[of], "to": TITLES[to], "at_most": at_most, **told})
    return made


def table(found: Mapping[str, Any]) -> str:
    """Seconds and accuracy of each side."""
    lines = ["| side | seconds, each seed | median | accuracy, each seed | mean |", "| --- " * 5 + "|"]
    for name, side in found["sides"].items():
        each = ", ".join(f"{value:.1f}" for value in side["seconds"]) or "–"
        middle = f"{statistics.median(side['seconds']):.1f}" if side["seconds"] else "–"
        right = ", ".join(f"{value:.2f}" for value in side["accuracy"]) or "–"
        mean = f"{statistics.fmean(side['accuracy']):.2f}" if side["accuracy"] else "–"
        lines.append(f"| {TITLES[name]} | {each} | {middle} | {right} | {mean} |")
    return "\n".join(lines)


def differences(found: Mapping[str, Any]) -> str:
    """The paired differences of accuracy to the live teacher's student, where there are any."""
    apart = [one - other for one, other in pairs(found, "kdhooks", "live", "accuracy")]
    if not apart:
        return ""
    mean, reached = statistics.fmean(apart), "yes" if statistics.fmean(apart) >= 0 else "**no**"
    each = ", ".join(f"{value:+.2f}" for value in apart)
    error = ""
    if len(apart) > 1:
        likely = statistics.stdev(apart) / len(apart) ** 0.5
        error = f" with a standard error of {likely:.2f}"
        reached += ", by less than this error" if -likely < mean < 0 else ""
    return (
        f"Accuracy over the student of the live fp32 teacher, seed by seed: {each} points,\nin the mean {mean:+.2f}"
        f"{error}. No worse: {reached}.\n\n"
    )


def goals(found: Mapping[str, Any]) -> list[Goal]:
    """What is aimed for."""
    made = []
    told = f"{found['epochs']} epochs"
    if "images" in found:
        made += of_ratios({"ratios": ratios("images", found["images"])}, f"{told}, images")
    for width, texts in found.get("text", {}).items():
        made += of_ratios({"ratios": ratios("text", texts)}, f"{told}, text, student of width {width}")
    accuracies = pairs(found.get("paired") or found.get("images", {"sides": {}}), "kdhooks", "live", "accuracy")
    if accuracies:
        apart = statistics.fmean(one - other for one, other in accuracies)
        made.append(Goal("accuracy over the live fp32 teacher's student", apart, 0.0, " points", at_least=True))
    return made


def section(found: Mapping[str, Any]) -> str:
    """The page's section."""
    parts = [
        f"""## The whole run

{found["epochs"]} epochs of `fit()` from an empty store, `teacher: {{precision: auto, channels_last: auto}}`, the same
two for `train:`, `replays: 2`, against a plain fp32 loop that has **no teacher at all**. Whole runs in turn, the order
swapped from seed to seed; the time is all of `fit()`, with the choices of auto and the ledger, without evaluation.
Ratios are medians over the seeds' own ratios. Where a processor computes bf16 no faster than fp32, auto keeps fp32, and
the student's own steps take nearly all of the time."""
    ]
    if "images" in found:
        parts.append(_images(found))
    if "paired" in found:
        parts.append(
            f"""For the accuracy, our distilled side and the live teacher's in runs of their own, with the same settings
and seeds. A seed that stands in both tables shows what rounding alone does, where auto chose another format for the
teacher:

{table(found["paired"])}

{differences(found["paired"])}""".rstrip()
        )
    if "text" in found:
        parts.append(
            f"""### Text

A transformer of two layers under MiniLM (six layers of 384, 30,522 words), {found["text_rows"]:,} sentences, batches of
64 as wide as their longest sentence, Adam. Only time is measured. The teacher costs the same whatever the student is:
the smaller the student, the more of its own step one epoch of the teacher is."""
        )
        for width, texts in found["text"].items():
            parts.append(f"A student of width {width}:\n\n{table(texts)}\n\n{ratios_table(ratios('text', texts))}")
    return "\n\n".join(parts)


def _images(found: Mapping[str, Any]) -> str:
    images = found["images"]
    student, teacher = found["depths"]
    return f"""### Images

ResNet-{student} under ResNet-{teacher} ({images["teacher_accuracy"]:.2f}% right), {found["rows"]:,} images of
FashionMNIST as 3 × 32 × 32, batch 128, random crops and mirroring, accuracy on the 10,000 test images. The plain loop
augments too, from images that are padded once and lie in memory.

{table(images)}

{_times(images)}

{differences(images)}""".rstrip()


def _times(images: Mapping[str, Any]) -> str:
    """What the time of the runs says, where it was measured on a machine that did nothing else."""
    if not any(side["seconds"] for side in images["sides"].values()):
        return "Only accuracy was measured: the machine did other work at the same time, so times say nothing."
    made = ratios("images", images)
    return f"""{ratios_table(made) if made else "No ratio: the plain loop was not run here."}

The ledger of our last run, whose store took {images.get("store_mb", 0.0):.1f} MB:

```text
{images.get("ledger", "no run of ours was measured").strip()}
```"""
