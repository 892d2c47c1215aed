"""The file of a record: written whole or not at all, and read with checks."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdhooks.errors import DataError

NAME = "run.json"
FORMAT, VERSION = "kdhooks run", 1
STATUSES = ("running", "finished", "stopped", "failed")
_LISTS = ("history", "disagreements")
_MAPPINGS = ("versions", "machine", "steps", "models", "missing")
_TEXTS = ("name", "framework", "status", "configuration")


def write_run(path: Path, content: Mapping[str, Any]) -> Path:
    """Replace a record as a whole; returns its path.

    Raises:
        DataError: it can't be written; the former record is still there.
    """
    unfinished = path.with_name(f".{path.name}.part")  # one name, so that what a killed run left is written over
    text = json.dumps(plain({"format": FORMAT, "version": VERSION, **content}), allow_nan=False, ensure_ascii=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
                file.write(f"{text}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"the record {path} can't be written: {error.strerror or error}") from None
    return path


def read_run(path: str | Path) -> dict[str, Any]:
    """The record of a run.

    Args:
        path: of the file, or of the run's folder, which holds it as ``run.json``.

    Returns:
        Plain data; what could not be made is None, with a reason under ``missing``.

    Raises:
        DataError: it is missing, damaged, no record of ours, or of a newer version.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"there is no record of a run at {path}: fit() writes one into the run's folder, tuning.workspace.path"
        ) from None
    except OSError as error:
        raise DataError(f"the record {path} can't be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path} is damaged, or no record of a run: it is no JSON") from None
    return _checked(content, path)


def _checked(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is no record of a run of kdhooks")
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise DataError(
            f"the record {path} is of version {version}, and this kdhooks reads up to version {VERSION}: update kdhooks"
        )
    wrong = _fault(content)
    if wrong is not None:
        raise DataError(f"the record {path} is damaged: {wrong}")
    return content


def _fault(content: Mapping[str, Any]) -> str | None:
    """What is wrong with a record's form, or None."""
    for keys, kind, what in ((_LISTS, list, "list"), (_MAPPINGS, dict, "mapping"), (_TEXTS, str, "text")):
        for key in keys:
            if key not in content:
                return f"it has no {key!r}"
            if not isinstance(content[key], kind):
                return f"{key!r} is no {what}"
    if content["status"] not in STATUSES:
        return f"its status is {content['status']!r:.40}"
    for number, record in enumerate(content["history"]):
        if not isinstance(record, dict) or not {"epoch", "losses", "metrics"} <= set(record):
            return f"'history[{number}]' is no record of an epoch"
    return _fault_of_steps(content["steps"])


def _fault_of_steps(steps: Mapping[str, Any]) -> str | None:
    losses = steps.get("losses")
    if not isinstance(losses, dict) or not all(isinstance(steps.get(key), list) for key in ("step", "learning_rate")):
        return "'steps' lacks step, learning_rate or losses"
    count = len(steps["step"])
    columns = {"learning_rate": steps["learning_rate"], **{f"losses.{name}": losses[name] for name in losses}}
    for name, column in columns.items():
        if not isinstance(column, list) or len(column) != count:
            there = len(column) if isinstance(column, list) else "no"
            return f"'steps.{name}' has {there} values for {count} steps"
    return None


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NaN and the infinities are None, scalars of arrays plain numbers.

    >>> plain({"a": (1, float("nan")), 2: float("inf")})
    {'a': [1, None], '2': None}
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays, and their scalars
        return plain(value.tolist())
    return str(value)
