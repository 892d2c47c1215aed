"""Layer mappings on real models: the tensors of Keras layers that mappings mean; the rules are `kdhooks.pairs`'."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.config.mappings import LayerTap
from kdhooks.pairs import selection
from kdhooks.pairs.parsing import parse_layer_groups, parse_layer_mappings
from kdhooks.pairs.selection import Values, found
from kdhooks_tf.outputs import describe
from kdhooks_tf.taps import ELSEWHERE, INNER, Slot, Taps

__all__ = ["VALUES", "found", "parse_layer_groups", "parse_layer_mappings", "select", "tensors_of"]

Tensor = Any


def tensors_of(tap: LayerTap, taps: Taps, calls: str) -> list[Tensor]:
    """The tensors of a layer at this step, one for each call that counts.

    Args:
        tap: the layer and what to take of it.
        taps: where it was captured.
        calls: ``last``, ``first``, ``all`` or ``mean`` of its calls.

    Raises:
        LayerError: it did not run, its tensors are of another function, or the selector doesn't fit what it returned.
    """
    return selection.tensors_of(tap, taps, calls, VALUES)


def select(value: Any, tap: LayerTap, taps: Taps) -> Tensor:
    """The tensor that a tap means in what a layer returned.

    Raises:
        LayerError: there is none.
    """
    return selection.select(value, tap, taps, VALUES)


def _silence(taps: Taps, slot: Slot) -> tuple[str, str]:
    if slot.unseen == INNER or (not slot.unseen and taps.in_function(slot.key[0])):
        return (
            " where its tensors can be had: it runs inside of a loop, a branch or a tf.function within the model "
            "(tf.while_loop, tf.scan, tf.map_fn, tf.cond, the cell of an RNN)",
            "Map the layer around it.",
        )
    if slot.unseen == ELSEWHERE:
        return (
            " where the loss is: one of them is in a tf.function, the other is not, or in another one",
            f"Call the {taps.role} and on_after_compute_loss in the same tf.function, or both outside of any.",
        )
    advice = "Map a layer that every forward calls"
    if taps.role == "student":
        advice += "; the student's forward must come before the loss, under the gradient tape, and not in a "
        advice += "tf.function that was traced before distillation began"
    return "", f"{advice}."


def as_tensor(value: Any) -> Tensor | None:
    """A value as a tensor, where it is one or an array; None otherwise."""
    if isinstance(value, np.ndarray):
        return tf.convert_to_tensor(value)
    return value if tf.is_tensor(value) else None


VALUES = Values(
    as_tensor=as_tensor,
    is_tensor=tf.is_tensor,
    describe=describe,
    mean=lambda tensors: tf.reduce_mean(tf.stack(tensors), axis=0),
    silence=_silence,
)
"""What this backend knows of what layers return."""
