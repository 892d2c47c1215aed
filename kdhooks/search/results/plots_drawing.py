"""SVG written by hand: a drawing, and axes that map values to it.

Colours are classes, so that the page's style sheet has them for light and for dark. Every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH = 1030
"""Of a picture in px; the page is as wide."""

LETTER = 6.4
"""Width of a letter of 12 px, on average and rather too large."""


class Drawing:
    """One SVG picture; elements are drawn in the order of the calls.

    Args:
        width, height: in px; the picture shrinks with the page.
        title: what a screen reader says of it.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A straight line."""
        self._parts.append(f'<line x1="{px(x1)}" y1="{px(y1)}" x2="{px(x2)}" y2="{px(y2)}" class="{style}"/>')

    def path(self, points: Sequence[tuple[float, float]], style: str, hint: str = "", *, closed: bool = False) -> None:
        """A line through points, or a closed shape."""
        steps = "L".join(f"{px(x)},{px(y)}" for x, y in points)
        self._parts.append(f'<path d="M{steps}{"Z" if closed else ""}" class="{style}">{_hint(hint)}</path>')

    def circle(self, x: float, y: float, radius: float, style: str, hint: str = "") -> None:
        """A dot."""
        self._parts.append(f'<circle cx="{px(x)}" cy="{px(y)}" r="{px(radius)}" class="{style}">{_hint(hint)}</circle>')

    def cross(self, x: float, y: float, radius: float, style: str, hint: str = "") -> None:
        """An x."""
        low, high, left, right = px(y + radius), px(y - radius), px(x - radius), px(x + radius)
        self._parts.append(f'<path d="M{left},{low}L{right},{high}M{left},{high}L{right},{low}" class="{style}">')
        self._parts.append(f"{_hint(hint)}</path>")

    def triangle(self, x: float, y: float, radius: float, style: str, hint: str = "") -> None:
        """A triangle that points down."""
        self.path([(x - radius, y - radius), (x + radius, y - radius), (x, y + radius)], style, hint, closed=True)

    def star(self, x: float, y: float, radius: float, style: str, hint: str = "") -> None:
        """A star with five points."""
        angles = [math.pi * (step / 5 - 0.5) for step in range(10)]
        sizes = [radius if step % 2 == 0 else radius * 0.45 for step in range(10)]
        points = [(x + size * math.cos(at), y + size * math.sin(at)) for at, size in zip(angles, sizes, strict=True)]
        self.path(points, style, hint, closed=True)

    def bar(self, x: float, y: float, width: float, height: float, style: str, hint: str = "") -> None:
        """A rectangle."""
        self._parts.append(
            f'<rect x="{px(x)}" y="{px(y)}" width="{px(width)}" height="{px(height)}" class="{style}">'
            f"{_hint(hint)}</rect>"
        )

    def text(self, x: float, y: float, text: str, style: str = "", *, anchor: str = "start", most: float = 0) -> None:
        """A line of text, shortened to `most` px where that is given; the whole text is its hint then."""
        shown = shortened(text, most) if most else text
        hint = _hint(text) if shown != text else ""
        classes = f' class="{style}"' if style else ""
        self._parts.append(
            f'<text x="{px(x)}" y="{px(y)}" text-anchor="{anchor}"{classes}>{escape(shown)}{hint}</text>'
        )

    def turned(self, x: float, y: float, text: str, style: str = "") -> None:
        """A line of text that is read from below, with its middle here."""
        self._parts.append(
            f'<text x="{px(x)}" y="{px(y)}" text-anchor="middle" class="{style}" '
            f'transform="rotate(-90 {px(x)} {px(y)})">{escape(text)}</text>'
        )

    def svg(self) -> str:
        """The picture as an element of a page."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {px(self.width)} {px(self.height)}" '
            f'width="{px(self.width)}" height="{px(self.height)}" role="img" aria-label="{escape(self.title)}">'
            f"{''.join(self._parts)}</svg>"
        )


def px(value: float) -> str:
    """A coordinate with a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def _hint(text: str) -> str:
    """What is shown when a pointer rests on an element."""
    return f"<title>{escape(text)}</title>" if text else ""


def shortened(text: str, most: float) -> str:
    """A text that has about this many px of room."""
    letters = max(2, int(most / LETTER))
    return text if len(text) <= letters else text[: letters - 1] + "…"


@dataclass(frozen=True)
class Scale:
    """Maps numbers to px.

    Attributes:
        low, high: the numbers at the two ends, low < high.
        start, end: their px; `end` may be the smaller one.
        log: whether equal ratios are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The px of a value; one beyond an end stands at that end.

        >>> Scale(0, 10, 100, 0).at(2.5), Scale(1, 100, 0, 10, log=True).at(10), Scale(0, 10, 100, 0).at(11)
        (75.0, 5.0, 0.0)
        """
        value = min(max(value, self.low), self.high)
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        place = math.log(value) if self.log else value
        return self.start + (self.end - self.start) * (place - low) / (high - low)

    def reaches(self, value: float) -> bool:
        """Whether a value lies between the ends."""
        return self.low <= value <= self.high

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers inside of it, at most about `most`."""
        return _log_ticks(self.low, self.high, most) if self.log else _ticks(self.low, self.high, most)


def scale_for(values: Sequence[float], start: float, end: float, *, log: bool | None = None) -> Scale:
    """A scale that has all values with a margin; logarithmic where they are positive and span a factor of 20.

    Args:
        values: finite numbers, at least one.
        start: px of the lower end.
        end: px of the upper end.
        log: whether it is logarithmic; None decides by the values.
    """
    low, high = min(values), max(values)
    if log is None:
        log = low > 0 and high / low > 20
    if log and low > 0:
        margin = max((high / low) ** 0.05, 1.05)
        return Scale(low / margin, high * margin, start, end, log=True)
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return Scale(low - margin, high + margin, start, end)


def _ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for sizes in ((1, 2, 5), (1, 3), (1,)):
        found = [size * 10.0**power for power in powers for size in sizes]
        found = [value for value in found if low * 0.999 <= value <= high * 1.001]
        if len(found) <= most:
            break
    else:
        found = found[:: math.ceil(len(found) / most)]
    return found if len(found) > 1 else _ticks(low, high, most)


def tick_texts(values: Sequence[float]) -> list[str]:
    """Ticks with as many digits as tell them apart.

    >>> tick_texts([0.9, 0.95, 1.0]), tick_texts([1000, 2000]), tick_texts([0.001, 0.01, 0.1])
    (['0.90', '0.95', '1.00'], ['1000', '2000'], ['0.001', '0.01', '0.1'])
    """
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return ["0" for _ in values]
    steps = [after - before for before, after in pairwise(values)] or sizes
    if max(sizes) >= 1e6 or max(sizes) < 1e-3:
        return [f"{value:.2g}" if value else "0" for value in values]
    if max(steps) > 1.01 * min(steps):  # of a logarithmic scale
        return [f"{value:g}" for value in values]
    decimals = max(0, -math.floor(math.log10(min(steps)) + 1e-9))
    return [f"{value:.{min(decimals, 6)}f}" for value in values]
