"""Axes with round ticks, their grid and their names."""

from __future__ import annotations

from kdhooks.plots.drawing import Drawing
from kdhooks.plots.scales import Scale, tick_texts


def frame(drawing: Drawing, x: Scale, y: Scale, *, x_label: str = "", y_label: str = "", whole: bool = False) -> None:
    """Grid lines, ticks with their numbers and the names of the axes; `y.end` is the upper edge.

    Args:
        drawing: where they are drawn.
        x: the scale to the right.
        y: the scale upwards.
        x_label: below the axis.
        y_label: left of the axis.
        whole: whether x counts, so that only whole numbers have a tick.
    """
    ticks = x.ticks(max(3, int(abs(x.end - x.start) / 90)))
    ticks = [value for value in ticks if not whole or float(value).is_integer()]
    for value, text in zip(ticks, tick_texts(ticks), strict=True):
        drawing.line(x.at(value), y.start, x.at(value), y.end, "grid")
        drawing.text(x.at(value), y.start + 17, text, "tick", anchor="middle")
    ticks = y.ticks(max(3, int(abs(y.end - y.start) / 34)))
    for value, text in zip(ticks, tick_texts(ticks), strict=True):
        drawing.line(x.start, y.at(value), x.end, y.at(value), "grid")
        drawing.text(x.start - 7, y.at(value) + 4, text, "tick", anchor="end")
    drawing.line(x.start, y.start, x.end, y.start, "axis")
    drawing.line(x.start, y.start, x.start, y.end, "axis")
    if x_label:
        drawing.text((x.start + x.end) / 2, y.start + 36, x_label, "label", anchor="middle")
    if y_label:
        drawing.turned(16, (y.start + y.end) / 2, y_label, "label")
