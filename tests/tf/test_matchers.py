"""Matchers bring features of any two shapes together, channels last, or say plainly why they can't."""

from __future__ import annotations

import itertools
import random
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F

from kdhooks import register_matcher
from kdhooks.registry import REGISTERED_MATCHERS
from kdhooks_tf.matchers import MATCHERS, MatcherError, Projection, build_matcher
from kdhooks_tf.matchers.modules import pooled_tokens, resized

SHAPES = [
    (2, 5), (2, 7), (2, 4, 6), (2, 9, 6), (2, 10, 8), (2, 11, 6), (2, 4, 4, 6), (2, 2, 2, 8), (2, 3, 5, 8),
    (2, 1, 1, 3), (2, 17, 12), (2, 18, 6), (2, 2, 3, 2, 6),
]  # fmt: skip


def normal(shape: Any, seed: int = 0, dtype: str = "float32") -> Any:
    return tf.constant(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.mark.parametrize("student", SHAPES)
def test_auto_matches_any_two_shapes(student: tuple[int, ...]) -> None:
    for teacher in SHAPES:
        if {len(student), len(teacher)} == {4, 5}:
            continue
        matcher = build_matcher("auto", student, teacher)
        mine, theirs = normal(student), normal(teacher, 1)
        with tf.GradientTape() as tape:
            tape.watch(mine)
            one, other = matcher(mine, theirs)
            value = tf.reduce_sum(tf.square(one))
        assert one.shape == other.shape
        assert (student == teacher) == matcher.is_identity
        watched = [mine, *(variable.value for variable in matcher.variables)]
        gradients = tape.gradient(value, watched)
        assert all(one is not None and np.isfinite(one).all() for one in gradients)


def channels_first(array: Any) -> Any:
    return torch.from_numpy(np.moveaxis(np.asarray(array), -1, 1).copy())


@pytest.mark.parametrize(("student", "teacher"), list(itertools.product([4, 7], [3, 4, 9])))
def test_resize_and_pooling_are_those_of_the_twin(student: int, teacher: int) -> None:
    image = normal((2, student, 5, 3), dtype="float64")
    ours = resized(image, tf.zeros([2, teacher, 6, 1]))
    theirs = F.interpolate(channels_first(image), size=(teacher, 6), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(ours, np.moveaxis(theirs.numpy(), 1, -1), rtol=1e-12, atol=1e-12)
    tokens = normal((2, student, 3), dtype="float64")
    pooled = pooled_tokens(tokens, tf.zeros([2, teacher, 1]))
    expected = F.adaptive_avg_pool1d(channels_first(tokens), teacher)
    np.testing.assert_allclose(pooled, np.moveaxis(expected.numpy(), 1, -1), rtol=1e-12, atol=1e-12)


def test_a_class_token_more_or_less_is_dropped() -> None:
    tokens, more = normal((2, 9, 6)), normal((2, 10, 6), 1)
    one, other = build_matcher("auto", (2, 10, 6), (2, 9, 6))(more, tokens)
    assert np.array_equal(one, more[:, 1:]) and other is tokens
    image = normal((2, 3, 3, 6), 2)
    one, other = build_matcher("auto", (2, 3, 3, 6), (2, 10, 6))(image, more)
    assert np.array_equal(one, tf.reshape(image, [2, 9, 6])) and np.array_equal(other, more[:, 1:])
    one, other = build_matcher("auto", (2, 10, 6), (2, 3, 3, 6))(more, image)
    assert np.array_equal(one, tf.reshape(more[:, 1:], [2, 3, 3, 6])) and other is image


def test_channels_and_space_both_different() -> None:
    student, teacher = normal((2, 8, 8, 3)), normal((2, 4, 4, 5))
    matcher = build_matcher("auto", student.shape.as_list(), teacher.shape.as_list())
    (projection,) = matcher.layers
    smaller = tf.image.resize(student, (4, 4), method="bilinear")
    expected = tf.nn.conv2d(smaller, projection.weights[0].value[None, None], 1, "SAME") + projection.biases[0].value
    np.testing.assert_allclose(matcher(student, teacher)[0], expected, rtol=1e-5, atol=1e-5)


def test_sizes_may_change_from_batch_to_batch_and_be_unknown_in_a_graph() -> None:
    cases = [
        ((None, 5, 6), (None, 5, 8), (3, 7, 6), (3, 7, 8)),
        ((None, 5, 6), (None, 7, 6), (1, 9, 6), (1, 4, 6)),
        ((None, 8, 8, 3), (None, 4, 4, 3), (1, 6, 9, 3), (1, 3, 5, 3)),
        ((None, None, 6), (None, 4, 4, 6), (2, 9, 6), (2, 2, 3, 6)),
        ((None, None, None, 6), (None, 10, 6), (2, 4, 4, 6), (2, 10, 6)),
    ]
    for student, teacher, mine, theirs in cases:
        matcher = build_matcher("auto", student, teacher)
        unknown = [tf.TensorSpec([None] * (len(shape) - 1) + [shape[-1]]) for shape in (mine, theirs)]
        traced = tf.function(lambda x, y, matcher=matcher: matcher(x, y), input_signature=unknown, autograph=False)
        given = normal(mine), normal(theirs, 1)
        left, right = matcher(*given)
        in_graph = traced(*given)
        assert left.shape == right.shape
        np.testing.assert_allclose(in_graph[0], left, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "student", "teacher", "parameters"),
    [
        ("identity", (2, 5), (2, 5), 0),
        ("linear", (8, 128), (8, 512), 128 * 512 + 512),
        ("linear", (2, 4, 6), (2, 4, 3), 6 * 3 + 3),
        ("linear", (2, 3, 3, 4), (2, 3, 3, 6), 4 * 6 + 6),
        ("conv1x1", (2, 3, 3, 4), (2, 3, 3, 6), 4 * 6 + 6),
        ("mlp", (2, 4), (2, 6), 4 * 6 + 6 + 6 * 6 + 6),
        ("token_pool", (2, 9, 4), (2, 3, 4), 0),
        ("resize", (2, 3, 3, 4), (2, 7, 2, 4), 0),
        ("flatten", (2, 4, 3), (2, 2, 2, 2), 12 * 8 + 8),
        ("flatten", (2, 4, 3), (2, 12), 0),
    ],
)
def test_each_matcher_does_what_its_name_says(name: str, student: Any, teacher: Any, parameters: int) -> None:
    matcher = build_matcher(name.upper(), student, teacher)
    given = normal(teacher)
    one, other = matcher(normal(student), given)
    assert one.shape == other.shape and other is given
    assert sum(int(np.prod(variable.shape)) for variable in matcher.trainable_variables) == parameters


def test_values_of_the_linear_map_and_of_its_bounds_come_from_a_seed_of_their_own() -> None:
    keras.utils.set_random_seed(7)
    python, numpy = random.getstate(), np.random.get_state(legacy=True)[1].tolist()
    expected = float(tf.random.uniform([]))
    keras.utils.set_random_seed(7)
    matcher = build_matcher("linear", (4, 100), (4, 50), seed=3)
    assert random.getstate() == python and np.random.get_state(legacy=True)[1].tolist() == numpy
    assert float(tf.random.uniform([])) == expected
    projection: Any = matcher.layers[0]
    x = normal((4, 100))
    weight, bias = projection.weights[0].numpy(), projection.biases[0].numpy()
    np.testing.assert_allclose(matcher(x, tf.zeros([4, 50]))[0], x.numpy() @ weight + bias, rtol=1e-5, atol=1e-6)
    assert 0.09 < np.abs(weight).max() <= 0.1 and abs(weight.mean()) < 0.01
    again: Any = build_matcher("linear", (4, 100), (4, 50), seed=3).layers[0]
    other: Any = build_matcher("linear", (4, 100), (4, 50), seed=4).layers[0]
    assert np.array_equal(again.weights[0], weight) and not np.array_equal(other.weights[0], weight)


@pytest.mark.parametrize(
    ("name", "student", "teacher", "message"),
    [
        ("auto", (2, 5), (3, 5), "both must have the same rows on their first axis"),
        ("auto", (), (2,), "both must have the same rows on their first axis"),
        ("auto", (2,), (2, 3), "features have 2 to 5 axes, as in [N, D], [N, T, D] and [N, H, W, C]"),
        ("auto", (2, 4, 4, 3), (2, 4, 4, 4, 3), "one has two axes of space and the other three"),
        ("identity", (2, 5), (2, 6), "identity needs equal shapes"),
        ("linear", (2, 4, 4, 5), (2, 3, 4, 5), "linear maps axis -1 and needs all others equal"),
        (
            "conv1x1",
            (2, 3, 3, 4),
            (2, 5, 5, 4),
            "conv1x1 maps the channels of [N, H, W, C] and needs all other axes equal",
        ),
        ("mlp", (2, 4), (2, 3, 4), "mlp maps axis -1 and needs all others equal"),
        ("token_pool", (2, 4, 5), (2, 4, 6), "token_pool needs [N, T, D] on both sides with the same D"),
        ("resize", (2, 5, 5, 4), (2, 5, 5, 6), "resize needs [N, H, W, C] on both sides with the same C"),
        ("flatten", (2, 99999), (2, 99998), "flatten would need 99999 x 99998 weights"),
        ("flatten", (2, None, 3), (2, 5), "the sizes that it maps are not known before the step"),
        ("linear", (2, None), (2, 5), "the sizes that it maps are not known before the step"),
    ],
)
def test_shapes_that_a_matcher_does_not_fit(name: str, student: Any, teacher: Any, message: str) -> None:
    with pytest.raises(MatcherError) as caught:
        build_matcher(name, student, teacher)
    assert str(caught.value) == message


def test_dtypes() -> None:
    x = normal((2, 4))
    matcher = build_matcher("linear", (2, 4), (2, 6))
    assert [variable.dtype for variable in matcher.variables] == ["float32", "float32"]
    for dtype in ("float16", "bfloat16", "float32"):
        assert matcher(tf.cast(x, dtype), tf.zeros([2, 6], dtype))[0].dtype == dtype
    double = build_matcher("mlp", (2, 4), (2, 6), dtype="float64")
    assert double(tf.cast(x, "float64"), tf.zeros([2, 6]))[0].dtype == "float64"
    assert {variable.dtype for variable in double.variables} == {"float64"}


def test_a_matcher_made_while_a_graph_is_traced_belongs_to_no_graph() -> None:
    made: list[Any] = []

    @tf.function(jit_compile=True)
    def step(x: Any, y: Any) -> Any:
        if not made:
            made.append(build_matcher("mlp", x.shape, y.shape, seed=1))
        return made[0](x, y)[0]

    x, y = normal((2, 4)), normal((2, 6))
    inside = step(x, y)
    again = build_matcher("mlp", (2, 4), (2, 6), seed=1)
    np.testing.assert_allclose(inside, again(x, y)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made[0](x, y)[0], again(x, y)[0], rtol=1e-6)
    assert isinstance(made[0].layers[0], Projection)


@pytest.mark.usefixtures("registrations_end_with_the_test")
def test_registered_matchers() -> None:
    register_matcher("dense of keras", lambda student, teacher: keras.layers.Dense(teacher[-1]))
    keras.utils.set_random_seed(5)
    before = random.getstate(), np.random.get_state(legacy=True)[1].tolist()
    matcher = build_matcher("Dense of Keras", (None, 4), (None, 2), seed=1)
    assert (random.getstate(), np.random.get_state(legacy=True)[1].tolist()) == before
    assert matcher(tf.ones([2, 4]), tf.zeros([2, 2]))[0].shape == (2, 2) and not matcher.is_identity
    same = build_matcher("dense of keras", (None, 4), (None, 2), seed=1)
    pairs = list(zip(matcher.trainable_variables, same.trainable_variables, strict=True))
    assert len(pairs) == 2 and all(np.array_equal(one, other) for one, other in pairs)
    register_matcher("first half", lambda student, teacher: lambda feature: feature[:, : teacher[1]])
    half = build_matcher("first half", (2, 4), (2, 2))
    assert np.array_equal(half(normal((2, 4)), tf.zeros([2, 2]))[0], normal((2, 4))[:, :2])
    assert half.trainable_variables == []
    register_matcher("nothing at all", lambda student, teacher: None)
    with pytest.raises(MatcherError) as refused:
        build_matcher("nothing at all", (2, 4), (2, 2))
    assert str(refused.value) == (
        "the registered matcher 'nothing at all' must return a Keras layer or a function, not NoneType"
    )
    with pytest.raises(MatcherError, match=r"^both must have the same rows on their first axis$"):
        build_matcher("first half", (2, 4), (3, 2))
    assert {"first half", "nothing at all"} <= set(REGISTERED_MATCHERS) and "first half" not in MATCHERS
