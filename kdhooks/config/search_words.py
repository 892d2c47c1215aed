"""Texts of a search with a form of their own: a span of time, and where a study is stored."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

from kdhooks.config.rules import Report
from kdhooks.names import closest

_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_SPAN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")


@dataclass(frozen=True)
class Duration:
    """Seconds, or a text with units: ``2 h``, ``1 h 30 min``."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """Seconds, a float above 0."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds: float | None = float(value)
        else:
            seconds = _seconds(value) if isinstance(value, str) else None
        if seconds is not None and 0 < seconds <= sys.float_info.max:
            return seconds
        advice = "Units: s, min, h, d" if isinstance(value, str) else ""
        return report.expected(path, "seconds, or a text as in '2 h' or '90 min'", value, advice)


def _seconds(text: str) -> float | None:
    total, position = 0.0, 0
    while position < len(text.rstrip()):
        found = _SPAN.match(text, position)
        if found is None or found[2].lower() not in _SECONDS:
            return None
        total += float(found[1]) * _SECONDS[found[2].lower()]
        position = found.end()
    return total


_SERVER = r"(\+\w+)?://.+"
STORAGES = {
    "sqlite": re.compile(r"sqlite(\+\w+)?:///.+"),
    "journal": re.compile(r"journal:.+"),
    "postgresql": re.compile(f"postgresql{_SERVER}"),
    "mysql": re.compile(f"mysql{_SERVER}"),
    "grpc": re.compile(r"grpc://[^:/\s]+:[0-9]{1,5}"),
    "memory": re.compile("memory"),
}
"""The URLs of a study, by what stands before the first colon."""

_EXAMPLES = {
    "sqlite": "sqlite:///study.db",
    "journal": "journal:study.log",
    "postgresql": "postgresql://user@host/database",
    "mysql": "mysql://user@host/database",
    "grpc": "grpc://host:13000",
    "memory": "memory",
}


@dataclass(frozen=True)
class StudyStorage:
    """Where a study is stored, as a URL of a known kind."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The text as it was given."""
        if not isinstance(value, str) or not value:
            return report.expected(path, f"where the study is stored, as in {_EXAMPLES['sqlite']}", value)
        kind = re.split(r"[+:]", value, maxsplit=1)[0]
        if kind in STORAGES and STORAGES[kind].fullmatch(value):
            return value
        shown = re.sub("//([^:/@]*):[^@]*@", r"//\1:***@", value)  # a password is in no message
        if kind in STORAGES:
            return report.add(path, f"{shown!r} is not how {kind} is written", f"Write it as in {_EXAMPLES[kind]}")
        return report.add(path, f"{shown!r} is no known kind of storage", _storage_meant(value, kind))


def _storage_meant(value: str, kind: str) -> str:
    """What to write instead."""
    if kind == value:  # no colon: the path of a file
        suffix = value.rpartition(".")[2]
        if suffix in ("db", "sqlite", "sqlite3"):
            return f"Write sqlite:///{value}"
        if suffix in ("log", "journal", "jsonl"):
            return f"Write journal:{value}"
    near = closest(kind, STORAGES)
    if near is not None:
        return f"Did you mean {near!r}, as in {_EXAMPLES[near]}?"
    return f"Kinds: {', '.join(_EXAMPLES.values())}"
