"""Adapters by themselves in TensorFlow: graphs, precision, private numbers, shapes; tests/contract has the formulas."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks.errors import ModelError, UsageError
from kdhooks_tf import generators
from kdhooks_tf.adaptation import ADAPTERS, CDAN, DANN, DomainBatch, coral, mk_mmd, reverse_gradient


def batch(rows: int, *shape: int, seed: int = 0, dtype: str = "float32") -> DomainBatch:
    drawn = np.random.default_rng(seed)
    features = tf.constant(drawn.normal(size=[rows, *shape]), dtype)
    return DomainBatch((features,), tf.constant(drawn.normal(size=[rows, 3]), dtype))


def made(name: str) -> Any:
    return ADAPTERS[name](**({"hidden_size": 8} if name in ("dann", "cdan") else {}))


def given(adapter: Any, one: DomainBatch) -> DomainBatch:
    return one if adapter.layers[1] != 0 else DomainBatch((), one.logits)


def test_a_reversed_gradient_takes_the_coefficient_of_a_graph() -> None:
    @tf.function
    def slope(x: Any, coefficient: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(3.0 * reverse_gradient(x, coefficient))
        return tape.gradient(total, x)

    assert slope(tf.ones([2]), tf.constant(0.5, tf.float64)).numpy().tolist() == [-1.5, -1.5]


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_a_graph_with_batches_of_any_size_computes_the_same(name: str) -> None:
    adapter = made(name)
    pairs = [(batch(5, 4, seed=1), batch(3, 4, seed=2)), (batch(4, 4, seed=3), batch(6, 4, seed=4))]
    signature = [tf.TensorSpec([None, width]) for width in (4, 3, 4, 3)]

    @tf.function(input_signature=signature)
    def value(f: Any, z: Any, other: Any, logits: Any) -> Any:
        return adapter(given(adapter, DomainBatch((f,), z)), given(adapter, DomainBatch((other,), logits)))

    for source, target in pairs:
        graph = value(source.features[0], source.logits, target.features[0], target.logits)
        np.testing.assert_allclose(graph, adapter(given(adapter, source), given(adapter, target)), rtol=1e-5)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_half_precision_is_computed_in_float32(name: str) -> None:
    adapter = made(name)
    source, target = (given(adapter, batch(rows, 4, dtype="bfloat16")) for rows in (5, 3))
    assert adapter(source, target).dtype == tf.float32
    assert all(one.dtype == tf.float32 for one in adapter.variables)


def test_building_draws_nothing_of_the_users_and_always_the_same() -> None:
    keras.utils.set_random_seed(3)
    before = generators.state()
    twins = [CDAN(hidden_size=8, randomized=True, random_size=5) for _ in range(2)]
    for one in twins:
        one(batch(5, 4), batch(3, 4))
    assert str(generators.state()) == str(before)
    for mine, other in zip(*(one.variables for one in twins), strict=True):
        assert np.array_equal(mine, other)
    assert len(twins[0].variables) == len(twins[0].trainable_variables) + 2  # the random maps never learn


def test_the_shapes_that_an_adapter_refuses() -> None:
    adapter = DANN(hidden_size=8)
    adapter(batch(5, 4), batch(3, 4))
    with pytest.raises(ModelError) as told:
        adapter(batch(5, 4), batch(3, 5))
    assert str(told.value) == (
        "the adapter 'dann' needs features of one width in both domains; the source's has shape [5, 4] and the "
        "target's [3, 5]"
    )
    with pytest.raises(ModelError) as told:
        adapter(batch(5, 6), batch(3, 6))
    assert str(told.value) == (
        "the discriminator of 'dann' was made for rows of 4 numbers, and gets rows of 6; the first batch decides, so "
        "make a new adapter for another model"
    )
    with pytest.raises(ModelError) as told:
        DANN().build(*_unknown())
    assert str(told.value) == (
        "the adapter 'dann' needs features whose size is known when a graph is traced, and they have shape "
        "[5, None, 4]; pool: mean takes the mean over space or tokens"
    )
    with pytest.raises(
        UsageError, match=r"^the adapter 'cdan': hidden_size: expected a whole number of at least 1, got 0$"
    ):
        CDAN(hidden_size=0)


def _unknown() -> Any:
    one = DomainBatch((tf.TensorSpec([5, None, 4]),), tf.TensorSpec([5, 3]))
    return one, one


def test_the_same_rows_are_no_discrepancy() -> None:
    rows = tf.constant(np.random.default_rng(0).normal(size=[6, 4]))
    assert abs(float(mk_mmd(rows, rows))) < 1e-15 and float(coral(rows, rows)) == 0
    assert float(mk_mmd(tf.ones([4, 3]), tf.ones([2, 3]))) == 0
