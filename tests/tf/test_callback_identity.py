"""With every distillation weight 0 a fit with the callback is the fit without it, bit for bit."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kdhooks_tf import DistillationCallback
from tests.tf.callback_models import FEATURES, compiled, data, distiller, equal, features, fit, logits, student, weights

# Keras converts its own variables in a way that NumPy 2 complains of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

NOTHING = {
    "logits": logits((1.0, 0.0)),
    "features": features(0.0, logits_weights=None),
    "both": features(0.0, logits_weights=(1.0, 0.0)),
}


def convolutional() -> Any:
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((FEATURES,)),
        keras.layers.Reshape((FEATURES, 1)),
        keras.layers.Conv1D(4, 3, name="body"),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.SpatialDropout1D(0.3),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.GaussianNoise(0.1),
        keras.layers.Dense(4),
    ]
    return keras.Sequential(layers, name="student")


@pytest.mark.parametrize("conf", NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize(
    "options", [{}, {"run_eagerly": True}, {"steps_per_execution": 2}], ids=["graph", "eager", "2"]
)
def test_zero_weights_change_no_bit(conf: dict[str, Any], options: dict[str, Any]) -> None:
    plain, model = compiled(student(), **options), compiled(student(), **options)
    expected = fit(plain, validation_data=data(seed=4))
    history = fit(model, DistillationCallback(distiller(conf)), validation_data=data(seed=4))
    assert equal(plain, model)
    assert {name: history[name] for name in expected} == expected
    for one, other in zip(plain.optimizer.variables, model.optimizer.variables, strict=True):
        assert np.array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("shuffle", [False, True])
def test_zero_weights_change_no_bit_of_a_convolution(shuffle: bool) -> None:
    plain, model = (compiled(convolutional(), keras.optimizers.Adam(0.01)) for _ in range(2))
    fit(plain, shuffle=shuffle)
    fit(model, DistillationCallback(distiller(logits((1.0, 0.0)))), shuffle=shuffle)
    assert equal(plain, model)


def test_zero_weights_with_jit_compile() -> None:
    plain, model = (compiled(student(), jit_compile=True) for _ in range(2))
    fit(plain)
    fit(model, DistillationCallback(distiller(NOTHING["both"])))
    for one, other in zip(weights(plain), weights(model), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_zero_weights_with_loss_scaling() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        plain, model = compiled(student()), compiled(student())
    finally:
        keras.config.set_dtype_policy("float32")
    fit(plain)
    fit(model, DistillationCallback(distiller(NOTHING["both"])))
    assert equal(plain, model)


def test_random_numbers_of_the_program_stay_where_they_were() -> None:
    drawn = []
    for callbacks in ([], [DistillationCallback(distiller(features()))]):
        fit(compiled(student(dropout=0.0)), *callbacks)
        drawn.append(
            (np.random.rand(), float(keras.random.uniform(())), float(keras.layers.Dense(1)(np.ones((1, 1)))[0, 0]))
        )
    assert drawn[0] == drawn[1]
