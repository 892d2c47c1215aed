"""Domain adaptation in TensorFlow as the contract sees it: channels of maps are turned to the end and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class TensorFlowAdaptation:
    """TensorFlow on the CPU, eagerly; graphs have tests of their own.

    Args:
        found: makes what is handed back, of value, slopes, layers, their slopes, head's slopes, maps and measures.
    """

    def __init__(self, found: Any) -> None:
        self._found = found

    @property
    def names(self) -> frozenset[str]:
        from kdhooks_tf.adaptation import ADAPTERS

        return frozenset(ADAPTERS)

    def formula(self, name: str, *inputs: Array, **options: Any) -> tuple[float, list[Array]]:
        import tensorflow as tf

        from kdhooks_tf import adaptation

        leaves = [tf.Variable(one) for one in inputs]
        with tf.GradientTape() as tape:
            value = getattr(adaptation, name)(*leaves, **options)
        assert value.shape == () and value.dtype == tf.float64
        return float(value), [one.numpy() for one in tape.gradient(value, leaves)]

    def adapter(self, name: str, source: Any, target: Any, *, coefficient: float = 1.0, **options: Any) -> Any:
        import tensorflow as tf

        from kdhooks_tf.adaptation import ADAPTERS

        for unused in ("head", "encoder"):
            assert options.pop(unused, None) is None
        made: Any = ADAPTERS[name](**options)
        leaves: dict[str, Any] = {}
        for side, domain in (("source", source), ("target", target)):
            arrays = {f"{side}.features.{index}": _last(one) for index, one in enumerate(domain.features)}
            leaves |= {key: tf.Variable(one) for key, one in {**arrays, f"{side}.logits": domain.logits}.items()}
        with tf.GradientTape() as tape:
            value = made(*(_batch(side, leaves) for side in ("source", "target")), coefficient=coefficient)
        own = list(made.trainable_variables)
        zero = tf.UnconnectedGradients.ZERO
        moved = [one.numpy() for one in tape.gradient(value, [*leaves.values(), *own], unconnected_gradients=zero)]
        shape = source.features[0].shape[1:] if source.features else ()
        order = _flattened_first(shape) if options.get("pool", "flatten") == "flatten" else None
        return self._found(
            float(value),
            {key: _first(one) for key, one in zip(leaves, moved, strict=False)},
            _paired([one.numpy() for one in own], order),
            _paired(moved[len(leaves) :], order),
            maps=tuple(one.numpy() for one in made.maps) if getattr(made, "maps", ()) else None,
            measures={key: float(one) for key, one in made.measures().items()},
        )


def _batch(side: str, leaves: dict[str, Any]) -> Any:
    import tensorflow as tf

    from kdhooks_tf.adaptation import DomainBatch

    features = [one for key, one in leaves.items() if key.startswith(f"{side}.features")]
    return DomainBatch(tuple(map(tf.convert_to_tensor, features)), tf.convert_to_tensor(leaves[f"{side}.logits"]))


def _last(array: Array) -> Array:
    """Maps [N, C, H, W] with the channels last."""
    return np.moveaxis(array, 1, -1) if array.ndim > 3 else array


def _first(array: Array) -> Array:
    return np.moveaxis(array, -1, 1) if array.ndim > 3 else array


def _flattened_first(shape: tuple[int, ...]) -> Array | None:
    """Where a map's numbers, channels last, stand among those with the channels first."""
    if len(shape) < 3:
        return None
    return np.moveaxis(np.arange(np.prod(shape)).reshape(*shape[1:], shape[0]), -1, 0).ravel()


def _paired(numbers: Sequence[Array], order: Array | None) -> list[tuple[Array, Array]]:
    """Weights [out, in] and biases of each layer, in the order of the formula."""
    layers = [(kernel.T, bias) for bias, kernel in zip(numbers[::2], numbers[1::2], strict=True)]
    if order is not None and layers:
        layers[0] = layers[0][0][:, order], layers[0][1]
    return layers
