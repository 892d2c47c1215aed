"""SVG written by hand.

Colours are classes, so that the page's style sheet has them for light and for dark. Every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH = 1030
"""Of a picture in px; the page is as wide."""

LETTER = 6.4
"""Width of a letter of 12 px, on average and rather too large."""

BOLD = 7.6
"""The same of a letter in bold, as texts of the class ``label`` are."""


class Drawing:
    """One SVG picture; elements are drawn in the order of the calls.

    Args:
        width, height: in px; the picture shrinks with the page.
        title: what a screen reader says of it.
        about: what it says beyond that: the numbers that the picture shows.
    """

    def __init__(self, width: float, height: float, title: str, about: str = "") -> None:
        self.width, self.height, self.title, self.about = width, height, title, about
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

    def turned(self, x: float, y: float, text: str, style: str = "", *, anchor: str = "middle", hint: str = "") -> None:
        """A line of text that is read from below, with its middle here, or its begin or end."""
        self._parts.append(
            f'<text x="{px(x)}" y="{px(y)}" text-anchor="{anchor}" class="{style}" '
            f'transform="rotate(-90 {px(x)} {px(y)})">{escape(text)}{_hint(hint)}</text>'
        )

    def svg(self) -> str:
        """The picture as an element of a page."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {px(self.width)} {px(self.height)}" '
            f'width="{px(self.width)}" height="{px(self.height)}" role="img" aria-label="{escape(self.title)}">'
            f"{f'<desc>{escape(self.about)}</desc>' if self.about else ''}{''.join(self._parts)}</svg>"
        )


def px(value: float) -> str:
    """A coordinate with a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def _hint(text: str) -> str:
    """What is shown when a pointer rests on an element."""
    return f"<title>{escape(text)}</title>" if text else ""


def shortened(text: str, most: float, *, end: bool = False) -> str:
    """A text that has about this many px of room; with `end` its end is kept, which says more of a layer's name.

    >>> shortened("encoder.layer.3", 50), shortened("encoder.layer.3", 50, end=True)
    ('encode…', '…ayer.3')
    """
    letters = max(2, int(most / LETTER))
    if len(text) <= letters:
        return text
    return "…" + text[1 - letters :] if end else text[: letters - 1] + "…"
