"""Knowledge distillation for the training loop that you already have.

Public names are loaded on first use: ``import kdhooks`` imports no framework and takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdhooks.config import DistillationConf
    from kdhooks.datasets.replayed import ReplayedAugmentation
    from kdhooks.distillation import Distillation
    from kdhooks.errors import ConfigError, KDHooksError
    from kdhooks.registry import register_dataset, register_loss, register_matcher, register_metric
    from kdhooks.search.auto import AutoDistillation
    from kdhooks.training.kd_training import KnowledgeDistillationTraining

__version__ = "0.1.0"

_WHERE = {
    "AutoDistillation": "kdhooks.search.auto",
    "Distillation": "kdhooks.distillation",
    "DistillationConf": "kdhooks.config",
    "ConfigError": "kdhooks.errors",
    "KDHooksError": "kdhooks.errors",
    "KnowledgeDistillationTraining": "kdhooks.training.kd_training",
    "ReplayedAugmentation": "kdhooks.datasets.replayed",
    "register_dataset": "kdhooks.registry",
    "register_loss": "kdhooks.registry",
    "register_matcher": "kdhooks.registry",
    "register_metric": "kdhooks.registry",
}

__all__ = [
    "AutoDistillation",
    "ConfigError",
    "Distillation",
    "DistillationConf",
    "KDHooksError",
    "KnowledgeDistillationTraining",
    "ReplayedAugmentation",
    "register_dataset",
    "register_loss",
    "register_matcher",
    "register_metric",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'kdhooks' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
