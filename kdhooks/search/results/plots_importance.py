"""Bars that say which parameters decide about a metric."""

from __future__ import annotations

from kdhooks.plots.drawing import LETTER, WIDTH, Drawing
from kdhooks.search.results.importance import Importance

_ROW, _TOP, _MOST = 26, 8, 20


def importance_plot(importance: Importance) -> str:
    """One bar a parameter, the most important one first, with its share in percent, as SVG; empty without shares."""
    shares = list(importance.shares.items())[:_MOST]
    if not shares:
        return ""
    names = min(260.0, 16 + LETTER * max(len(name) for name, _ in shares))
    drawing = Drawing(WIDTH, _TOP * 2 + _ROW * len(shares), f"importance for {importance.metric}")
    widest = WIDTH - names - 60
    for place, (name, share) in enumerate(shares):
        y = _TOP + place * _ROW
        drawing.text(names - 8, y + 17, name, "tick", anchor="end", most=names - 10)
        drawing.bar(names, y + 4, max(1.0, widest * share / shares[0][1]), _ROW - 8, "bar", f"{name}: {share:.1%}")
        drawing.text(names + widest * share / shares[0][1] + 7, y + 17, _percent(share), "tick")
    drawing.line(names, _TOP, names, drawing.height - _TOP, "axis")
    return drawing.svg()


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "< 1%"
