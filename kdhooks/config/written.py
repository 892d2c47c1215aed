"""A configuration as text again, for people to read: the file as it is, or what was set, written as YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from kdhooks.config.source import Source

_PASSWORD = re.compile(r"(://[^/\s:@'\"]*):[^/\s@'\"]+@")


def written(source: Source) -> str:
    """The file's own text where nothing was changed since, and otherwise YAML of what holds; without passwords.

    >>> from kdhooks.config.source import from_python
    >>> print(written(from_python({"tuning": {"loggers": {"mlflow": {"tracking_uri": "http://me:secret@host"}}}})))
    tuning:
      loggers:
        mlflow:
          tracking_uri: http://me:***@host
    <BLANKLINE>
    """
    unchanged = source.lines and not source.assigned
    return without_passwords("\n".join(source.lines)) if unchanged else dumped(source.data)


def dumped(data: Any) -> str:
    """Plain data as YAML, without passwords; of whatever else is in them the name or the representation."""
    return without_passwords(_dumped(data))


def without_passwords(text: str) -> str:
    """A text in which the password of every URL is three stars."""
    return _PASSWORD.sub(r"\1:***@", text)


def _dumped(data: Any) -> str:
    if not data:
        return ""
    return yaml.safe_dump(_plain(data), sort_keys=False, allow_unicode=True, width=100)


def _plain(value: Any) -> Any:
    """What YAML can write; of a function its name."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__qualname__", None) or repr(value)
