"""What losses with variables owe a loop: seeds, state, that they train, and nothing of the user's random numbers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks_tf.losses import LossModule, build_feature_loss
from kdhooks_tf.losses.review import BatchNorm

SHAPES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "vid": ((4, 4, 4, 3), (4, 4, 4, 5), {}),
    "mgd": ((4, 4, 4, 3), (4, 4, 4, 5), {}),
    "review": ([(4, 4, 4, 3), (4, 2, 2, 5)], [(4, 4, 4, 4), (4, 2, 2, 6)], {}),
    "crd": ((4, 3), (4, 5), {"samples": 20, "negatives": 8, "width": 4}),
}
modules = pytest.mark.parametrize("name", sorted(SHAPES))


def made(name: str, **options: Any) -> Any:
    student, teacher, own = SHAPES[name]
    return build_feature_loss(name, student, teacher, **{**own, **options})


def batch(name: str, seed: int = 0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)

    def draw(shape: Any) -> Any:
        if isinstance(shape, list):
            return [draw(one) for one in shape]
        return tf.constant(generator.normal(size=shape), tf.float32)

    student, teacher, _ = SHAPES[name]
    return draw(student), draw(teacher)


def numbers(module: Any) -> list[Any]:
    return [held.numpy() for held in module.variables]


def equal(first: list[Any], second: list[Any]) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))


def trained(loss: Any, optimizer: Any, name: str, seed: int = 0) -> float:
    with tf.GradientTape() as tape:
        value = loss(*batch(name, seed))
    optimizer.apply(tape.gradient(value, loss.trainable_variables), loss.trainable_variables)
    return float(value)


@modules
def test_making_and_running_one_leaves_the_users_random_numbers_alone(name: str) -> None:
    keras.utils.set_random_seed(3)
    expected = tf.random.normal([3]), keras.random.normal([3])
    keras.utils.set_random_seed(3)
    made(name)(*batch(name))
    assert np.array_equal(tf.random.normal([3]), expected[0]) and np.array_equal(keras.random.normal([3]), expected[1])


@modules
def test_the_start_depends_on_the_seed_alone(name: str) -> None:
    keras.utils.set_random_seed(1)
    first = made(name)
    keras.utils.set_random_seed(2)
    second, other = made(name), made(name, seed=5)
    assert isinstance(first, LossModule) and first.seed == 0
    assert equal(numbers(first), numbers(second))
    assert not equal(numbers(first), numbers(other))
    assert all(np.isfinite(held.numpy()).all() and held.dtype == tf.float32 for held in first.trainable_variables)


@modules
def test_it_trains_and_reset_goes_back_to_the_start(name: str) -> None:
    loss = made(name)
    start = numbers(loss)
    optimizer = keras.optimizers.Adam(0.05)
    values = [trained(loss, optimizer, name) for _ in range(40)]
    moved = [not np.array_equal(a, b, equal_nan=True) for a, b in zip(start, numbers(loss), strict=True)]
    still = {"crd": 1}.get(name, 0)  # the constants of the other convention
    assert len(moved) - sum(moved) == still
    assert sum(values[-5:]) < 0.95 * sum(values[:5])
    loss.reset()
    assert equal(numbers(loss), start)


@modules
def test_a_resumed_run_is_the_unbroken_one(name: str) -> None:
    whole, optimizer = made(name), keras.optimizers.SGD(0.01)
    expected = [trained(whole, optimizer, name, seed) for seed in range(6)]
    broken, optimizer = made(name), keras.optimizers.SGD(0.01)
    for seed in range(3):
        trained(broken, optimizer, name, seed)
    resumed, optimizer = made(name, seed=0), keras.optimizers.SGD(0.01)
    for held, value in zip(resumed.variables, numbers(broken), strict=True):
        held.assign(value)
    assert [trained(resumed, optimizer, name, seed) for seed in range(3, 6)] == expected[3:]
    assert equal(numbers(resumed), numbers(whole))


@modules
def test_outside_of_training_nothing_is_written(name: str) -> None:
    loss = made(name)
    before = numbers(loss)
    first = [float(loss(*batch(name), training=False)) for _ in range(2)]
    assert equal(numbers(loss), before) and first[0] == first[1]


@modules
def test_a_tracked_loss_is_found_whole(name: str) -> None:
    loss = made(name)
    checkpoint = tf.train.Checkpoint(loss=loss)
    assert len(loss.variables) == len({id(held) for held in loss.variables})
    assert {id(held) for held in loss.trainable_variables} < {id(held) for held in loss.variables} or name == "vid"
    assert checkpoint.loss is loss


def test_moving_statistics_follow_the_batches_and_serve_where_a_batch_has_one_number() -> None:
    norm = BatchNorm(2)
    norm.fill(None)  # type: ignore[arg-type]
    maps = np.random.default_rng(0).normal(size=(3, 2, 2, 2)) * 3 + 1
    found = norm(tf.constant(maps, tf.float32), True)
    np.testing.assert_allclose(found.numpy().mean((0, 1, 2)), [0, 0], atol=1e-6)
    np.testing.assert_allclose(norm.mean, 0.1 * maps.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.variance, 0.9 + 0.1 * maps.var((0, 1, 2), ddof=1), rtol=1e-5)
    one = tf.constant(maps[:1, :1, :1], tf.float32)
    np.testing.assert_allclose(norm(one, True), norm(one, False))


def test_contrast_writes_the_rows_of_its_samples() -> None:
    loss = made("crd")
    before = loss.student_memory.numpy()
    ids = tf.constant([3, 0, 7, 11])
    loss(*batch("crd"), sample_ids=ids)
    changed = np.flatnonzero((loss.student_memory.numpy() != before).any(1))
    assert changed.tolist() == [0, 3, 7, 11]
    np.testing.assert_allclose(np.linalg.norm(loss.student_memory.numpy(), axis=1), np.ones(20), rtol=1e-5)
    recent = made("crd")
    for step in range(2):
        recent(*batch("crd", step))
    assert np.flatnonzero((recent.student_memory.numpy() != before).any(1)).tolist() == list(range(8))


def test_negatives_are_never_the_anchors_own_row() -> None:
    loss = build_feature_loss("crd", (4, 3), (4, 5), samples=2, negatives=50, width=2)
    drawn = loss.draw(tf.constant([0, 1, 1, 0], tf.int64)).numpy()
    assert (drawn == np.array([[1], [0], [0], [1]])).all()


def test_the_constants_of_contrast_stay_as_the_first_step_found_them() -> None:
    loss = made("crd", convention="common")
    loss(*batch("crd"))
    found = loss.log_constants.numpy()
    assert np.isfinite(found).all()
    loss(*batch("crd", 1))
    assert np.array_equal(loss.log_constants.numpy(), found)


@pytest.mark.parametrize("name", ["mgd", "vid"])
def test_weights_of_samples(name: str) -> None:
    student, teacher = batch(name)
    plain = made(name)(student, teacher)
    assert float(made(name)(student, teacher, sample_weight=tf.ones([4]))) == pytest.approx(float(plain), rel=1e-6)
    doubled = made(name)(student, teacher, sample_weight=tf.fill([4], 2.0))
    assert float(doubled) == pytest.approx(2 * float(plain), rel=1e-6)
    keep = np.array([1.0, 0.0, 1.0, 1.0], np.float32)
    spoiled = tf.where(keep.reshape(4, 1, 1, 1) > 0, student, np.nan)
    with tf.GradientTape() as tape:
        tape.watch(spoiled)
        value = made(name)(spoiled, teacher, sample_weight=keep)
    gradient = tape.gradient(value, spoiled).numpy()
    assert 0 < float(value) < float(plain) and np.isfinite(gradient).all() and not gradient[1].any()


@pytest.mark.parametrize("convention", ["paper", "common"])
def test_a_mask_of_samples_is_a_slice(convention: str) -> None:
    student, teacher = batch("vid")
    mask = np.array([True, False, True, True])
    loss = made("vid", convention=convention)
    alone = loss(student[mask], teacher[mask])
    masked = loss(student, teacher, mask=np.broadcast_to(mask[:, None, None], (4, 4, 4)))
    assert float(masked) == pytest.approx(float(alone), rel=1e-6)
    maps = build_feature_loss("attention_transfer", (4, 4, 4, 3), (4, 4, 4, 5), convention="common")
    masked = maps(student, teacher, mask=np.broadcast_to(mask[:, None, None], (4, 4, 4)))
    assert float(masked) == pytest.approx(float(maps(student[mask], teacher[mask])), rel=1e-6)
