"""TensorFlow with Keras, as the rules of the contract see it. Nothing is imported before a test asks for it."""

from __future__ import annotations

import copy
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

Array = np.ndarray[Any, Any]
READS = ("numpy", "__bool__", "__float__", "__int__", "__array__", "__index__")
"""What a tensor's value reaches the host by."""


class TensorFlowFramework:
    """TensorFlow on the CPU.

    Args:
        traced: whether a step stands in a `tf.function`.
    """

    name, argument = "tensorflow", "inputs"

    def __init__(self, *, traced: bool) -> None:
        self.traced = traced

    def _way(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import tensorflow as tf

        return tf.function(function) if self.traced else function

    def classifier(self, seed: int, width: int = 8, *, classes: int = 4, dropout: float = 0.25, **names: str) -> Any:
        import keras

        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input([6]),
                keras.layers.Dense(width, name=names.get("body", "body")),
                keras.layers.BatchNormalization(name="norm"),
                keras.layers.ReLU(name="relu"),
                keras.layers.Dropout(dropout, seed=seed, name="drop"),
                keras.layers.Dense(classes, name="head"),
            ],
            name="model",
        )

    def two_inputs(self, seed: int) -> Any:
        import keras

        class Two(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.other = keras.layers.Dense(4), keras.layers.Dense(4)

            def call(self, first: Any, second: Any) -> Any:
                return self.one(first) + self.other(second)

        keras.utils.set_random_seed(seed)
        model = Two()
        model(self.inputs(), self.inputs(features=3))
        return model

    def infinite(self) -> Any:
        model = self.classifier(3)
        model.layers[-1].bias.assign([np.inf] * 4)
        return model

    def counting(self, model: Any) -> Any:
        import keras
        import tensorflow as tf

        class Counting(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.model = model
                self.counter = tf.Variable(0, trainable=False)

            def call(self, x: Any, training: bool = False) -> Any:
                self.counter.assign_add(1)
                return self.model(x, training=training)

            @property
            def calls(self) -> int:
                return int(self.counter.numpy())

        made = Counting()
        made(self.inputs())
        made.counter.assign(0)
        return made

    def inputs(self, rows: int = 8, features: int = 6, seed: int = 7) -> Any:
        import tensorflow as tf

        return tf.constant(np.random.default_rng(seed).normal(size=[rows, features]), tf.float32)

    def labels(self, rows: int = 8, seed: int = 7) -> Any:
        import tensorflow as tf

        return tf.constant(np.random.default_rng(seed).integers(4, size=[rows]))

    def seed(self, number: int) -> None:
        import keras

        keras.utils.set_random_seed(number)

    def drawn(self) -> list[float]:
        import keras
        import tensorflow as tf

        return [random.random(), np.random.rand(), float(tf.random.normal([])), float(keras.random.normal([]))]

    def optimizer(self, model: Any, rate: float = 0.1) -> Any:
        import keras

        made = keras.optimizers.SGD(rate, momentum=0.9)
        made.build(model.trainable_variables)
        return made

    def stepping(self, student: Any, distiller: Any, optimizer: Any) -> Callable[[int], Any]:
        import tensorflow as tf

        data = [(self.inputs(seed=number), self.labels(seed=number)) for number in range(5)]

        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                output = student(x, training=True)
                loss = _cross_entropy(output, y)
                if distiller is not None:
                    loss = distiller.on_after_compute_loss(x, output, loss)
            variables = student.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss

        run = self._way(step)
        return lambda number: run(*data[number % 5])

    def train(self, student: Any, *, steps: int = 10, distiller: Any = None, optimizer: Any = None) -> list[float]:
        step = self.stepping(student, distiller, optimizer or self.optimizer(student))
        return [float(loss) for loss in [step(number) for number in range(steps)]]

    def total(self, distiller: Any, student: Any, **given: Any) -> Any:
        import tensorflow as tf

        x = given.pop("x", None)
        x = self.inputs() if x is None else x

        def step() -> Any:
            with tf.GradientTape():
                output = _called(student, x, training=True)
                loss = _cross_entropy(output, self.labels())
                return distiller.on_after_compute_loss(x, output, loss, **given)

        return self._way(step)()

    def very_tensor(self, distiller: Any, student: Any) -> bool:
        found: list[bool] = []

        def step(x: Any) -> Any:
            output = student(x, training=True)
            loss = _cross_entropy(output, self.labels())
            found.append(distiller.on_after_compute_loss(x, output, loss) is loss)
            return loss

        self._way(step)(self.inputs())
        return found[0]

    def logits(self, model: Any, inputs: Any) -> Array:
        said = _called(model, inputs, training=False) if hasattr(model, "layers") else model(inputs)
        return said.numpy()

    def constant(self, values: Array) -> Any:
        import tensorflow as tf

        return tf.constant(values)

    def number(self, tensor: Any) -> float:
        return float(tensor)

    def weights(self, model: Any) -> dict[str, Array]:
        return {f"{place}": np.array(one.numpy()) for place, one in enumerate(model.variables)}

    def parameters(self, values: Iterable[Any]) -> list[Array]:
        return [np.array(value.numpy()) for value in values]

    def surface(self, model: Any) -> Any:
        layers = {id(layer): layer for layer in model._flatten_layers()}.values()
        return [
            (
                layer.name,
                type(layer).__name__,
                layer.trainable,
                layer.dtype_policy.name,
                sorted(vars(layer)),
                [(variable.path, variable.trainable) for variable in layer._trainable_variables],
            )
            for layer in layers
        ]

    def rough(self, model: Any) -> None:
        model.layers[0].trainable = False

    def ordinary(self, model: Any, distiller: Any) -> None:
        import tensorflow as tf

        student, x = self.classifier(1), self.inputs()

        def step() -> Any:
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(x)
                output = student(x, training=True)
                loss = distiller.on_after_compute_loss(x, output, tf.reduce_sum(output) * 0)
            mine = tape.gradient(loss, student.trainable_variables)
            theirs = tape.gradient(loss, model.trainable_variables)
            return [one is not None for one in mine], [one is not None for one in theirs]

        mine, theirs = self._way(step)()
        assert all(mine) and not any(theirs)

    def wrapped_output(self, form: str, said: Any) -> Any:
        if form == "tuple":
            return said, 1
        return {"logits": said} if form == "mapping" else SimpleNamespace(logits=said)

    def returning(self, model: Any, form: str) -> Any:
        import keras

        outer = self

        class Returning(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def call(self, x: Any, training: bool = False) -> Any:
                return outer.wrapped_output(form, self.model(x, training=training))

        return Returning()

    def copies(self, model: Any, folder: Any) -> Sequence[Any]:
        import keras
        import tensorflow as tf

        with warnings.catch_warnings():  # Keras converts its own variables in a way that NumPy 2 complains of
            warnings.simplefilter("ignore", DeprecationWarning)
            model.save(folder / "model.keras")
            loaded = keras.models.load_model(folder / "model.keras")
        model.export(str(folder / "exported"), verbose=False)
        text = (folder / "exported" / "saved_model.pb").read_bytes() + (folder / "model.keras").read_bytes()
        assert b"kdhooks" not in text
        exported = tf.saved_model.load(str(folder / "exported"))
        return copy.deepcopy(model), loaded, lambda x: exported.serve(x)

    @contextmanager
    def not_waiting(self) -> Iterator[None]:
        import tensorflow as tf

        kind = type(tf.constant(0))

        def refusing(read: Callable[..., Any]) -> Callable[..., Any]:
            def refuse(*args: Any, **options: Any) -> Any:
                assert not (isinstance(args[0], kind) and _is_ours(sys._getframe(1))), "a tensor's value was read"
                return read(*args, **options)

            return refuse

        with pytest.MonkeyPatch.context() as patch:
            for name in READS:
                patch.setattr(kind, name, refusing(getattr(kind, name)))
            for name in ("asarray", "array"):
                patch.setattr(np, name, refusing(getattr(np, name)))
            yield

    def batch_columns(self, rows: int, seed: int = 7) -> dict[str, Any]:
        return {"x": self.inputs(rows, seed=seed).numpy(), "y": self.labels(rows, seed=seed).numpy()}


def _is_ours(frame: Any) -> bool:
    """Whether kdhooks asks for a value, and not TensorFlow for a shape or Keras for a seed in the midst of a step."""
    while frame.f_globals.get("__name__", "").endswith(("resource_variable_ops", "distribute.values", "variables")):
        frame = frame.f_back
    return frame.f_globals.get("__name__", "").partition(".")[0] in ("kdhooks", "kdhooks_tf")


def _cross_entropy(output: Any, y: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, output))


def _called(model: Any, x: Any, *, training: bool) -> Any:
    if isinstance(x, dict):
        return model(**x, training=training)
    return model(*x, training=training) if isinstance(x, (list, tuple)) else model(x, training=training)
