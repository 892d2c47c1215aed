"""The record of a run while it is under way: what is known so far, and its file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kdhooks.errors import DataError
from kdhooks.ledger.machine import machine, versions
from kdhooks.messages import logger
from kdhooks.runs.curves import Curves
from kdhooks.runs.files import NAME, read_run, write_run

SECTIONS = ("ledger", "similarity", "confusion")
_BEFORE = ("student_layers", "teacher_layers", "before")
_UNDER_WAY = "the run has not ended"


class RunRecord:
    """Gathers what a run leaves behind, and writes it to ``<folder>/run.json``.

    Args:
        folder: of the run.
        name: of the run.
        framework: ``pytorch`` or ``tensorflow``.
        device: where the student is, in words.
        configuration: as YAML.
        seed: of the run, or None.

    Attributes:
        path: of the file.
        models: by name, what is known of them.
        missing: why a section is not there.
        unfinished: what a resumed run needs; ``resume`` in the file.
    """

    def __init__(
        self, folder: Path, *, name: str, framework: str, device: str, configuration: str, seed: int | None
    ) -> None:
        self.path = folder / NAME
        self.models: dict[str, dict[str, Any]] = {}
        self.missing: dict[str, str] = {}
        self.unfinished: dict[str, Any] = {}
        self._facts = {"name": name, "framework": framework, "device": device}
        self._settings = {"configuration": configuration, "seed": seed}
        self._began, self._before, self._clock = _now(), 0.0, time.perf_counter()
        self._curves = Curves()
        self._sections: dict[str, Any] = {}
        self._disagreements: list[dict[str, Any]] = []
        self._warned = False

    def add(self, step: int, losses: Mapping[str, float], rate: float | None) -> None:
        """The losses of a step, where somebody has read them."""
        self._curves.add(step, losses, rate)

    def put(self, section: str, content: Any, reason: str = "") -> None:
        """What a section of the record holds, or why it holds nothing."""
        self.missing.pop(section, None)
        if content is None:
            self.missing[section] = reason
        if section == "disagreements":
            self._disagreements = list(content or ())
        else:
            self._sections[section] = content

    def continues(self, step: int, folder: Path | None = None) -> None:
        """Go on with the record of the run that is resumed; what lies behind `step` is left out.

        Args:
            step: the next one.
            folder: where that record is; None for the own folder.
        """
        try:
            former = read_run(self.path if folder is None else folder / NAME)
        except DataError as error:
            logger.info("the record of the run begins here: %s", error)
            self._curves, self.unfinished = Curves(), {}
            return
        self._began, self._before = former.get("began") or self._began, former.get("seconds") or 0.0
        self._curves = Curves.from_dict(former["steps"], before=step)
        self.unfinished = dict(former.get("resume") or {})
        similarity = former.get("similarity")
        if similarity and similarity.get("before"):  # of a run that had ended, and is made longer
            self.unfinished["similarity"] = {key: similarity[key] for key in _BEFORE}

    def content(self, history: Sequence[Mapping[str, Any]], status: str) -> dict[str, Any]:
        """All that is known, as the file has it; ``docs/logging.md`` describes its keys."""
        ended = status != "running"
        missing = dict(self.missing)
        for section in (*SECTIONS, "models", "disagreements"):
            there = self.models if section == "models" else self._disagreements or self._sections.get(section)
            if not there and section not in missing:
                missing[section] = f"the run was {status}" if status in ("stopped", "failed") else _UNDER_WAY
        found = {
            **self._facts,
            "began": self._began,
            "ended": _now() if ended else None,
            "seconds": self._before + time.perf_counter() - self._clock,
            "status": status,
            **self._settings,
            "versions": versions(),
            "machine": {**machine(), "memory_gib": _memory()},
            "history": [dict(record) for record in history],
            "steps": self._curves.to_dict(),
            "models": self.models,
            **{section: self._sections.get(section) for section in SECTIONS},
            "disagreements": self._disagreements,
            "missing": missing,
        }
        done = ("similarity",) if status == "finished" else ()
        return found | {"resume": {key: value for key, value in self.unfinished.items() if key not in done}}

    def write(self, history: Sequence[Mapping[str, Any]], status: str = "running") -> None:
        """Replace the file; a folder that can't be written is said once, and the run goes on."""
        try:
            write_run(self.path, self.content(history, status))
        except DataError as error:
            if not self._warned:
                logger.warning("%s", error)
            self._warned = True


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _memory() -> float | None:
    """Of the machine, in GiB; None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
