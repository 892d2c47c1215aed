"""Finished runs of `benchmarks.domains`, one JSON file each in ``.kdhooks/domains``; a changed recipe is another."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

KEEP = Path(".kdhooks/domains")


def run_file(kind: str, recipe: Any, seed: int, keep: Path = KEEP) -> Path:
    """Where a run is kept; its name holds all that decides it but code and data.

    Args:
        kind: of the comparison.
        recipe: a dataclass.
        seed: of the run.
        keep: the folder.
    """
    told = json.dumps([asdict(recipe), seed], sort_keys=True)
    return keep / f"{kind}-{seed}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.json"


def find(kind: str, recipe: Any, seed: int, keep: Path = KEEP) -> dict[str, Any] | None:
    """A run that is done, or None."""
    path = run_file(kind, recipe, seed, keep)
    return dict(json.loads(path.read_text())) if path.is_file() else None


def put(kind: str, name: str, recipe: Any, seed: int, found: dict[str, Any], keep: Path = KEEP) -> None:
    """Keep a run; its file is never half written."""
    path = run_file(kind, recipe, seed, keep)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_text(json.dumps({"row": name, "seed": seed, "recipe": asdict(recipe), **found}, indent=1))
    os.replace(half, path)


def kept(kind: str, recipe: Any, seeds: Iterable[int], keep: Path = KEEP) -> dict[int, dict[str, Any]]:
    """The runs of a recipe that are done, by seed."""
    found = {seed: find(kind, recipe, seed, keep) for seed in seeds}
    return {seed: run for seed, run in found.items() if run is not None}
