"""What can be seen of models and an optimizer without running them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from kdhooks.check import ModelFacts, OptimizerFacts
from kdhooks_tf.layer_names import named_layers
from kdhooks_tf.optimizers import inner_optimizer
from kdhooks_tf.teacher import layers_of


def model_facts(name: str, model: Any, *, training: bool) -> ModelFacts:
    """A model by itself, as it stands.

    Args:
        name: of the model.
        model: of Keras.
        training: how the loop calls it; a Keras model has no mode of its own.
    """
    weights = model.weights if model.built else []
    norms = [layer for layer in layers_of(model) if isinstance(layer, keras.layers.BatchNormalization) and layer.built]
    learned = _learned(model)
    return ModelFacts(
        name=name,
        kind=type(model).__name__,
        training=training,
        parameters=sum(int(np.prod(weight.shape)) for weight in learned.values()),
        trainable=sum(int(np.prod(weight.shape)) for weight in model.trainable_variables),
        frozen=tuple(path for path, weight in learned.items() if not _trained(model, weight)),
        devices=tuple(sorted({_device(weight) for weight in weights})),
        dtypes=tuple(sorted({str(weight.dtype) for weight in weights if "float" in str(weight.dtype)})),
        mode_matters=any(_mode_matters(layer) for layer in layers_of(model)),
        norms=len(norms),
        untrained_norms=tuple(layer.name for layer in norms if _untrained(layer)),
        error="" if model.built else "it is not built, so it has no weights yet: run one batch through it first",
    )


def learned_weights(model: Any) -> list[Any]:
    """The variables of a built model that a gradient could change, frozen ones too, each once."""
    statistics = {
        id(one)
        for layer in layers_of(model)
        for name in ("moving_mean", "moving_variance")
        if (one := getattr(layer, name, None)) is not None
    }
    weights = {id(weight): weight for weight in model.weights}
    return [weight for number, weight in weights.items() if number not in statistics and _counts(weight)]


def _learned(model: Any) -> dict[str, Any]:
    """Those variables by their paths; none where the model is not built."""
    return {weight.path: weight for weight in learned_weights(model)} if model.built else {}


def _counts(weight: Any) -> bool:
    return "float" in str(weight.dtype) and "seed" not in weight.name


def _trained(model: Any, weight: Any) -> bool:
    return any(weight is one for one in model.trainable_variables)


def _device(weight: Any) -> str:
    return str(getattr(weight.value, "device", "")).rpartition("device:")[2].lower()


def teacher_facts(name: str, teacher: Any, student: Any) -> ModelFacts:
    """A teacher, and what it shares with the student."""
    of_student = {id(layer) for layer in layers_of(student)}
    found: list[str] = []
    for path, layer in named_layers(teacher).items():
        inside = any(path.startswith(f"{outer}/") for outer in found)
        if path and id(layer) in of_student and not inside and layer.weights:
            found.append(path)
    same = teacher is student
    return replace(model_facts(name, teacher, training=False), is_student=same, shared=() if same else tuple(found))


def optimizer_facts(optimizer: Any, student: Any, teachers: Mapping[str, Any]) -> OptimizerFacts | None:
    """What an optimizer that is built holds; None for all others, which take the variables of the first gradient."""
    inner = inner_optimizer(optimizer)
    held = getattr(inner, "_trainable_variables", None)
    if not held or not getattr(inner, "built", False):
        return None
    ids = {id(variable) for variable in held}
    of_student = {id(weight) for weight in student.weights}
    of_teachers = {
        f"{title}: {weight.path}": id(weight)
        for title, teacher in teachers.items()
        for weight in teacher.trainable_variables
        if id(weight) not in of_student
    }
    trainable = {weight.path: id(weight) for weight in student.trainable_variables}
    return OptimizerFacts(
        kind=type(inner).__name__,
        missing=tuple(path for path, identity in trainable.items() if identity not in ids),
        held=sum(identity in ids for identity in trainable.values()),
        of_teachers=tuple(path for path, identity in of_teachers.items() if identity in ids),
        strangers=len(ids - of_student - set(of_teachers.values())),
    )


def _untrained(layer: Any) -> bool:
    return bool((layer.moving_mean.numpy() == 0).all() and (layer.moving_variance.numpy() == 1).all())


def _mode_matters(layer: Any) -> bool:
    rates = (getattr(layer, name, None) for name in ("rate", "dropout"))
    dropping = any(isinstance(rate, (int, float)) and rate > 0 for rate in rates) and hasattr(layer, "seed_generator")
    return dropping or isinstance(layer, keras.layers.BatchNormalization)
