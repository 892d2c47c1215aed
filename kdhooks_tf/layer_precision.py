"""The layers of a teacher computing in another precision, for as long as a run lasts.

Rules: a layer computes as its dtype policy says, so the policy is what is changed, and given back. Keras casts a
weight at every use; what it would make of it is made here once an epoch instead, and lies in variables of ours that
stand in for the weights during a forward of the teacher, by a `keras.StatelessScope`. The numbers are the same, bit
for bit. The weights themselves are never touched, so what a program loads into them counts from the next epoch on,
and subclassed models, which can't be cloned, need no clone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras
import tensorflow as tf

from kdhooks.config.model import Precision
from kdhooks_tf.replicas import local

POLICIES = {"fp32": "float32", "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}
"""What Keras calls the precisions of a configuration."""

DTYPES = {"bf16": tf.bfloat16, "fp16": tf.float16}
"""What weights are cast to."""


class LayerPrecision:
    """The precision of some layers.

    Args:
        layers: each once; those that the student has as well are left out.
        casts_once: whether their weights stay as they are during an epoch.

    Attributes:
        now: the precision that is set; None for the policies that the layers came with.
    """

    def __init__(self, layers: Sequence[Any], *, casts_once: bool = True) -> None:
        self.now: Precision | None = None
        self._before = [(layer, layer.dtype_policy) for layer in layers]
        self._casts_once = casts_once
        self._casts: dict[str, list[tuple[Any, Any]]] = {}

    def policy_of(self, layer: Any) -> Any:
        """The dtype policy that a layer came with."""
        return next((policy for one, policy in self._before if one is layer), layer.dtype_policy)

    def prepare(self, *precisions: Precision) -> None:
        """Make the variables that hold cast weights; a function that is being traced can make none."""
        for precision in precisions:
            if precision in DTYPES and self._casts_once and precision not in self._casts:
                self._casts[precision] = [
                    (weight, tf.Variable(tf.cast(weight.value, DTYPES[precision]), trainable=False))
                    for layer, _ in self._before
                    for weight in (*layer._trainable_variables, *layer._non_trainable_variables)
                    if _is_cast(weight)
                ]

    def set(self, precision: Precision | None) -> None:
        """Compute in this precision from now on; None gives the layers the policies that they came with."""
        self.now = precision
        for layer, policy in self._before:
            layer.dtype_policy = policy if precision is None else keras.DTypePolicy(POLICIES[precision])

    @contextmanager
    def temporarily(self, precision: Precision | None) -> Iterator[None]:
        """Compute in this precision within the block."""
        before = self.now
        self.set(precision)
        try:
            yield
        finally:
            self.set(before)

    def refresh(self) -> None:
        """Cast the weights anew: they may have been loaded since."""
        for precision, casts in self._casts.items():
            for weight, cast in casts:
                cast.assign(tf.cast(weight.value, DTYPES[precision]))

    def keep_only(self, precision: Precision | None) -> None:
        """Let go of the weights that were cast to other precisions."""
        self._casts = {name: casts for name, casts in self._casts.items() if name == precision}

    def forward(self) -> AbstractContextManager[Any]:
        """Around a forward: cast weights stand in for the weights, and no variable of the model is changed."""
        casts = self._casts.get(self.now or "")
        if not casts or tf.executing_eagerly():  # a layer whose `call` is a function would keep them beyond the run
            return nullcontext()
        scope = keras.StatelessScope(initialize_variables=False)
        # not by its constructor, which would cast them back to the weights' own dtype
        scope.state_mapping = {id(weight): tf.convert_to_tensor(local(cast)) for weight, cast in casts}
        return scope  # type: ignore[no-any-return]  # Keras ships no types

    def restore(self) -> None:
        """Give every layer the policy that it came with, and let go of all copies."""
        self.set(None)
        self._before, self._casts = [], {}


def _is_cast(weight: Any) -> bool:
    """Whether Keras casts a weight to what its layer computes in; it does not with statistics of normalisation."""
    return bool(getattr(weight, "_autocast", False)) and str(weight.dtype) in ("float32", "float64")
