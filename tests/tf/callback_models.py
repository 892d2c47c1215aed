"""Models, data and configurations that are small enough for a `fit` in a test."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks import Distillation

FEATURES, CLASSES = 6, 4
Array = np.ndarray[Any, Any]


def data(rows: int = 20, seed: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, FEATURES)).astype("float32"), rng.integers(0, CLASSES, rows).astype("int32")


@keras.saving.register_keras_serializable("kdhooks_tests")
class Counter(keras.layers.Layer):
    """Passes its input on and counts its calls, those in a graph as well, in training and otherwise."""

    def build(self, input_shape: Any) -> None:
        self.calls = self.add_weight(name="calls", shape=(2,), initializer="zeros", trainable=False, dtype="float32")

    def call(self, inputs: Any, training: bool = False) -> Any:
        self.calls.assign_add([1.0, 0.0] if training else [0.0, 1.0])
        return inputs


def student(*, seed: int = 0, extra: Any = (), dropout: float = 0.25) -> Any:
    """Dense, BatchNorm and dropout, so that statistics and random numbers would show a difference."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(8, name="body"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.Dropout(dropout, name="drop"),
            *extra,
            keras.layers.Dense(CLASSES, name="head"),
        ],
        name="student",
    )


def teacher(*, counter: bool = False) -> Any:
    keras.utils.set_random_seed(11)
    layers = [
        keras.Input((FEATURES,)),
        keras.layers.Dense(12, name="body", activation="relu"),
        keras.layers.BatchNormalization(name="norm"),
        *([Counter(name="counter")] if counter else []),
        keras.layers.Dense(CLASSES, name="head", kernel_initializer=keras.initializers.RandomNormal(stddev=0.8)),
    ]
    return keras.Sequential(layers, name="teacher")


def compiled(model: Any, optimizer: Any = None, **options: Any) -> Any:
    options.setdefault("loss", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), **options)
    return model


def still(**options: Any) -> Any:
    """A student that a fit does not change: no step, no BatchNorm, no dropout."""
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES, name="head")], name="student")
    model.set_weights([np.random.default_rng(5).normal(size=w.shape) for w in model.get_weights()])
    return compiled(model, keras.optimizers.SGD(0.0), **options)


def logits(weights: tuple[Any, Any] = (0.3, 0.7), temperature: float = 3.0) -> dict[str, Any]:
    loss = {"temperature": temperature, "loss_types": ["CE", "KL"], "loss_weights": list(weights)}
    return {"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": loss}}}}


def features(weight: Any = 0.5, *, logits_weights: tuple[Any, Any] | None = (0.5, 0.5)) -> dict[str, Any]:
    """A pair whose widths differ, 8 and 12, so that a matcher is trained."""
    pair = {"layer_mappings": [["body", "body"]], "loss_types": ["MSE"], "loss_weights": [weight]}
    criterion: dict[str, Any] = {
        "IntermediateLayersKnowledgeDistillationLoss": pair | {"add_origin_loss": logits_weights is None}
    }
    if logits_weights is not None:
        criterion |= logits(logits_weights)["distillation"]["train"]["criterion"]
    return {"distillation": {"train": {"criterion": criterion}}}


def distiller(conf: Any = None, **models: Any) -> Any:
    models.setdefault("teacher_model", teacher())
    return Distillation(logits() if conf is None else conf, **models)


def fit(model: Any, *callbacks: Any, epochs: int = 2, batch_size: int = 8, seed: int = 7, **options: Any) -> Any:
    """The history of a fit over 20 rows: two whole batches and a part of one."""
    options.setdefault("shuffle", False)
    options.setdefault("verbose", 0)
    given = (
        {"x": options.pop("x"), "y": options.pop("y", None)} if "x" in options else dict(zip("xy", data(), strict=True))
    )
    if not isinstance(given["x"], tf.data.Dataset):
        options["batch_size"] = batch_size
    if seed is not None:
        keras.utils.set_random_seed(seed)
    return model.fit(**given, epochs=epochs, callbacks=list(callbacks), **options).history


def weights(model: Any) -> list[Array]:
    return [np.array(one) for one in model.get_weights()]


def equal(one: Any, other: Any) -> bool:
    """Bit for bit."""
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def nothing_of_ours(model: Any) -> bool:
    names = ("compute_loss", "train_step", "get_metrics_result", "evaluate", "train_on_batch", "fit", "save_weights")
    untouched = not any(name in vars(model) for name in names)
    return untouched and not any(str(value).find("kdhooks") >= 0 for value in vars(model).values())


def log_softmax(z: Array) -> Array:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def divergence(student_logits: Array, teacher_logits: Array, temperature: float) -> Array:
    """T² KL(teacher || student) of softened rows, [N]; Hinton et al. 2015."""
    s, t = log_softmax(student_logits / temperature), log_softmax(teacher_logits / temperature)
    row: Array = temperature**2 * (np.exp(t) * (t - s)).sum(-1)
    return row
