"""Frozen weights: no gradient step reaches them, and BatchNorm keeps its statistics.

Rules: what is found is put back. A weight is frozen by its ``trainable``; a BatchNorm whose statistics are frozen by
the layer's, which Keras takes to mean inference mode whatever ``training`` says. What is in the midst of a graph that
was traced before does not see the change: whoever traced it makes it anew.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import keras

from kdhooks_tf.transfer.names import counted_layers, named_weights, own_variables

Variable = Any


class Freezer:
    """What is frozen in a model.

    Args:
        model: built.
        batch_norm: True adds every BatchNorm of the model, False leaves statistics alone; None holds still those in
            frozen layers.
    """

    def __init__(self, model: Any, batch_norm: bool | None = None) -> None:
        self._batch_norm = batch_norm
        self._weights: dict[str, Variable] = named_weights(model)
        of_name = {id(variable): name for name, variable in self._weights.items()}
        self._norms = [
            (layer, [of_name[id(one)] for one in own_variables(layer) if id(one) in of_name])
            for layer in counted_layers(model).values()
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        self._frozen: dict[str, Variable] = {}
        self._still: list[Any] = []

    def names(self) -> list[str]:
        """The names of all weights."""
        return list(self._weights)

    def freeze(self, names: Collection[str]) -> bool:
        """Freeze the weights of these names, and nothing else any more; whether that changed anything."""
        wanted = set(names) | {name for _, own in self._norms if self._batch_norm for name in own}
        before = set(self._frozen), [id(layer) for layer in self._still]
        free = set(self._frozen) - wanted
        new = {name: one for name, one in self._weights.items() if name in wanted and one.trainable}
        self._hold_still(wanted if self._batch_norm is not False else set())
        self._frozen = {name: one for name, one in {**self._frozen, **new}.items() if name not in free}
        for name in free:
            self._weights[name].trainable = True
        for variable in self._frozen.values():  # a layer's flag has set those of its weights
            variable.trainable = False
        return before != (set(self._frozen), [id(layer) for layer in self._still])

    def release(self) -> None:
        """Put everything back; a second call does nothing."""
        frozen, self._frozen = self._frozen, {}
        self._hold_still(set())
        for variable in frozen.values():
            variable.trainable = True

    def _hold_still(self, names: set[str]) -> None:
        """Keep the statistics of the BatchNorms all of whose statistics are among the names."""
        chosen = [layer for layer, own in self._norms if {name for name in own if _is_statistic(name)} <= names]
        flags = {name: one.trainable for name, one in self._weights.items()}
        for layer in [one for one in self._still if not any(one is other for other in chosen)]:
            layer.trainable = True
            self._still = [one for one in self._still if one is not layer]
        for layer in chosen:
            if layer.trainable:
                layer.trainable = False
                self._still.append(layer)
        for name, flag in flags.items():
            self._weights[name].trainable = flag


def _is_statistic(name: str) -> bool:
    return name.rsplit("/", 1)[-1].startswith("moving_")
