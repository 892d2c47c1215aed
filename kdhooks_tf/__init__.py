"""The TensorFlow backend: criteria for loops that use them directly, and the callback for ``model.fit``.

Public names are loaded on first use, so that `kdhooks_tf` itself imports nothing. Rooms stand here under the names
that `kdhooks.torch` uses, and know nothing of `kdhooks.torch`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdhooks_tf.callback import DistillationCallback
    from kdhooks_tf.criteria import KnowledgeDistillationLoss
    from kdhooks_tf.domains import DomainAdaptationLoss
    from kdhooks_tf.intermediate import IntermediateLayersKnowledgeDistillationLoss
    from kdhooks_tf.self_distillation import SelfKnowledgeDistillationLoss
    from kdhooks_tf.stored_dataset import stored_outputs

_WHERE = {
    "DistillationCallback": "kdhooks_tf.callback",
    "DomainAdaptationLoss": "kdhooks_tf.domains",
    "IntermediateLayersKnowledgeDistillationLoss": "kdhooks_tf.intermediate",
    "KnowledgeDistillationLoss": "kdhooks_tf.criteria",
    "SelfKnowledgeDistillationLoss": "kdhooks_tf.self_distillation",
    "stored_outputs": "kdhooks_tf.stored_dataset",
}

__all__ = [
    "DistillationCallback",
    "DomainAdaptationLoss",
    "IntermediateLayersKnowledgeDistillationLoss",
    "KnowledgeDistillationLoss",
    "SelfKnowledgeDistillationLoss",
    "stored_outputs",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'kdhooks_tf' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
