"""Stored outputs of a Keras teacher: the same numbers cold and warm, eagerly, in functions, in `fit` and in our own."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks_tf import DistillationCallback
from tests.tf import callback_models as fitted
from tests.tf import fit_runs
from tests.tf.loop_models import Loop, batches, classifier, cross_entropy, kd_conf, same_weights

RUNS = ("eager", "graph", "callback", "fit")


@keras.saving.register_keras_serializable("tests_stored")
class Rows(keras.layers.Layer):
    """Passes its input on and counts the rows that it saw."""

    def build(self, shape: Any) -> None:
        self.rows = self.add_weight(name="rows", shape=(), initializer="zeros", trainable=False, dtype="float32")

    def call(self, x: Any) -> Any:
        tf.numpy_function(lambda count: SEEN.append(int(count)), [tf.shape(x)[0]], [])
        return x


SEEN: list[int] = []


def rows() -> int:
    """How many rows the teacher saw since the last question."""
    count = sum(SEEN)
    SEEN.clear()
    return count


def counting(seed: int = 2, width: int = 16) -> Any:
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(width, name="body"), Rows(), keras.layers.BatchNormalization(name="norm")]
    head = keras.layers.Dense(4, name="head", kernel_initializer=keras.initializers.RandomNormal(stddev=0.5))
    return keras.Sequential([keras.Input([6]), *layers, keras.layers.ReLU(name="relu"), head])


def conf(folder: Path | None, *, criterion: Any = None, teacher: Any = None, **cache: Any) -> dict[str, Any]:
    settings = kd_conf()
    if criterion is not None:
        settings["distillation"]["train"]["criterion"] = criterion
    if folder is not None:
        settings["distillation"]["cache"] = {"path": str(folder / "store"), **cache}
    if teacher is not None:
        settings["distillation"]["teacher"] = teacher
    return settings


def trained(how: str, settings: Any, teacher: Any, epochs: int = 2, data: Any = None) -> Any:
    """A student after some epochs of the same five batches."""
    data = batches() if data is None else data
    student = classifier(1, dropout=0.0)
    distiller = Distillation(settings, student_model=student, teacher_model=teacher)
    if how == "callback":
        fitted.compiled(student)
        given = tf.data.Dataset.from_tensor_slices(tuple(tf.concat(column, 0) for column in zip(*data, strict=True)))
        student.fit(
            given.batch(8), epochs=epochs, verbose=0, shuffle=False, callbacks=[DistillationCallback(distiller)]
        )
        return student
    if how == "fit":
        settings["distillation"]["train"] |= {"end_epoch": epochs, "optimizer": fit_runs.SGD}
        distiller = Distillation(settings, student_model=student, teacher_model=teacher)
        distiller.train_dataloader = data
        distiller.fit()
        return student
    with distiller:
        loop = Loop(student, how, distiller=distiller)
        for _ in range(epochs):
            for x, y in data:
                loop.step(x, y)
            distiller.on_epoch_end()
    return student


@pytest.mark.parametrize("how", RUNS)
def test_cold_and_warm_are_the_same_bit_for_bit_and_live_within_rounding(how: str, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    live = trained(how, conf(None), counting())
    assert rows() == 80
    cold = trained(how, conf(tmp_path), counting())
    assert rows() == 40  # the second epoch reads
    warm = trained(how, conf(tmp_path), counting())
    assert rows() == 0
    assert same_weights(cold, warm)
    for mine, theirs in zip(live.weights, cold.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6)


def test_what_one_way_stored_another_reads(tmp_path: Path) -> None:
    os.chdir(tmp_path)
    students = [trained(how, conf(tmp_path), counting()) for how in ("graph", "eager", "fit")]
    assert rows() == 40
    for student in students[1:]:
        for mine, theirs in zip(students[0].weights, student.weights, strict=True):
            np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_hits_and_misses_mix_in_a_batch(how: str, tmp_path: Path) -> None:
    data = batches()
    trained(how, conf(tmp_path), counting(), 1, data[:2])
    assert rows() == 16
    mixed = [(tf.concat([x[:5], data[2][0][5:]], 0), y) for x, y in data[:2]]
    live = trained(how, conf(None), counting(), 1, mixed)
    assert rows() == 16
    found = trained(how, conf(tmp_path), counting(), 1, mixed)
    assert rows() == 3  # both batches end with the same three rows
    for mine, theirs in zip(live.weights, found.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_a_function_serves_batches_of_any_size(how: str, tmp_path: Path) -> None:
    x, y = batches()[0]
    student, teacher = classifier(1), counting()
    totals = []

    def step(x: Any, y: Any) -> Any:
        output = student(x)
        return distiller.on_after_compute_loss(x, output, cross_entropy(y, output))

    with Distillation(conf(tmp_path), student_model=student, teacher_model=teacher) as distiller:
        specs = [tf.TensorSpec([None, 6]), tf.TensorSpec([None], tf.int64)]
        run = step if how == "eager" else tf.function(step, input_signature=specs)
        for size in (8, 3, 1, 5):
            totals.append(float(run(x[:size], y[:size])))
    assert rows() == 8
    with Distillation(conf(None), student_model=student, teacher_model=teacher) as distiller:
        live = [float(step(x[:size], y[:size])) for size in (8, 3, 1, 5)]
    np.testing.assert_allclose(totals, live, rtol=1e-5)
    SEEN.clear()


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_a_changed_teacher_misses(how: str, tmp_path: Path) -> None:
    trained(how, conf(tmp_path), counting(2), 1)
    assert rows() == 40
    trained(how, conf(tmp_path), counting(3), 1)
    assert rows() == 40
    other = counting(2)
    other.layers[-1].activation = keras.activations.tanh
    trained(how, conf(tmp_path), other, 1)
    assert rows() == 40
    trained(how, conf(tmp_path), counting(2), 1)
    assert rows() == 0


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_weights_loaded_in_a_run_are_another_teacher_from_the_next_epoch_on(how: str, tmp_path: Path) -> None:
    student, teacher, other = classifier(1), counting(2), counting(3)
    (x, y), seen = batches()[0], []

    def step(x: Any, y: Any) -> Any:
        output = student(x)
        return distiller.on_after_compute_loss(x, output, cross_entropy(y, output))

    with Distillation(conf(tmp_path), student_model=student, teacher_model=teacher) as distiller:
        run = step if how == "eager" else tf.function(step)
        for weights in (None, other.get_weights(), counting(2).get_weights()):
            if weights is not None:
                teacher.set_weights(weights)
                distiller.on_epoch_end()
            seen.append((float(run(x, y)), rows()))
    assert [count for _, count in seen] == [8, 8, 0]
    assert seen[0][0] == pytest.approx(seen[2][0], rel=1e-6) and seen[0][0] != pytest.approx(seen[1][0], rel=1e-3)


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_sample_ids_are_keys(how: str, tmp_path: Path) -> None:
    student, (x, y) = classifier(1), batches()[0]

    def step(x: Any, y: Any, ids: Any) -> Any:
        output = student(x)
        return distiller.on_after_compute_loss(x, output, cross_entropy(y, output), sample_ids=ids)

    def totals(*given: tuple[Any, Any]) -> list[float]:
        nonlocal distiller
        with Distillation(conf(tmp_path), student_model=student, teacher_model=counting()) as distiller:
            run = step if how == "eager" else tf.function(step)
            return [float(run(x, y, ids)) for x, ids in given]

    distiller: Any = None
    numbers, names = tf.range(8), tf.constant([f"row {index}" for index in range(8)])
    first = totals((x, numbers), (x, names))
    assert rows() == 16 and first[0] == first[1]
    again = totals((x + 1.0, numbers), (x, names[::-1]))
    assert rows() == 0 and first[0] != again[0] != again[1]  # it is the caller who says what is equal


# ---- what is stored --------------------------------------------------------------------------------


def pairs(*layers: Any, **more: Any) -> dict[str, Any]:
    named = {"layer_mappings": list(layers), "loss_types": "MSE", "add_origin_loss": True, **more}
    return {"IntermediateLayersKnowledgeDistillationLoss": named}


@pytest.mark.parametrize("how", RUNS)
def test_features_are_stored_as_well(how: str, tmp_path: Path) -> None:
    os.chdir(tmp_path)

    def student_after(folder: Path | None) -> Any:
        criterion = {**pairs(["dense", "body"], ["re_lu", "relu:input"]), "KnowledgeDistillationLoss": {}}
        return trained(how, conf(folder, criterion=criterion), counting())

    keras.backend.clear_session()
    live = student_after(None)
    rows()
    keras.backend.clear_session()
    cold = student_after(tmp_path)
    assert rows() == 40
    keras.backend.clear_session()
    warm = student_after(tmp_path)
    assert rows() == 0 and same_weights(cold, warm)
    for mine, theirs in zip(live.weights, cold.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "cache", [{"dtype": "float16"}, {"dtype": "int8"}, {"top_k": 2}, {"dtype": "bf16", "top_k": 3}]
)
@pytest.mark.parametrize("how", ["eager", "graph"])
def test_a_codec_gives_a_cold_run_what_it_gives_a_warm_one(
    how: str, cache: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "kdhooks"):
        cold = trained(how, conf(tmp_path, **cache), counting(), 1)
    warm = trained(how, conf(tmp_path, **cache), counting(), 1)
    live = trained(how, conf(None), counting(), 1)
    rows()
    assert same_weights(cold, warm) and not same_weights(cold, live)
    for mine, theirs in zip(live.weights, cold.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=0.2, atol=0.05)
    said = [record.getMessage() for record in caplog.records if "the cache" in record.getMessage()]
    assert len(said) == 1 and ("changes logits of the teacher by " if how == "graph" else "changed KL by ") in said[0]


def maps(seed: int, *pool: Any) -> Any:
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Conv2D(3, 3, padding="same", name="maps"), *pool]
    return keras.Sequential([keras.Input([4, 6, 2]), *layers, keras.layers.GlobalAveragePooling2D(name="mean")])


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_maps_are_averaged_over_their_places_and_not_over_their_channels(how: str, tmp_path: Path) -> None:
    pool = keras.layers.AveragePooling2D([2, 3], name="pooled")
    student, teacher = maps(1, pool), maps(2)
    x = tf.constant(np.random.default_rng(0).normal(size=[3, 4, 6, 2]), tf.float32)
    both = pool(student.layers[0](x)), pool(teacher.layers[0](x))

    def step(x: Any) -> Any:
        with tf.GradientTape():
            output = student(x, training=True)
            return distiller.on_after_compute_loss(x, output, tf.constant(0.0))

    settings, totals = conf(tmp_path, criterion=pairs(["pooled", "maps"]), pool=[2, 2]), []
    for _ in range(2):
        with Distillation(settings, student_model=student, teacher_model=teacher) as distiller:
            totals.append(float((step if how == "eager" else tf.function(step))(x)))
    assert totals[0] == totals[1] == pytest.approx(float(tf.reduce_mean(tf.square(both[0] - both[1]))), rel=1e-5)
