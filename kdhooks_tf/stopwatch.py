"""Time in TensorFlow: the host's clock, while Python code runs at each step and not for the tracing of a graph."""

from __future__ import annotations

import tensorflow as tf

from kdhooks.ledger import Stopwatch


class GraphStopwatch(Stopwatch):
    """The host's clock; what is called while a `tf.function` is traced is told apart.

    Args:
        on_gpu: whether kernels may run behind the host.
    """

    def __init__(self, *, on_gpu: bool) -> None:
        self.tracing = tf.inside_function
        if on_gpu:
            self.device = "gpu"
            self.note = "this device works behind the host, whose clock this is: only the time of whole steps is sure"
