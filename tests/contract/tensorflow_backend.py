"""TensorFlow on the CPU, as the contract sees it: channels of maps are turned to the end and back.

Nothing is imported before a test asks for it; where TensorFlow is missing those tests fail.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_BY_HEADS = ("attention_kl", "value_relation")  # [N, heads, T, ...] in every backend
_PARTS = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
_LAYERS = {
    "enter": "enter.0", "enter_norm": "enter.1", "leave": "leave.0", "leave_norm": "leave.1", "attention": "attention.0"
}  # fmt: skip


class TensorFlow:
    """TensorFlow on the CPU, eagerly; graphs have tests of their own."""

    def __init__(self) -> None:
        self.epsilon = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-10}

    def kinds(self) -> dict[str, str]:
        from kdhooks_tf.losses import LOSSES, loss_kind

        return {name: loss_kind(name) for name in LOSSES}

    def round(self, values: Array, dtype: str) -> Array:
        import tensorflow as tf

        return tf.cast(tf.cast(values, dtype), tf.float64).numpy()

    def loss(
        self,
        name: str,
        student: Array,
        teacher: Array,
        *,
        mask: Array | None = None,
        target: Array | None = None,
        dtype: str = "float64",
        **options: Any,
    ) -> tuple[float, Array]:
        from kdhooks_tf.losses import logit_loss

        given = {"mask": mask, "target": target, **options}
        return _run(lambda s, t: logit_loss(name)(s, t, **given), student, teacher, dtype)

    def feature(
        self,
        name: str,
        student: Any,
        teacher: Any,
        *,
        mask: Array | None = None,
        dtype: str = "float64",
        **options: Any,
    ) -> tuple[float, Any]:
        from kdhooks_tf.losses import build_feature_loss

        if mask is not None:
            options["mask"] = mask
        given = (student, teacher) if name in _BY_HEADS else (_last(student), _last(teacher))
        loss = build_feature_loss(name, *map(_shapes, given), **options)
        value, gradient = _run(loss, *given, dtype)
        return value, gradient if name in _BY_HEADS else _first(gradient)

    def module(self, name: str, student_shape: Any, teacher_shape: Any, **options: Any) -> Any:
        import keras

        from kdhooks_tf.losses import build_feature_loss

        made = {}
        for dtype in ("float64", "float32"):
            before = keras.config.floatx()
            keras.config.set_floatx(dtype)
            shapes = (_last_shape(student_shape), _last_shape(teacher_shape))
            made[dtype] = build_feature_loss(name, *shapes, **options)
            keras.config.set_floatx(before)
        return TensorFlowModule(made)

    def criterion(self, **options: Any) -> Any:
        from kdhooks_tf import KnowledgeDistillationLoss

        return KnowledgeDistillationLoss(**options)

    def evaluate(self, criterion: Any, student: Any, teacher: Any, *, target: Any = None, mask: Any = None) -> float:
        both = [_tensors(_last(one) if criterion.axis is None else one) for one in (student, teacher)]
        return float(criterion(*both, target=_tensors(target), mask=_tensors(mask)))


class TensorFlowModule:
    """A `LossModule` in float64, and in float32 for fewer bits."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made
        self.module = made["float64"]

    @property
    def numbers(self) -> dict[str, Array]:
        return {name: _outputs_first(name, held.numpy()) for name, held in self._named().items()}

    def run(self, student: Any, teacher: Any, dtype: str = "float64") -> tuple[float, Any]:
        module = self.made["float64" if dtype == "float64" else "float32"]
        value, gradient = _run(module, _last(student), _last(teacher), dtype)
        return value, _first(gradient)

    def slopes(self, student: Any, teacher: Any) -> dict[str, Array]:
        import tensorflow as tf

        trainable = {name: held for name, held in self._named().items() if held.trainable}
        assert len(trainable) == len(self.module.trainable_variables)
        with tf.GradientTape() as tape:
            value = self.module(_tensors(_last(student)), _tensors(_last(teacher)))
        gradients = tape.gradient(value, list(trainable.values()))
        return {name: _outputs_first(name, one.numpy()) for name, one in zip(trainable, gradients, strict=True)}

    def mask(self, student: Array, teacher: Array) -> Array:
        height, width = student.shape[2:]
        return _first(self.module.mask(np.zeros((len(student), height, width, teacher.shape[1]))).numpy())

    def negatives(self, student: Array) -> Array:
        import tensorflow as tf

        return self.module.draw(self.module.rows(tf.constant(student), None)).numpy()

    def _named(self) -> dict[str, Any]:
        """Variables by the names of the oracle, which are those of PyTorch's modules."""
        import tensorflow as tf

        named = {}
        for path, held in self.module._flatten(predicate=lambda one: isinstance(one, tf.Variable), with_path=True):
            *parts, last = map(str, path)
            scale = 2 if path[0] in ("regressor", "generation") else 1  # activations stand between the layers there
            names = [_LAYERS.get(one, str(int(one) * scale) if one.isdigit() else one) for one in parts]
            named[".".join([*names, _PARTS.get(last, last)])] = held
        return named


def _run(loss: Any, student: Any, teacher: Any, dtype: str) -> tuple[float, Any]:
    import tensorflow as tf

    several = isinstance(student, list)
    leaves = [tf.cast(one, dtype) for one in (student if several else [student])]
    fixed = [tf.cast(one, dtype) for one in (teacher if several else [teacher])]
    with tf.GradientTape() as tape:
        tape.watch(leaves)
        value = loss(leaves, fixed) if several else loss(leaves[0], fixed[0])
    assert value.shape == () and value.dtype == (tf.float64 if dtype == "float64" else tf.float32)
    gradients = tape.gradient(value, leaves, unconnected_gradients="zero")
    assert all(one.dtype == dtype for one in gradients)
    found = [tf.cast(one, tf.float64).numpy() for one in gradients]
    return float(value), found if several else found[0]


def _last(value: Any) -> Any:
    """Channels of maps at the end."""
    if isinstance(value, list):
        return [_last(one) for one in value]
    if isinstance(value, dict):
        return {key: _last(one) for key, one in value.items()}
    return np.moveaxis(value, 1, -1) if value.ndim >= 4 else value


def _first(value: Any) -> Any:
    if isinstance(value, list):
        return [_first(one) for one in value]
    return np.moveaxis(value, -1, 1) if value.ndim >= 4 else value


def _last_shape(shape: Any) -> Any:
    if isinstance(shape, list):
        return [_last_shape(one) for one in shape]
    return (shape[0], *shape[2:], shape[1]) if len(shape) >= 4 else shape


def _outputs_first(name: str, values: Array) -> Array:
    """The oracle's [outputs, inputs, size, size] and [outputs, inputs] of a kernel that has the outputs last."""
    if not name.endswith("weight"):
        return values
    return values.transpose(3, 2, 0, 1) if values.ndim == 4 else values.T


def _shapes(features: Any) -> Any:
    return [one.shape for one in features] if isinstance(features, list) else features.shape


def _tensors(value: Any) -> Any:
    import tensorflow as tf

    if isinstance(value, np.ndarray):
        return tf.constant(value)
    if isinstance(value, list):
        return [_tensors(item) for item in value]
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    return value
