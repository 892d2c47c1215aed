"""Losses in graphs: traced once, compiled by XLA, with a batch and a temperature that aren't known before, weighed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks.errors import ModelError
from kdhooks_tf.losses import (
    FEATURE_LOSSES,
    LOSSES,
    build_feature_loss,
    logit_loss,
    loss_kind,
    takes_sample_weight,
    target_cross_entropy,
)

ON_LOGITS = sorted(name for name in LOSSES if loss_kind(name) != "feature")
MODULES = sorted(name for name, loss in FEATURE_LOSSES.items() if isinstance(loss, type))
ON_FEATURES = sorted(set(FEATURE_LOSSES) - set(MODULES))
WEIGHED = sorted(name for name in ON_FEATURES if takes_sample_weight(name))
LABELLED = ("dkd", "mft", "teacher_free")
SHAPES = {"attention_kl": (4, 2, 3, 3), "value_relation": (4, 2, 3, 2), "pkd": (4, 3, 6)}
Run = Callable[..., Any]


def drawn(shape: tuple[int, ...], seed: int) -> Any:
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def logits(seed: int, batch: int = 6) -> Any:
    return drawn((batch, 5), seed) * 2


def features(name: str, seed: int, batch: int = 4) -> Any:
    shape = (batch, *SHAPES.get(name, (4, 4, 4, 3))[1:])
    if name in ("fsp", "review"):
        return [drawn(shape, seed), drawn((batch, 2, 2, 5), seed + 10)]
    one = drawn(shape, seed)
    return tf.nn.softmax(one) if name == "attention_kl" else one


def made(name: str, **options: Any) -> Any:
    small = {"samples": 20, "negatives": 6, "width": 4} if name == "crd" else {}
    shapes = tf.nest.map_structure(lambda one: tuple(one.shape), features(name, 1))
    return build_feature_loss(name, shapes, shapes, **small, **options)


def slope(loss: Run, student: Any, *given: Any, **options: Any) -> tuple[Any, Any]:
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss(student, *given, **options)
    return value, tape.gradient(value, student, unconnected_gradients="zero")


def same(found: Any, expected: Any, *, rtol: float = 1e-9) -> None:
    for ours, theirs in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=rtol, atol=1e-11)


def unknown(like: Any) -> Any:
    """The signature of tensors whose batch is not known when the graph is traced."""
    return tf.nest.map_structure(lambda one: tf.TensorSpec([None, *one.shape[1:]], one.dtype), like)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", ON_LOGITS)
def test_one_graph_serves_every_batch_temperature_mask_and_weight(name: str, jit: bool) -> None:
    loss, traces = logit_loss(name), []

    def step(s: Any, t: Any, target: Any, mask: Any, weight: Any, temperature: Any) -> Any:
        traces.append(name)
        return slope(loss, s, t, target=target, mask=mask, sample_weight=weight, temperature=temperature)

    signature = [
        *(tf.TensorSpec([None, 5], tf.float64) for _ in range(2)),
        tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.bool), tf.TensorSpec([None], tf.float64),
        tf.TensorSpec([], tf.float32),
    ]  # fmt: skip
    graph = tf.function(step, input_signature=signature, jit_compile=jit)
    for batch, temperature in ((6, 1.0), (6, 4.0), (3, 0.5)):
        given = {
            "target": tf.range(batch, dtype=tf.int64) % 5,
            "mask": tf.constant(np.arange(batch) != 1),
            "sample_weight": tf.constant(np.arange(batch) / 2),
        }
        student, teacher = logits(1, batch), logits(2, batch)
        found = graph(student, teacher, *given.values(), tf.constant(temperature))
        same(found, slope(loss, student, teacher, temperature=temperature, **given))
    assert len(traces) == 1


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", ON_FEATURES)
def test_losses_on_features_work_in_graphs_of_any_batch(name: str, jit: bool) -> None:
    loss, traces = made(name), []

    def step(s: Any, t: Any) -> Any:
        traces.append(name)
        return slope(loss, s, t)

    graph = tf.function(step, input_signature=[unknown(features(name, 1))] * 2, jit_compile=jit)
    for batch in (4, 2):
        student, teacher = features(name, 1, batch), features(name, 2, batch)
        same(graph(student, teacher), slope(loss, student, teacher))
    assert len(traces) == 1


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_losses_with_variables_work_in_graphs_of_any_batch(name: str, jit: bool) -> None:
    eager, traced = made(name), made(name)

    def step(loss: Any, s: Any, t: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(s)
            value = loss(s, t)
        return value, tape.gradient(value, [s, *loss.trainable_variables])

    graph = tf.function(
        lambda s, t: step(traced, s, t), input_signature=[unknown(features(name, 1))] * 2, jit_compile=jit
    )
    for batch in (4, 2):  # the second draws and remembers what the first left behind
        student, teacher = features(name, 1, batch), features(name, 2, batch)
        value, gradients = graph(student, teacher)
        expected, slopes = step(eager, student, teacher)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        for ours, theirs in zip(tf.nest.flatten(gradients), tf.nest.flatten(slopes), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(tf.reduce_max(tf.abs(theirs))) + 1e-6)
    for ours, theirs in zip(traced.variables, eager.variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["KL", "JSD", "dist", "mft"])
def test_shapes_are_refused_while_a_graph_is_traced(name: str) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 5]), tf.TensorSpec([None, 4])])
    def step(s: Any, t: Any) -> Any:
        return logit_loss(name)(s, t)

    with pytest.raises(ModelError) as caught:
        step.get_concrete_function()
    assert (
        "the student's logits have shape [None, 5] and the teacher's [None, 4]; "
        "both need the same positions and the same classes in the same order"
    ) in str(caught.value)


def test_an_unknown_number_of_axes_is_refused() -> None:
    @tf.function(input_signature=[tf.TensorSpec(None)] * 2, autograph=False)
    def step(s: Any, t: Any) -> Any:
        return logit_loss("KL")(s, t)

    with pytest.raises(ModelError) as caught:
        step.get_concrete_function()
    assert str(caught.value) == "the number of axes of logits and features must be known when a graph is traced"


def options_of(name: str) -> dict[str, Any]:
    return {"target": tf.range(6) % 5} if name in LABELLED else {}


@pytest.mark.parametrize("name", ON_LOGITS)
def test_weights_of_one_are_no_weights(name: str) -> None:
    student, teacher, options = logits(1), logits(2), options_of(name)
    plain = slope(logit_loss(name), student, teacher, temperature=2.0, **options)
    same(slope(logit_loss(name), student, teacher, temperature=2.0, sample_weight=tf.ones([6]), **options), plain)
    doubled = slope(logit_loss(name), student, teacher, temperature=2.0, sample_weight=tf.fill([6], 2.0), **options)
    same(doubled, tf.nest.map_structure(lambda one: 2 * one, plain))


@pytest.mark.parametrize("name", ON_LOGITS)
@pytest.mark.parametrize("poison", [1.0, math.nan, math.inf])
def test_a_weight_of_zero_leaves_a_row_without_gradient_but_in_the_count(name: str, poison: float) -> None:
    keep = np.array([True, True, False, True, False, True])
    student, teacher, options = logits(1).numpy(), logits(2).numpy(), options_of(name)
    less = {key: value[keep] for key, value in options.items()}
    expected, kept = slope(logit_loss(name), tf.constant(student[keep]), tf.constant(teacher[keep]), **less)
    student[~keep], teacher[~keep] = poison, poison
    value, gradient = slope(
        logit_loss(name), tf.constant(student), tf.constant(teacher), sample_weight=keep.astype(float), **options
    )
    np.testing.assert_allclose(value, expected * 4 / 6, rtol=1e-12)
    np.testing.assert_allclose(gradient.numpy()[keep], kept * 4 / 6, rtol=1e-9, atol=1e-14)
    assert not gradient.numpy()[~keep].any()


def test_weights_of_samples_and_of_tokens() -> None:
    student, teacher = drawn((2, 3, 5), 1), drawn((2, 3, 5), 2)
    mask, weight = np.array([[1, 1, 0], [1, 1, 1]]), np.array([[2.0, 0.5, 9.0], [1.0, 0.0, 3.0]])
    rows = np.array(
        [[float(logit_loss("KL")(student[n, t][None], teacher[n, t][None])) for t in range(3)] for n in range(2)]
    )
    by_token = logit_loss("KL")(student, teacher, mask=mask, sample_weight=weight)
    assert float(by_token) == pytest.approx((rows * weight * mask).sum() / 5)
    by_sample = logit_loss("KL")(student, teacher, mask=mask, sample_weight=[2.0, 0.5])
    assert float(by_sample) == pytest.approx((rows * [[2.0], [0.5]] * mask).sum() / 5)
    as_column = logit_loss("KL")(drawn((4, 5), 1), drawn((4, 5), 2), sample_weight=tf.constant([[1.0], [2], [3], [4]]))
    assert float(as_column) == float(
        logit_loss("KL")(drawn((4, 5), 1), drawn((4, 5), 2), sample_weight=tf.constant([1.0, 2, 3, 4]))
    )


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ModelError) as caught:
        logit_loss("KL")(logits(1), logits(2), sample_weight=tf.ones([4]))
    assert str(caught.value) == "the sample_weight has shape [4]; for a tensor of shape [6, 5] it must be [6] or [6]"
    with pytest.raises(ModelError) as caught:
        build_feature_loss("hint", (2, 3, 4), (2, 3, 4))(tf.ones([2, 3, 4]), tf.ones([2, 3, 4]), sample_weight=[[1.0]])
    assert str(caught.value) == (
        "the sample_weight has shape [1, 1]; for a tensor of shape [2, 3, 4] it must be [2] or [2, 3]"
    )


@pytest.mark.parametrize("weight", [None, [1.0, 0.5, 0.0, 2.0, 3.0, 0.25]])
def test_the_reduction_is_that_of_keras(weight: list[float] | None) -> None:
    student, teacher = logits(1), logits(2)
    p, labels = tf.nn.softmax(teacher), tf.range(6) % 5
    q = tf.nn.softmax(student)
    cases = {
        "KL": keras.losses.KLDivergence()(p, q, sample_weight=weight),
        "CE": keras.losses.CategoricalCrossentropy(from_logits=True)(p, student, sample_weight=weight),
        "hard_label": keras.losses.SparseCategoricalCrossentropy(from_logits=True)(
            tf.argmax(teacher, -1), student, sample_weight=weight
        ),
        "MSE": keras.losses.MeanSquaredError()(teacher, student, sample_weight=weight),
        "L1": keras.losses.MeanAbsoluteError()(teacher, student, sample_weight=weight),
    }
    for name, expected in cases.items():
        assert float(logit_loss(name)(student, teacher, sample_weight=weight)) == pytest.approx(
            float(expected), rel=1e-5
        )
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, student, sample_weight=weight)
    assert float(target_cross_entropy(student, labels, weight)) == pytest.approx(float(expected), rel=1e-6)
    expected = keras.losses.CategoricalCrossentropy(from_logits=True)(p, student, sample_weight=weight)
    assert float(target_cross_entropy(student, p, weight)) == pytest.approx(float(expected), rel=1e-6)


def test_what_takes_weights_is_what_is_a_mean_over_samples() -> None:
    assert set(ON_FEATURES) - set(WEIGHED) == {"correlation_congruence", "pkt", "rkd", "similarity_preserving"}


@pytest.mark.parametrize("name", WEIGHED)
def test_weights_of_features(name: str) -> None:
    loss, student, teacher = made(name), features(name, 1), features(name, 2)
    plain = slope(loss, student, teacher)
    same(slope(loss, student, teacher, sample_weight=tf.ones([4])), plain)
    keep = np.array([True, False, True, True])
    less = tf.nest.map_structure(lambda one: one[keep], (student, teacher))
    expected, kept = slope(loss, *less)
    spoiled = tf.nest.map_structure(
        lambda one: tf.where(keep.reshape(-1, *[1] * (one.shape.rank - 1)), one, math.nan), (student, teacher)
    )
    value, gradient = slope(loss, *spoiled, sample_weight=keep.astype(float))
    np.testing.assert_allclose(value, expected * 3 / 4, rtol=1e-12)
    for ours, theirs in zip(tf.nest.flatten(gradient), tf.nest.flatten(kept), strict=True):
        np.testing.assert_allclose(ours.numpy()[keep], theirs.numpy() * 3 / 4, rtol=1e-9, atol=1e-13)
        assert not ours.numpy()[~keep].any()


def test_the_target_losses_count_what_is_labelled() -> None:
    outputs, labels = drawn((2, 3, 5), 1), np.array([[1, 2, -100], [0, -100, -100]])
    alone = target_cross_entropy(tf.constant(outputs.numpy()[labels >= 0]), labels[labels >= 0])
    assert float(target_cross_entropy(outputs, labels)) == pytest.approx(float(alone), rel=1e-12)
    nothing, gradient = slope(target_cross_entropy, outputs, tf.fill([2, 3], -100))
    assert float(nothing) == 0.0 and not gradient.numpy().any()
    column = target_cross_entropy(outputs[:, 0], tf.constant([[1], [0]]))
    assert float(column) == float(target_cross_entropy(outputs[:, 0], tf.constant([1, 0])))
