"""Export of Keras models: what `kdhooks.export` asks of a backend.

Rules: everything is done to a clean copy that is not compiled, called with ``training=False``, and no generator of the
user's is drawn from. A file is loaded without the copy's weights, and code that it may hold is not run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from kdhooks.errors import ExportError, ModelError
from kdhooks.measurement import batch_of, rows_in, shorter
from kdhooks.measurement.runs import described, reason_of
from kdhooks.messages import others_silent
from kdhooks.nests import is_array, map_leaves
from kdhooks_tf import export_graph, export_onnx, generators
from kdhooks_tf.copies import copied, weights_of
from kdhooks_tf.export_outputs import arrays, named
from kdhooks_tf.outputs import as_call, describe
from kdhooks_tf.teacher import is_built, layers_of
from kdhooks_tf.weights import read_weights, write_weights


class KerasExporter:
    """A clean copy that writes itself; see `kdhooks.export.exporter.Exporter`.

    Args:
        model: the model, which stays as it is.
        inputs: of one row or more, tensors or NumPy arrays; None takes what a functional model says of its own.
        dynamic_batch: whether a graph takes batches of any size.
        dynamic_length: whether the second axis of token inputs may have any length.
        opset: of ONNX.

    Raises:
        ModelError: the model is not built, fails on these inputs, or returns no tensor.
    """

    def __init__(
        self,
        model: Any,
        inputs: Any,
        *,
        dynamic_batch: bool = True,
        dynamic_length: bool = False,
        opset: int | None = None,
    ) -> None:
        if not is_built(model):
            raise ModelError(f"{type(model).__name__} is not built yet, so it has no weights: call it on a batch first")
        self.twin = copied(model, weights_of(model))
        self.precision = _precision(self.twin)
        self.rows: tuple[int, ...] = ()
        self.length: int | None = None
        self._opset = opset
        self._own: dict[int, dict[str, NDArray[Any]]] = {0: weights_of(self.twin)}
        inputs = export_graph.example_inputs(self.twin) if inputs is None else inputs
        if inputs is not None:
            self._inputs = map_leaves(is_array, tf.convert_to_tensor, inputs)
            count = rows_in(self._inputs)
            self.length = export_graph.length_of(self._inputs) if dynamic_length else None
            self.rows = tuple(dict.fromkeys((count, 1, count + 1))) if dynamic_batch else (count,)
            for rows in self.rows:
                self._own[rows] = self._first(rows)
            self._served = export_graph.Served(self.twin, self._inputs, dynamic_batch, self.length)

    def batch(self, rows: int) -> Any:
        """So many rows of the example inputs; of the last size half as long, where the length may vary."""
        batch = batch_of(self._inputs, rows, lambda parts: tf.concat(parts, 0))
        return batch if self.length is None or rows != self.rows[-1] else shorter(batch, self.length)

    def outputs(self, rows: int) -> dict[str, NDArray[Any]]:
        """What the copy returns for so many rows; its weights for 0 rows."""
        return self._own[rows]

    def feed(self, rows: int) -> dict[str, NDArray[Any]]:
        """So many rows of the example inputs, by the names that they have in a graph."""
        return arrays(self._served.by_name(self.batch(rows)))

    def write(self, form: str, path: Path) -> dict[str, Any]:
        """Write the copy in a format."""
        if form in ("safetensors", "h5"):
            write_weights(self.twin, path)
            return {}
        with generators.untouched():
            if form == "onnx":
                names = list(self.outputs(self.rows[0]))
                return export_onnx.write(self._served, names, path, self._opset)
            try:
                with others_silent():
                    if form == "keras":
                        self.twin.save(str(path))
                        return {}
                    self._served.save(path)
                    return {"inputs": list(self._served.specs), "outputs": list(self.outputs(self.rows[0]))}
            except OSError:
                raise
            except Exception as error:  # whatever Keras and TensorFlow have against a foreign layer
                raise ExportError(f"it can't be written: {reason_of(error)}") from error

    def read(self, form: str, path: Path) -> Callable[[int], dict[str, NDArray[Any]]]:
        """Load what was written, and give what runs it."""
        if form in ("safetensors", "h5"):
            zeros = {name: np.zeros_like(value) for name, value in weights_of(self.twin).items()}
            other = copied(self.twin, zeros)
            if self.rows:
                self._of(other, self.rows[0])  # a copy of a subclassed model counts as built after its first call
            other.built = True
            read_weights(other, path)
            return lambda rows: self._of(other, rows) if rows else self._weights_as_own(other)
        try:
            with generators.untouched(), others_silent():
                if form == "keras":
                    loaded = keras.models.load_model(
                        str(path), custom_objects=_classes(self.twin), compile=False, safe_mode=True
                    )
                    self._check_loaded(loaded)
                    return lambda rows: self._of(loaded, rows)
                served = tf.saved_model.load(str(path))
        except ExportError:
            raise
        except Exception as error:  # a class without the arguments of its own constructor, or code in a Lambda
            raise ExportError(f"what was written can't be loaded again: {reason_of(error)}") from error
        return lambda rows: arrays(named(served.serve(self.batch(rows))))

    def _check_loaded(self, loaded: Any) -> None:
        """Keras loads a model that it can't build in silence, without its weights."""
        if len(loaded.weights) != len(self.twin.weights):
            kind = type(self.twin).__name__
            raise ExportError(
                f"Keras loads it without its weights, since it can't build {kind} before the first call: give {kind} a "
                "build() or build_from_config() that makes all its layers' weights, or write a SavedModel"
            )

    def _of(self, model: Any, rows: int) -> dict[str, NDArray[Any]]:
        batch = self.batch(rows)
        args, kwargs = as_call(model, batch)
        with generators.untouched():
            return arrays(named(model(*args, **kwargs, training=False)))

    def _first(self, rows: int) -> dict[str, NDArray[Any]]:
        """The copy's own outputs, after which it is known that the inputs fit."""
        kind = type(self.twin).__name__
        batch = self.batch(rows)
        args, kwargs = as_call(self.twin, batch)
        try:
            with generators.untouched():
                output = self.twin(*args, **kwargs, training=False)
        except Exception as error:  # whatever a foreign model makes of its inputs
            cure = "; with dynamic_batch=False a file is for batches of the examples' size alone"
            told = f"{reason_of(error)}{cure if rows != self.rows[0] else ''}"
            raise ModelError(f"{kind} can't be exported: it failed on {described(batch)}: {told}") from None
        found = arrays(named(output))
        if not found:
            raise ModelError(f"{kind} can't be exported: it returned {describe(output)}, in which there is no tensor")
        return found

    def _weights_as_own(self, other: Any) -> dict[str, NDArray[Any]]:
        """Weights under the names of the copy: paths have numbers that Keras counts up in a process."""
        return dict(zip(self._own[0], weights_of(other).values(), strict=True))


def _precision(model: Any) -> str:
    """The least precise floating dtype that a layer computes in."""
    order = ["float64", "float32", "float16", "bfloat16"]
    found = [str(layer.compute_dtype) for layer in layers_of(model) if str(layer.compute_dtype) in order]
    return max(found, key=order.index, default="float32")


def _classes(model: Any) -> dict[str, Any]:
    """The user's own classes of layers by name, which a file of Keras does not hold."""
    kinds = {type(layer) for layer in layers_of(model)}
    return {kind.__name__: kind for kind in kinds if kind.__module__.split(".")[0] != "keras"}
