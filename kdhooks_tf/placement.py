"""Where the built-in loop trains, in which precision, and from which seeds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks.config import DistillationConf
from kdhooks.errors import UsageError
from kdhooks_tf.layer_precision import POLICIES
from kdhooks_tf.teacher import layers_of


def device_scope(conf: DistillationConf) -> AbstractContextManager[Any]:
    """The scope in which the loop's operations are made; ``auto`` leaves the choice to TensorFlow.

    Raises:
        ConfigError: this machine has no such device.
    """
    wanted = conf.settings.device
    if wanted == "auto":
        return nullcontext()
    kind, _, index = wanted.partition(":")
    kind = {"cuda": "GPU", "gpu": "GPU", "cpu": "CPU"}.get(kind, kind.upper())
    count = len(tf.config.list_logical_devices(kind))
    if wanted == "gpu" and not count:
        raise conf.problem("device", "this machine has no GPU that TensorFlow can use", "Write device: auto.")
    if int(index or 0) >= count:
        found = f"TensorFlow finds {count} {kind} devices"
        raise conf.problem("device", f"there is no device {wanted!r}: {found}", "Write device: auto.")
    scope: AbstractContextManager[Any] = tf.device(f"/{kind}:{index or 0}")
    return scope


@contextmanager
def precision_scope(student: Any, precision: str | None) -> Iterator[None]:
    """Within the block the student's layers compute in this precision, as by autocast; None changes nothing.

    The variables stay as they are, and afterwards every layer has its own policy again.
    """
    layers = [] if precision is None else layers_of(student)
    before = [(layer, layer.dtype_policy) for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = keras.DTypePolicy(POLICIES[precision or "fp32"])
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


def non_finite_variable(model: Any) -> str | None:
    """The path of a trainable variable that holds NaN or infinity, or None; waits for the device once."""
    named = [variable for variable in model.trainable_variables if "float" in str(variable.dtype)]
    if not named:
        return None
    bad = tf.stack([tf.reduce_any(~tf.math.is_finite(tf.convert_to_tensor(variable))) for variable in named]).numpy()
    return next((variable.path for variable, is_bad in zip(named, bad, strict=True) if is_bad), None)


def data_seed(conf: DistillationConf) -> int:
    """The seed of the data's order: the configuration's, or 0 where it has none."""
    return conf.settings.tuning.random_seed or 0


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's, TensorFlow's and Keras's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    keras.utils.set_random_seed(seed % 2**32)


def check_student(student: Any) -> None:
    """Whether a student can be trained.

    Raises:
        UsageError: it is not built, so that its variables are not there.
    """
    if not student.built:
        raise UsageError(
            f"the student {type(student).__name__} is not built yet, so it has no weights to train: call it on a "
            "batch, or give it an Input, before fit()"
        )
