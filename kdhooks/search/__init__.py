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
    from kdhooks.search.distilling.scheduler import Scheduler
    from kdhooks.search.distilling.stages import FlashDistillation, RegularDistillation
    from kdhooks.search.measured import Measured, measure
    from kdhooks.search.results.result import SearchResult
    from kdhooks.search.trainers.trainer import Trainer
    from kdhooks.search.trainers.trainer_mixin import TrainerMixin

_WHERE = {
    "AutoDistillation": "auto",
    "Candidate": "candidates",
    "FlashDistillation": "distilling.stages",
    "Measured": "measured",
    "RegularDistillation": "distilling.stages",
    "Scheduler": "distilling.scheduler",
    "SearchResult": "results.result",
    "Trainer": "trainers.trainer",
    "TrainerMixin": "trainers.trainer_mixin",
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
