"""Teacher against student: bars for each quantity that is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kdhooks.measurement.measured import shown
from kdhooks.plots.drawing import BOLD, LETTER, Drawing
from kdhooks.report.headline import cost_sentence
from kdhooks.report.numbers import Metric, milliseconds, percent, times
from kdhooks.report.record import Model, Pages
from kdhooks.report.section import CELL, Section, cells, figure, paragraph

_ROW, _TOP = 30, 4


@dataclass(frozen=True)
class _Quantity:
    """One thing that models are compared in.

    Attributes:
        title: above its bars.
        value: of a model, or None.
        text: of a value.
        verdict: of the student's value and the teacher's, in a few words.
    """

    title: str
    value: Callable[[Model], float | None]
    text: Callable[[float], str]
    verdict: Callable[[float, float], str]


def compared(pages: Pages) -> Section | None:
    """The section of the models; None where nothing is known of them."""
    models = [pages.student, *pages.teachers]
    found = [drawn for quantity in _quantities(pages) if (drawn := _bars(quantity, models))]
    if not found:
        return None
    kinds = ", ".join(f"{model.role}: {model.kind}" for model in models if model.kind)
    finding = cost_sentence(pages) or ("Student and teacher in numbers" if pages.teachers else "The student in numbers")
    return Section("models", "Teacher against student", finding, paragraph(kinds, "soft") + cells(found))


def _quantities(pages: Pages) -> Iterator[_Quantity]:
    for metric in pages.metrics:
        yield _metric(metric)
    yield _Quantity("parameters", lambda model: model.parameters, _shown("parameters"), _smaller)
    yield _Quantity("size of the file", lambda model: model.file_bytes, _shown("file_size"), _smaller)
    yield _Quantity("latency", lambda model: model.latency[0] if model.latency else None, milliseconds, _faster)
    yield _Quantity("MACs a row", lambda model: model.macs, _macs, _smaller)


def _metric(metric: Metric) -> _Quantity:
    def verdict(student: float, teacher: float) -> str:
        if metric.text(student) == metric.text(teacher):
            return "as good as the teacher"
        word = "above" if student > teacher else "below"
        return f"{metric.apart(student, teacher)} {word}"

    return _Quantity(metric.label, lambda model: model.metrics.get(metric.name), metric.text, verdict)


def _shown(name: str) -> Callable[[float], str]:
    return lambda value: shown(name, value)


def _macs(value: float) -> str:
    """Without the unit, which the title has."""
    return shown("macs", value).removesuffix("MACs").rstrip()


def _smaller(student: float, teacher: float) -> str:
    return f"{percent(student / teacher)} of the teacher's" if teacher > 0 else ""


def _faster(student: float, teacher: float) -> str:
    if not (student > 0 and teacher > 0):
        return ""
    ratio = teacher / student
    if 0.95 < ratio < 1.05:
        return "as fast"
    return f"{times(ratio)} times as fast" if ratio > 1 else f"{times(1 / ratio)} times the teacher's"


def _bars(quantity: _Quantity, models: Sequence[Model]) -> str:
    """A figure with one bar a model; empty where no model has a value."""
    rows = [(model, value) for model in models if (value := quantity.value(model)) is not None]
    if not rows:
        return ""
    student = rows[0][1] if rows[0][0].role == "student" else None
    teachers = [value for model, value in rows if model.role != "student"]
    aside = quantity.verdict(student, teachers[0]) if student is not None and len(teachers) == 1 else ""
    about = "; ".join(f"{model.role} {quantity.text(value)}" for model, value in rows)
    drawing = Drawing(CELL, 2 * _TOP + _ROW * len(rows), f"{quantity.title} of the models", about)
    left = min(96.0, 10 + LETTER * max(len(model.role) for model, _ in rows))
    texts = [quantity.text(value) for _, value in rows]
    room = CELL - left - 10 - BOLD * max(len(text) for text in texts)
    largest = max((abs(value) for _, value in rows), default=0.0) or 1.0
    for place, (model, value) in enumerate(rows):
        y = _TOP + place * _ROW
        width = max(2.0, room * max(0.0, value) / largest)
        style = "student" if model.role == "student" else "teacher"
        drawing.text(left - 8, y + 19, model.role, "tick", anchor="end", most=left - 10)
        hint = f"{model.role}: {texts[place]}"
        if quantity.title == "latency" and model.latency is not None:
            hint += f" (quartiles {milliseconds(model.latency[1])} to {milliseconds(model.latency[2])})"
        drawing.bar(left, y + 5, width, _ROW - 10, style, hint)
        drawing.text(left + width + 7, y + 19, texts[place], "label")
    return figure(drawing.svg(), quantity.title, aside=aside)
