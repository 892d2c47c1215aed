"""What the tests of pages share: their tags, their pictures, and which texts of a picture cover one another."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from kdhooks.plots.drawing import BOLD, LETTER

SVG = "{http://www.w3.org/2000/svg}"
EMPTY_TAGS = {"meta", "br", "hr", "img", "link"}

Box = tuple[float, float, float, float]


class Tags(HTMLParser):
    """Keeps every tag with its attributes, and fails where one is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in EMPTY_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags_of(page: str) -> list[tuple[str, dict[str, str | None]]]:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags.seen


def drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def box(text: ElementTree.Element) -> Box:
    """About what a text covers: left, top, right, bottom; one that is turned is read from below."""
    x, y = float(text.attrib["x"]), float(text.attrib["y"])
    width = (BOLD if "label" in text.attrib.get("class", "") else LETTER) * len(text.text or "")
    before = {"start": 0.0, "middle": width / 2, "end": width}[text.attrib["text-anchor"]]
    if "transform" in text.attrib:
        return x - 10, y - width + before, x + 2, y + before
    return x - before, y - 10, x - before + width, y + 2


def texts_outside(drawing: ElementTree.Element) -> list[str | None]:
    width, height = (float(drawing.attrib[name]) for name in ("width", "height"))
    outside = []
    for text in drawing.iter(f"{SVG}text"):
        left, top, right, bottom = box(text)
        if left < -2 or top < -2 or right > width + 2 or bottom > height + 2:
            outside.append(text.text)
    return outside


def overlapping(drawing: ElementTree.Element) -> list[tuple[str | None, str | None]]:
    boxes = [(text.text, box(text)) for text in drawing.iter(f"{SVG}text")]
    return [
        (one, other)
        for at, (one, a) in enumerate(boxes)
        for other, b in boxes[at + 1 :]
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]
