"""A search's result as plain data and as a file: its versioned form, and reading it back.

Numbers that JSON doesn't know (NaN and the infinities) are written as texts. A password in the storage's URL is never
written.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdhooks.config.model import Named
from kdhooks.config.search_settings import Choices, Dimension, Limit, Range, Relation, SearchSettings, When
from kdhooks.errors import DataError
from kdhooks.search.candidates import Candidate, plain

FORMAT, VERSION = "kdhooks search result", 1


def to_dict(
    candidates: Sequence[Candidate],
    settings: SearchSettings,
    name: str,
    *,
    best: Candidate | None,
    pareto: Sequence[Candidate],
) -> dict[str, Any]:
    """A result as data that JSON can hold."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "search": settings_to_dict(settings),
        "best": None if best is None else best.number,
        "pareto": [candidate.number for candidate in pareto],
        "candidates": [plain(candidate.as_dict()) for candidate in candidates],
    }


def settings_to_dict(settings: SearchSettings) -> dict[str, Any]:
    """The settings of a search with the keys that the YAML has, every default filled in."""
    pruner = settings.pruner
    return {
        "search_space": {dimension.name: _dimension_to_dict(dimension) for dimension in settings.search_space},
        "search_algorithm": settings.search_algorithm,
        "metrics": list(settings.metrics),
        "higher_is_better": list(settings.higher_is_better),
        "max_trials": settings.max_trials,
        "seed": settings.seed,
        "limits": [
            {"metric": limit.metric, "at_most": limit.at_most, "bound": limit.bound, "text": limit.text}
            for limit in settings.limits
        ],
        "relations": [
            {"left": one.left, "comparison": one.comparison, "right": one.right, "text": one.text}
            for one in settings.relations
        ],
        "pruner": None if pruner is None else {pruner.name: plain(pruner.options)},
        "storage": None if settings.storage is None else without_password(settings.storage),
        "study_name": settings.study_name,
        "timeout": settings.timeout,
        "startup_trials": settings.startup_trials,
        "best_by": settings.best_by,
        "keep_weights": settings.keep_weights,
        "heartbeat": settings.heartbeat,
    }


def without_password(url: str) -> str:
    """A storage's URL as others may see it.

    >>> without_password("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'
    """
    return re.sub(r"(?<=://)([^:/?#@]*):[^/?#]*@", r"\1:***@", re.sub(r"(?i)(password=)[^&]*", r"\1***", url))


def from_dict(content: Any, source: str) -> tuple[list[Candidate], SearchSettings, str]:
    """What `to_dict` made, as objects again.

    Args:
        content: the data.
        source: what the data came from, for messages.

    Raises:
        DataError: it is of another form, or of a newer version.
    """
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise DataError(f"{source} is no result of a kdhooks search")
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise DataError(
            f"{source} is of version {version}, and this kdhooks reads up to version {VERSION}: update kdhooks"
        )
    try:
        candidates = [Candidate.from_dict(entry) for entry in content["candidates"]]
        return candidates, _settings(content["search"]), str(content["name"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source} is damaged: {type(error).__name__}: {error}") from None


def as_json(content: Mapping[str, Any]) -> str:
    """The text of a file; one key a line, in the order of the form."""
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """What a file holds.

    Raises:
        DataError: it can't be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from None
    except ValueError:
        raise DataError(f"{path} is no JSON") from None


def write_text(path: Path, text: str) -> Path:
    """Replace a file as a whole, so that no reader and no kill meets half of it; folders are made.

    Raises:
        DataError: it can't be written; a former file is still there.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # its own: several workers may write one result
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(unfinished, "x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(f"{path} can't be written: {error.strerror or error}") from None
    return path


def _dimension_to_dict(dimension: Dimension) -> dict[str, Any]:
    if isinstance(dimension, Choices):
        content: dict[str, Any] = {"choices": plain(dimension.values)}
    else:
        content = {key: getattr(dimension, key) for key in ("low", "high", "step", "log", "integer")}
    if dimension.when:
        content["when"] = {condition.name: plain(condition.values) for condition in dimension.when}
    return content


def _dimension(name: str, content: Mapping[str, Any]) -> Dimension:
    when = tuple(When(other, tuple(values)) for other, values in content.get("when", {}).items())
    if "choices" in content:
        return Choices(name, tuple(content["choices"]), when)
    numbers = {key: content[key] for key in ("low", "high", "step", "log", "integer")}
    return Range(name, **numbers, when=when)


def _settings(content: Mapping[str, Any]) -> SearchSettings:
    pruner = content["pruner"]
    special: dict[str, Any] = {
        "search_space": tuple(_dimension(name, entry) for name, entry in content["search_space"].items()),
        "metrics": tuple(content["metrics"]),
        "higher_is_better": tuple(content["higher_is_better"]),
        "limits": tuple(Limit(**entry) for entry in content["limits"]),
        "relations": tuple(Relation(**entry) for entry in content["relations"]),
        "pruner": None if pruner is None else Named(*next(iter(pruner.items()))),
    }
    return SearchSettings(**{**content, **special})
