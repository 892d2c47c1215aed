"""Distillation in the `Trainer` of Hugging Face's transformers: one callback.

Rules: the `Trainer`, its loop, its losses and what it saves stay its own. What is replaced on it is replaced on the one
object, for the time of a training, and put back also where the training raises. Nothing here draws a random number.
"""

from __future__ import annotations

from kdhooks.errors import MissingPackageError

try:
    import transformers  # noqa: F401  # the package, whose name this one's last part is
except ImportError:
    raise MissingPackageError("transformers", "kdhooks.integrations.transformers", "transformers") from None

from kdhooks.integrations.transformers.callback import DistillationCallback

__all__ = ["DistillationCallback"]
