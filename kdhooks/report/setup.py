"""What the run was: its configuration, the versions of what it ran with, and what is missing on the page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from kdhooks.report.numbers import number
from kdhooks.report.record import Pages
from kdhooks.report.section import Section, folded, paragraph, table

_MOST_LETTERS = 200_000
_SECTIONS = {
    "steps": "the losses of single steps",
    "models": "teacher against student",
    "ledger": "what a step costs",
    "similarity": "layer similarity",
    "confusion": "the confusion between student and teacher",
    "disagreements": "the samples they disagree on",
}


def setup(pages: Pages) -> Section:
    """The section of the configuration and the versions."""
    run = pages.run
    text = str(run.get("configuration") or "")
    body = ""
    if text.strip():
        cut = "" if len(text) <= _MOST_LETTERS else "\n… the rest is in run.json"
        code = f'<pre tabindex="0" aria-label="configuration">{escape(text[:_MOST_LETTERS])}{cut}</pre>'
        body += folded("Configuration", code, opened=text.count("\n") <= 60)
    facts = {
        **_named(run.get("machine"), ""),
        "device": run.get("device"),
        "framework": run.get("framework"),
        "seed": run.get("seed"),
    }
    rows = [[name.replace("_", " "), _text(value)] for name, value in facts.items() if value not in (None, "")]
    versions = [[name, _text(value)] for name, value in _named(run.get("versions"), "").items()]
    body += '<div class="two">'
    body += f"<div><h3>Machine</h3>{_words('machine', rows)}</div>" if rows else ""
    body += f"<div><h3>Versions</h3>{_words('versions', versions)}</div>" if versions else ""
    return Section("setup", "Configuration and versions", _finding(run), f"{body}</div>")


def _finding(run: Mapping[str, Any]) -> str:
    versions = run.get("versions") or {}
    with_what = ", ".join(f"{name} {versions[name]}" for name in ("kdhooks", "torch", "tensorflow") if name in versions)
    seed = f", seed {run['seed']}" if run.get("seed") is not None else ""
    return f"Made with {with_what or 'what is named here'}{seed}"


def _words(name: str, rows: list[list[str]]) -> str:
    return table(["name", "value"], rows, words=(0, 1), name=name)


def _named(mapping: Any, prefix: str) -> dict[str, Any]:
    """A mapping in which inner mappings are flat."""
    found: dict[str, Any] = {}
    for name, value in (mapping or {}).items():
        found |= _named(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def missing(pages: Pages, shown: set[str]) -> Section | None:
    """The section of what is not on the page, with reasons; None where nothing is missing."""
    reasons = pages.run.get("missing") or {}
    absent = {name: reasons.get(name) for name in _SECTIONS if name not in shown}
    absent |= {name: reason for name, reason in reasons.items() if name not in shown}
    if not absent:
        return None
    unsaid = "the run's record has none and gives no reason"
    rows = [
        [_SECTIONS.get(name, name.replace("models.", "numbers of the ")), str(reason or unsaid)]
        for name, reason in absent.items()
    ]
    count = len(rows)
    what = "one section is" if count == 1 else f"{count} sections are"
    body = paragraph("Each with the reason that the run gave.", "soft") + _words("missing", rows)
    return Section("missing", "What is missing", f"{what.capitalize()} not on this page", body)
