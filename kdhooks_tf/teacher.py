"""A teacher in TensorFlow: called with ``training=False``, outside of every tape, its variables untouched.

Rules: nothing is set on the model, so there is nothing to forget: no `trainable` flag, no mode. Its forward is not
recorded, so no tape watches its variables, and what it returns is a constant. Layers that it shares with the student
keep the losses that the student's forward left in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from kdhooks.config.model import AskedPrecision
from kdhooks.criterion import Step
from kdhooks.hooks import Hook
from kdhooks_tf.outputs import as_call
from kdhooks_tf.tapes import stop_recording
from kdhooks_tf.weighing import outside_branches

POLICIES = {"fp32": "float32", "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}
"""What Keras calls the precisions of a configuration."""


class Teacher(Hook):
    """One frozen teacher, called as a function of its input.

    Args:
        model: the teacher.
        student: the student, to know which layers are shared.
        precision: what its own layers compute in, or None for the dtype policies that they have.
    """

    def __init__(self, model: Any, student: Any, *, precision: AskedPrecision | None = None) -> None:
        self.model = model
        self.taps: Any = None
        self._student = student
        self._precision = precision
        self._shared: list[Any] = []
        self._policies: list[tuple[Any, Any]] = []

    def on_train_begin(self) -> None:
        """Find the layers that are the student's as well, and give the others their precision."""
        of_student = {id(layer) for layer in layers_of(self._student)}
        layers = layers_of(self.model)
        self._shared = [layer for layer in layers if id(layer) in of_student]
        if self._precision is not None:
            own = [layer for layer in layers if id(layer) not in of_student]
            self._policies = [(layer, layer.dtype_policy) for layer in own]
            for layer in own:
                layer.dtype_policy = keras.DTypePolicy(POLICIES[self._precision])

    def on_train_end(self) -> None:
        """Give every layer its policy back, and take the taps off."""
        for layer, policy in self._policies:
            layer.dtype_policy = policy
        self._shared, self._policies = [], []
        self.untap()

    def tap(self) -> Any:
        """What captures the teacher's layers; one for all criteria."""
        if self.taps is None:
            from kdhooks_tf.teacher_taps import TeacherTaps

            self.taps = TeacherTaps(self.model, other=("student", self._student))
        return self.taps

    def untap(self) -> None:
        """Take everything of ours off the teacher."""
        if self.taps is not None:
            self.taps.detach()
            self.taps = None

    def release(self) -> None:
        """Let go of what was captured."""
        if self.taps is not None:
            self.taps.release()

    def __call__(self, value: Any, step: Step | None = None) -> Any:
        """The teacher's output for an input that the student got, without a gradient."""
        return self._forward(value, None)

    def features(self, value: Any, layers: frozenset[Any], step: Step | None = None) -> None:
        """Capture layers in a forward that ends at the deepest of them."""
        self._forward(value, layers)

    def _forward(self, value: Any, layers: frozenset[Any] | None) -> Any:
        args, kwargs = as_call(self.model, value)
        run = self.model if self.taps is None else partial(self.taps.run, layers)
        with outside_branches(), stop_recording(), self._losses_kept():
            return run(*args, **kwargs, training=False)

    @contextmanager
    def _losses_kept(self) -> Iterator[None]:
        """A forward replaces the losses of the layers that it runs: what ``add_loss`` and regularizers gave."""
        with ExitStack() as stack:
            for layer in self._shared:
                stack.callback(_put_losses, layer, list(layer._losses), set(layer._loss_ids))
            yield


def layers_of(model: Any) -> list[Any]:
    """A model and all layers inside of it, each once."""
    return list({id(layer): layer for layer in model._flatten_layers()}.values())


def _put_losses(layer: Any, losses: list[Any], ids: set[int]) -> None:
    layer._losses[:] = losses
    layer._loss_ids.clear()
    layer._loss_ids.update(ids)


def is_built(model: Any) -> bool:
    """Whether a model has its variables."""
    return bool(model.built) and all(tf.is_tensor(one.value) for one in model.weights)
