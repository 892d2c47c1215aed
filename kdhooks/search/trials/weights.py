"""The weights of trained candidates: which are kept, and where.

Rules: a file is written before its candidate is recorded, so that a record never names a file that isn't there, and
removed after the record of the candidate that beat it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdhooks.backend import backend_of
from kdhooks.config.search_settings import SearchSettings
from kdhooks.errors import KDHooksError, told
from kdhooks.messages import logger
from kdhooks.search.candidates import Candidate
from kdhooks.search.results.pareto import pareto_set

SUFFIXES = {"pytorch": ".safetensors", "tensorflow": ".weights.h5"}
"""How the files' names end, by backend."""


class Weights:
    """The files of one study.

    Args:
        folder: where they are.
        settings: of the search: which candidates are the best ones, and whose weights are kept.
    """

    def __init__(self, folder: Path, settings: SearchSettings) -> None:
        self.folder, self._settings = folder, settings

    def keep(self, model: Any, candidate: Candidate, others: Sequence[Candidate]) -> str | None:
        """Write the weights of a complete candidate, where they are wanted; the file's path.

        What can't be written is said, and the search goes on.
        """
        keep = self._settings.keep_weights
        if keep == "none" or (keep == "best" and candidate not in pareto_set([*others, candidate], self._settings)):
            return None
        backend = backend_of(model)
        path = self.folder / f"{candidate.number}{SUFFIXES[backend.name]}"
        try:
            backend.write_weights(model, path)
        except Exception as error:  # whatever a framework makes of a full disk; the candidate is worth more
            reason = str(error) if isinstance(error, KDHooksError) else told(error)
            logger.warning("candidate %d is recorded without its weights: %s", candidate.number, reason)
            return None
        return str(path)

    def current(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates, without the files of those that are no longer among the best."""
        beaten = {candidate.number for candidate in self._beaten(candidates)}
        return [replace(one, weights=None) if one.number in beaten else one for one in candidates]

    def remove_beaten(self, candidates: Sequence[Candidate]) -> None:
        """Remove the files of those that are no longer among the best."""
        for candidate in self._beaten(candidates):
            path = Path(candidate.weights or "")
            if path.parent == self.folder:  # another worker's folder is that worker's
                path.unlink(missing_ok=True)

    def _beaten(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        if self._settings.keep_weights != "best":
            return []
        best = {candidate.number for candidate in pareto_set(candidates, self._settings)}
        return [one for one in candidates if one.weights is not None and one.number not in best]
