"""The pieces that sections of the page are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

CELL, NARROW, BROAD = 306, 332, 1004
"""Widths of pictures in px: of one in three columns, of a whole row on a phone, of a whole row on a laptop."""


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        place: its anchor.
        name: in the list of sections.
        finding: its heading, which says what was found; plain text.
        body: HTML.
    """

    place: str
    name: str
    finding: str
    body: str

    def html(self) -> str:
        """The section as an element of the page."""
        heading = f'<p class="eyebrow">{escape(self.name)}</p><h2 id="{self.place}-h">{escape(self.finding)}</h2>'
        return f'<section id="{self.place}" aria-labelledby="{self.place}-h">{heading}{self.body}</section>'


def figure(svg: str, title: str, note: str = "", *, aside: str = "") -> str:
    """A picture under its title; all texts are plain.

    Args:
        svg: the picture.
        title: what it shows.
        note: in a smaller line under it.
        aside: what follows the title in the same line.
    """
    more = f" <span>{escape(aside)}</span>" if aside else ""
    foot = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<figure><figcaption>{escape(title)}{more}</figcaption>{svg}{foot}</figure>"


def both(broad: str, narrow: str) -> str:
    """The same picture twice: one is shown on a laptop, the other one on a phone."""
    return f'<div class="broad">{broad}</div><div class="narrow">{narrow}</div>'


def cells(figures: Iterable[str], style: str = "cells") -> str:
    """Figures side by side, as many as there is room for."""
    return f'<div class="{style}">{"".join(figures)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[int] = (0,), name: str = "") -> str:
    """A table that scrolls inside itself where it is too wide; all texts are plain.

    Args:
        head: of the columns.
        rows: cells.
        words: the columns whose cells are words, not numbers.
        name: what a screen reader says of it.
    """
    kinds = [' class="text"' if at in words else "" for at in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{escape(text)}</th>' for text, kind in zip(head, kinds, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))}</tr>"
        for row in rows
    )
    label = escape(name or " ".join(head))
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def paragraph(text: str, style: str = "") -> str:
    """A paragraph of plain text."""
    kind = f' class="{style}"' if style else ""
    return f"<p{kind}>{escape(text)}</p>"


def folded(summary: str, body: str, *, opened: bool = False) -> str:
    """What is shown when its summary is pressed."""
    return f"<details{' open' if opened else ''}><summary>{escape(summary)}</summary>{body}</details>"
