"""Operations that no tape records, whoever's the tapes are.

`tf.GradientTape.stop_recording` is of one tape, and the user's tape is not ours to know. Where a release of TensorFlow
has no such block, operations are recorded, which costs memory and changes no gradient: what comes out of them goes
through `tf.stop_gradient`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

try:
    _stop: Callable[[], AbstractContextManager[Any]] = import_module("tensorflow.python.eager.record").stop_recording
except (ImportError, AttributeError):
    _stop = nullcontext


def stop_recording() -> AbstractContextManager[Any]:
    """Within the block no operation is recorded, and no variable watched."""
    return _stop()
