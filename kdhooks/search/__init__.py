"""AutoDistillation: search for the student, distil it quickly, pick the best.

Rules: nothing here imports a framework, and Optuna is imported only where a study is opened. A candidate is
trained through `Distillation`, never by a loop of its own. Public names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdhooks.search.measured import Measured, measure

_WHERE = {
    "Measured": "kdhooks.search.measured",
    "measure": "kdhooks.search.measured",
}

__all__ = ["Measured", "measure"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'kdhooks.search' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
