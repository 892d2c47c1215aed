"""The samples that student and teacher disagree on most, with their picture or text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from kdhooks.report.numbers import finite, number, percent
from kdhooks.report.record import Pages
from kdhooks.report.section import Section, paragraph

_MOST, _MOST_LETTERS, _MOST_BYTES = 24, 600, 1_500_000
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")


def samples(pages: Pages) -> Section | None:
    """The section of the disagreements; None without any."""
    found = [entry for entry in pages.run.get("disagreements") or () if entry][:_MOST]
    if not found:
        return None
    room = _MOST_BYTES
    cards, without = [], 0
    for entry in found:
        picture = _picture(entry)
        if picture is not None and len(picture) > room:
            picture, without = None, without + 1
        room -= len(picture or "")
        cards.append(_card(entry, picture))
    body = f'<ul class="samples">{"".join(cards)}</ul>'
    if without:
        body += paragraph(f"{without} pictures are left out, since the page would be too large.", "soft")
    return Section("samples", "Samples they disagree on", _finding(found), body)


def _finding(found: list[Mapping[str, Any]]) -> str:
    told = [entry for entry in found if entry.get("label") is not None]
    if not told:
        return "The samples that student and teacher see most differently"
    student = sum(str(entry.get("student")) == str(entry["label"]) for entry in told)
    teacher = sum(str(entry.get("teacher")) == str(entry["label"]) for entry in told)
    return f"Of the {len(told)} they see most differently the teacher has {teacher} right, the student {student}"


def _picture(entry: Mapping[str, Any]) -> str | None:
    """The picture, if it is one that stands in the record itself."""
    image = entry.get("image")
    return image if isinstance(image, str) and _PICTURE.fullmatch(image) else None


def _card(entry: Mapping[str, Any], picture: str | None) -> str:
    row, label = entry.get("row"), entry.get("label")
    head = ""
    if picture is not None:
        head = f'<img src="{picture}" alt="row {escape(str(row))}">'
    elif entry.get("text"):
        text = str(entry["text"])
        short = text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"
        head = f"<blockquote>{escape(short)}</blockquote>"
    verdicts = "".join(
        _verdict(role, entry.get(role), finite(entry.get(f"{role}_probability")), label)
        for role in ("teacher", "student")
    )
    truth = f"label {label}" if label is not None else "no label"
    divergence = finite(entry.get("divergence"))
    facts = [f"row {row}", *([f"divergence {number(divergence)}"] if divergence is not None else [])]
    lines = "".join(f'<span class="soft">{escape(line)}</span>' for line in (truth, " · ".join(facts)))
    return f"<li>{head}<div>{verdicts}{lines}</div></li>"


def _verdict(role: str, said: Any, probability: float | None, label: Any) -> str:
    mark = "" if label is None else " ✓" if str(said) == str(label) else " ✕"
    sure = "" if probability is None else f" <small>{escape(percent(probability))}</small>"
    return f'<span class="said {role}s">{role} <b>{escape(str(said))}</b>{mark}{sure}</span>'
