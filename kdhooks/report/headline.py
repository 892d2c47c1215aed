"""The sentences that say what a run achieved; what is not known is left out of them."""

from __future__ import annotations

from kdhooks.report.numbers import Metric, counted, finite, number, percent, times
from kdhooks.report.record import Pages


def headline(pages: Pages) -> str:
    """What the run achieved, in one sentence without a full stop.

    As in: The student keeps 98.2% of the teacher's accuracy with 12% of its parameters, 4.1 times as fast.
    """
    quality = _quality(pages)
    if quality:
        share, speed = _share(pages, "its"), _speed(pages)
        return ", ".join(filter(None, [f"The student {quality}{f' with {share}' if share else ''}", speed]))
    return cost_sentence(pages) or _course(pages)


def cost_sentence(pages: Pages) -> str:
    """What the student costs beside its teacher; empty where that is not known."""
    share, speed = _share(pages, "the teacher's"), _speed(pages)
    if not share and not speed:
        return ""
    verb = "runs " if speed.startswith("at") else "is "
    return "The student " + " and ".join(filter(None, [f"has {share}" if share else "", speed and verb + speed]))


def _course(pages: Pages) -> str:
    """Without models to compare: how the run went."""
    if not pages.history:
        return "No epoch has ended yet"
    epochs = counted(len(pages.history), "epoch")
    for metric in pages.metrics:
        values = [value for value in pages.column("metrics", metric.name) if value is not None]
        if values:
            best = max(values) if metric.higher else min(values)
            return f"The student reached {metric.label} {metric.text(best)} in {epochs}"
    totals = [value for value in pages.column("losses", "total") if value is not None]
    if len(totals) > 1:
        return f"The loss went from {number(totals[0])} to {number(totals[-1])} in {epochs}"
    return f"The student trained for {epochs}"


def _quality(pages: Pages) -> str:
    """How the student's metric stands beside the teacher's, the best one's where there are several."""
    found = decisive(pages)
    if found is None:
        return ""
    metric, student, teacher, whose = found
    name, ours, theirs = metric.label, metric.text(student), metric.text(teacher)
    if ours == theirs:
        return f"matches {whose} {name} ({ours})"
    if student > teacher if metric.higher else student < teacher:
        return f"beats {whose} {name} ({ours} to {theirs})"
    if metric.higher and teacher > 0 and student >= 0:
        return f"keeps {percent(student / teacher)} of {whose} {name}"
    return f"reaches {name} {ours} against {whose} {theirs}"


def decisive(pages: Pages) -> tuple[Metric, float, float, str] | None:
    """The first metric that the student and a teacher have, both values, and in words whose the second one is."""
    for metric in pages.metrics:
        there = [model.metrics[metric.name] for model in pages.teachers if metric.name in model.metrics]
        if metric.name in pages.student.metrics and there:
            best = max(there) if metric.higher else min(there)
            whose = "the best teacher's" if len(there) > 1 else "the teacher's"
            return metric, pages.student.metrics[metric.name], best, whose
    accuracy = (pages.run.get("confusion") or {}).get("accuracy") or {}
    student, teacher = finite(accuracy.get("student")), finite(accuracy.get("teacher"))
    if student is None or teacher is None:
        return None
    return Metric.of("accuracy", [student, teacher]), student, teacher, "the teacher's"


def _share(pages: Pages, whose: str) -> str:
    """The student's parameters beside those of the teacher, or of all teachers together."""
    numbers = [model.parameters or 0.0 for model in pages.teachers]
    if pages.student.parameters is None or not numbers or not all(numbers):
        return ""
    ratio = pages.student.parameters / sum(numbers)
    whose = "the teachers'" if len(numbers) > 1 else whose
    if 0.995 < ratio < 1.005:
        return "as many parameters"
    return f"{percent(ratio)} of {whose} parameters" if ratio < 1 else f"{times(ratio)} times {whose} parameters"


def _speed(pages: Pages) -> str:
    """How fast the student is beside the teacher, or beside all teachers one after another."""
    latencies = [model.latency[0] if model.latency else 0.0 for model in pages.teachers]
    if pages.student.latency is None or not latencies or not all(latencies) or not pages.student.latency[0]:
        return ""
    ratio = sum(latencies) / pages.student.latency[0]
    several = len(latencies) > 1
    tail = " as all of them" if several else ""
    if 0.95 < ratio < 1.05:
        return f"as fast{tail}"
    whose = "the teachers'" if several else "the teacher's"
    return f"{times(ratio)} times as fast{tail}" if ratio > 1 else f"at {times(1 / ratio)} times {whose} latency"
