"""Blocks of a student: trained alone, and handed on from one student to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.backend import BlockState
from kdhooks.config import DistillationConf
from kdhooks.stored.functions import class_digest, model_digest
from kdhooks_tf.fingerprints import classes_of, options_of, weights_of
from kdhooks_tf.layer_names import Layer, find_layer, require_built
from kdhooks_tf.transfer.names import named_weights


class Blocks:
    """What a backend does for the stages of a distillation; see `kdhooks.backend.Backend`."""

    def found_layer(self, model: Layer, name: str, role: str, other: tuple[str, Any] | None = None) -> str:
        """The own name of a layer; LayerError where there is none."""
        require_built(model, role)
        return find_layer(model, name, role, other)[0]

    def only_trained(self, model: Layer, names: Sequence[str]) -> AbstractContextManager[int]:
        """Within the block nothing is trained but what is under these layers; gives the number of trained weights.

        Raises:
            LayerError: the model has no such layer.
            ModelError: the model is not built.
        """
        return _only_trained(model, names)

    def block(self, model: Layer, name: str) -> BlockState:
        """A block of a model by its name; LayerError where there is none."""
        return _Block(*find_layer(model, name, "student"))

    def fingerprint(self, model: Layer) -> str:
        """32 hexadecimal digits of a model's weights, classes and options."""
        return model_digest((*_code(model), *options_of(model)), weights_of(model))

    def training_loader(self, conf: DistillationConf) -> Any:
        """The loader of ``distillation.train.dataloader``, for several runs of one process."""
        from kdhooks_tf.train_setup import training_loader

        return training_loader(conf)

    def seeded_data(self, loader: Any, seed: int) -> AbstractContextManager[None]:
        """Nothing to do: what a ``tf.data.Dataset`` draws from is its own affair."""
        return nullcontext()


@contextmanager
def _only_trained(model: Layer, names: Sequence[str]) -> Iterator[int]:
    from kdhooks_tf.transfer.freezing import Freezer  # loaded by those who train a block alone

    require_built(model, "student")
    freezer = Freezer(model)
    try:
        if names and "" not in names:
            blocks = [find_layer(model, name, "student")[1] for name in names]
            trained = {id(one) for block in blocks for one in block.variables}
            freezer.freeze([name for name, one in named_weights(model).items() if id(one) not in trained])
        yield sum(int(np.prod(one.shape)) for one in model.trainable_variables)
    finally:
        freezer.release()


class _Block(BlockState):
    def __init__(self, name: str, layer: Layer) -> None:
        self.name, self._layer = name, layer

    @property
    def structure(self) -> str:
        """Classes, configurations, and the names, shapes and dtypes of all weights, as text."""
        weights = [f"{name} {list(one.shape)} {one.dtype}" for name, one in self._weights().items()]
        return "\n".join([*_code(self._layer), *options_of(self._layer), *weights])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Copies of all weights on the host; those of dtypes that NumPy has not as float32."""
        found = {name: np.array(one.numpy()) for name, one in self._weights().items()}
        return {name: one if one.dtype.kind in "fiub" else one.astype(np.float32) for name, one in found.items()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write weights into the block."""
        for name, one in self._weights().items():
            one.assign(arrays[name])

    def _weights(self) -> dict[str, Any]:
        return {name: one for name, one in named_weights(self._layer).items() if "seed_generator" not in one.path}


def _code(model: Layer) -> list[str]:
    """The classes of a model's layers by what they do; those of Keras by its version."""
    own, published = classes_of(model)
    return [*published, *(f"{kind.__module__}.{kind.__qualname__} {class_digest(kind)}" for kind in own)]
