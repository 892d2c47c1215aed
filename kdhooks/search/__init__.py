"""AutoDistillation: search for the student, distil it quickly, pick the best.

Rules: nothing here imports a framework, and Optuna is imported only where a study is opened. A candidate is
trained through `Distillation`, never by a loop of its own. Public names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdhooks.search.auto import AutoDistillation
    from kdhooks.search.candidates import Candidate
    from kdhooks.search.measured import Measured, measure
    from kdhooks.search.result import SearchResult
    from kdhooks.search.scheduler import Scheduler
    from kdhooks.search.stages import FlashDistillation, RegularDistillation
    from kdhooks.search.trainer import Trainer
    from kdhooks.search.trainer_mixin import TrainerMixin

_WHERE = {
    "AutoDistillation": "auto",
    "Candidate": "candidates",
    "FlashDistillation": "stages",
    "Measured": "measured",
    "RegularDistillation": "stages",
    "Scheduler": "scheduler",
    "SearchResult": "result",
    "Trainer": "trainer",
    "TrainerMixin": "trainer_mixin",
    "measure": "measured",
}

__all__ = [
    "AutoDistillation",
    "Candidate",
    "FlashDistillation",
    "Measured",
    "RegularDistillation",
    "Scheduler",
    "SearchResult",
    "Trainer",
    "TrainerMixin",
    "measure",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'kdhooks.search' has no attribute {name!r}")
    return getattr(import_module(f"kdhooks.search.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
