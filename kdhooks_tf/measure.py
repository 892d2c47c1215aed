"""What a model costs: `kdhooks.backend.Backend.measure` for TensorFlow.

Rules: the model is measured as it would be served, a ``tf.function`` with ``training=False`` that is traced for the
batch's shapes, and is afterwards as it was: variables, losses of layers, generators. One that is not built yet is
built by its first call. TensorFlow's numbers of threads can't be changed once it works, so they must be as asked for.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.config.search_settings import MeasureSettings
from kdhooks.errors import ModelError, UsageError
from kdhooks.measurement import (
    DEFINITIONS,
    Measured,
    asked_metrics,
    batch_of,
    check_inputs,
    processors,
    reason_of,
    run_failed,
    seconds_of_runs,
)
from kdhooks_tf import generators
from kdhooks_tf.data import as_tensors
from kdhooks_tf.observation.models import learned_weights
from kdhooks_tf.outputs import as_call
from kdhooks_tf.teacher import is_built, layers_of, losses_kept
from kdhooks_tf.traced_run import TracedRun
from kdhooks_tf.weights import write_weights


def measure(model: Any, inputs: Any, names: Sequence[str], settings: MeasureSettings) -> dict[str, Measured]:
    """The metrics by name, in the order of `names`; `kdhooks.measurement.DEFINITIONS` says what they are.

    Args:
        model: of Keras.
        inputs: one row or more, tensors or NumPy arrays in the form that the model takes; None where there are none.
        names: of metrics.
        settings: how.

    Raises:
        UsageError: an unknown metric, inputs that are needed and not there, or other threads than asked for.
        ModelError: the model fails on the inputs, is not built yet, or has a graph that can't be looked into.
    """
    asked = asked_metrics(names)
    check_inputs(asked, inputs)
    _check_threads(settings.threads)
    runs = any(DEFINITIONS[name].needs_inputs for name in asked)
    if not is_built(model) and inputs is None:
        raise ModelError(f"{type(model).__name__} is not built yet: call it on a batch first, or set example_inputs")
    found: dict[str, Measured] = {}
    with generators.untouched():
        if runs or not is_built(model):
            found = _Runs(model, inputs, settings).measured(asked)
        if "parameters" in asked:
            found["parameters"] = Measured.exact(sum(int(np.prod(one.shape)) for one in learned_weights(model)))
        if "file_size" in asked:
            found["file_size"] = Measured.exact(_file_size(model))
    return {name: found[name] for name in asked}


class _Runs:
    """A model that is run in order to measure it.

    Args:
        model: of Keras.
        inputs: of one row or more.
        settings: how many rows, and how often.
    """

    def __init__(self, model: Any, inputs: Any, settings: MeasureSettings) -> None:
        self._model, self._settings = model, settings
        self._inputs = as_tensors(inputs)
        self._batch = self._of(settings.batch_size)

    def measured(self, asked: Sequence[str]) -> dict[str, Measured]:
        """Those of the metrics for which the model runs."""
        found = {}
        with ExitStack() as stack:
            if is_built(self._model):
                stack.enter_context(_variables_kept(self._model))
            self._first_call()
            stack.enter_context(_variables_kept(self._model))
            stack.enter_context(losses_kept(layers_of(self._model)))
            if {"latency", "throughput"} & set(asked):
                found["latency"] = Measured.of(self._seconds())
                found["throughput"] = found["latency"].rate(self._settings.batch_size)
            if "macs" in asked:
                found["macs"] = Measured.exact(self._looked_into("macs", lambda: self._traced(self._of(1)).macs()))
            if "peak_memory" in asked:
                peak = self._peak_on_gpu if tf.config.list_logical_devices("GPU") else self._peak_on_cpu
                found["peak_memory"] = Measured.exact(self._looked_into("peak_memory", peak))
        return found

    def _of(self, rows: int) -> Any:
        return batch_of(self._inputs, rows, lambda parts: tf.concat(parts, 0))

    def _first_call(self) -> None:
        """Builds what is not built, and finds out whether the inputs fit."""
        args, kwargs = as_call(self._model, self._batch)
        try:
            with losses_kept(layers_of(self._model) if self._model.built else ()):
                self._model(*args, **kwargs, training=False)
        except Exception as error:  # whatever a foreign model makes of its inputs
            raise run_failed(self._model, self._batch, error) from error

    def _function(self, batch: Any) -> tuple[Callable[..., Any], list[Any]]:
        """The forward of a batch's tensors, and these."""
        flat = tf.nest.flatten(batch)
        places = [place for place, one in enumerate(flat) if tf.is_tensor(one)]

        def forward(*tensors: Any) -> Any:
            values = list(flat)
            for place, tensor in zip(places, tensors, strict=True):
                values[place] = tensor
            args, kwargs = as_call(self._model, tf.nest.pack_sequence_as(batch, values))
            output = self._model(*args, **kwargs, training=False)
            return [one for one in tf.nest.flatten(output) if tf.is_tensor(one)]

        return forward, [flat[place] for place in places]

    def _once(self) -> Callable[[], None]:
        forward, tensors = self._function(self._batch)
        function = tf.function(forward, autograph=False)
        on_gpu = bool(tf.config.list_logical_devices("GPU"))

        def once() -> None:
            function(*tensors)
            if on_gpu:  # which works behind the host
                tf.test.experimental.sync_devices()

        return once

    def _seconds(self) -> list[float]:
        once = self._once()
        try:
            once()  # traces
        except Exception as error:  # what runs eagerly may still be no graph
            raise run_failed(self._model, self._batch, error) from error
        warm_up, repeats = self._settings.warm_up, self._settings.repeats
        return seconds_of_runs(once, warm_up=warm_up, repeats=repeats, threads=_threads() or processors())

    def _traced(self, batch: Any) -> TracedRun:
        return TracedRun(*self._function(batch))

    def _peak_on_cpu(self) -> int:
        return self._traced(self._batch).peak_bytes()

    def _peak_on_gpu(self) -> int:
        once = self._once()
        once()
        devices = [device.name for device in tf.config.list_logical_devices("GPU")]
        before = {}
        for device in devices:
            tf.config.experimental.reset_memory_stats(device)
            before[device] = tf.config.experimental.get_memory_info(device)["current"]
        once()
        return sum(tf.config.experimental.get_memory_info(name)["peak"] - held for name, held in before.items())

    def _looked_into(self, metric: str, count: Callable[[], int]) -> int:
        try:
            return count()
        except Exception as error:  # whatever can't become a graph with constants in place of variables
            raise ModelError(
                f"{metric} of {type(self._model).__name__} can't be measured, since its graph with fixed weights can't "
                f"be made or looked into: {reason_of(error)}"
            ) from error


@contextmanager
def _variables_kept(model: Any) -> Iterator[None]:
    """Within the block the model may run; variables that no optimizer trains are afterwards as they were."""
    trained = {id(one) for one in model.trainable_variables}
    kept = [(one, np.array(one.numpy())) for one in model.variables if id(one) not in trained]
    try:
        yield
    finally:
        for variable, value in kept:
            if not np.array_equal(variable.numpy(), value):
                variable.assign(value)


def _threads() -> int:
    """Threads that an operation is shared by; 0 for as many as there are processors."""
    said: int = tf.config.threading.get_intra_op_parallelism_threads()
    variable = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return said or (int(variable) if variable.isdecimal() else 0)


def _check_threads(asked: int | None) -> None:
    used = _threads()
    if asked is not None and asked != used:
        words = f"{used}" if used else "as many as there are processors"
        raise UsageError(
            f"measure.threads is {asked}, and TensorFlow works with {words}, which can't be changed any more: call "
            f"tf.config.threading.set_intra_op_parallelism_threads({asked}) when the program begins"
        )


def _file_size(model: Any) -> int:
    """Bytes of the file that a search keeps; it is written, since how it is laid out is the format's affair."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.weights.h5"
        write_weights(model, path)
        return path.stat().st_size
