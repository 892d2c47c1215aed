"""Stored outputs where they need another way: compiled steps, tokens, replicas, stores that can't be used."""

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
from kdhooks.errors import ConfigError, DataError, UsageError
from kdhooks.speed import Choice
from kdhooks_tf import DistillationCallback, stored_outputs
from tests.tf import callback_models as fitted
from tests.tf import distributed_programs, fit_runs
from tests.tf.loop_models import Loop, batches, classifier, cross_entropy, same_weights
from tests.tf.test_stored_teacher import SEEN, conf, counting, pairs, rows, trained

COMPILED = (
    "distillation.cache asks Python for the outputs at every step, and a function that XLA compiles can't: leave "
    "jit_compile=True out, or let them come with the data: kdhooks_tf.stored_outputs(dataset, store)"
)


def dataset() -> Any:
    columns = tuple(tf.concat(column, 0) for column in zip(*batches(), strict=True))
    return tf.data.Dataset.from_tensor_slices(columns).batch(8)


def close(one: Any, other: Any) -> None:
    for mine, theirs in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5)


# ---- compiled steps --------------------------------------------------------------------------------


def test_a_compiled_function_says_the_way_out(tmp_path: Path) -> None:
    student = classifier(1)
    with Distillation(conf(tmp_path), student_model=student, teacher_model=classifier(2)) as distiller:
        loop = Loop(student, "compiled", distiller=distiller)
        with pytest.raises(UsageError) as caught:
            loop.run(1)
    assert str(caught.value) == COMPILED


def test_a_compiled_fit_says_the_way_out(tmp_path: Path) -> None:
    student = fitted.compiled(classifier(1), jit_compile=True)
    callback = DistillationCallback(Distillation(conf(tmp_path), student_model=student, teacher_model=classifier(2)))
    with pytest.raises(UsageError) as caught:
        student.fit(dataset(), epochs=1, verbose=0, shuffle=False, callbacks=[callback])
    assert str(caught.value) == COMPILED


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("how", ["loop", "callback", "fit"])
def test_outputs_come_with_the_data_of_a_compiled_step(how: str, features: bool, tmp_path: Path) -> None:
    os.chdir(tmp_path)
    keras.backend.clear_session()
    criterion = {**pairs(["dense", "body"]), "KnowledgeDistillationLoss": {}} if features else None
    live = trained("graph" if how == "loop" else how, conf(tmp_path, criterion=criterion), counting(), 1)
    keras.backend.clear_session()
    rows()
    student = classifier(1, dropout=0.0)
    taught = stored_outputs(dataset(), tmp_path / "store")
    settings = conf(None, criterion=criterion)
    settings["distillation"]["train"] |= {"end_epoch": 1, "optimizer": fit_runs.SGD}
    distiller = Distillation(settings, student_model=student)
    if how == "callback":
        fitted.compiled(student, jit_compile=True)
        student.fit(taught, epochs=1, verbose=0, shuffle=False, callbacks=[DistillationCallback(distiller)])
    elif how == "fit":
        distiller.train_dataloader = taught
        distiller.fit()
    else:
        loop = Loop(student, "eager")

        @tf.function(jit_compile=True)
        def step(x: Any, y: Any, stored: Any) -> None:
            with tf.GradientTape() as tape:
                output = student(x, training=True)
                loss = distiller.on_after_compute_loss(x, output, cross_entropy(y, output), target=y, **stored)
            gradients = tape.gradient(loss, student.trainable_variables)
            loop.optimizer.apply(gradients, student.trainable_variables)

        with distiller:
            for x, y, stored in taught:
                step(x, y, stored)
    close(live, student)
    assert rows() == 0


def test_what_is_not_in_the_store_is_named(tmp_path: Path) -> None:
    trained("eager", conf(tmp_path), counting(), 1, batches()[:2])
    rows()
    with pytest.raises(tf.errors.OpError, match="sample 0 is not in the store") as caught:
        list(stored_outputs(dataset(), tmp_path / "store"))
    assert DataError.__name__ in str(caught.value)
    for given, message in (
        (batches(), "stored_outputs needs a tf.data.Dataset of batches, not list"),
        (
            tf.data.Dataset.range(3),
            "stored_outputs needs batches that are tuples, of inputs, targets and what comes behind them",
        ),
    ):
        with pytest.raises(UsageError) as refused:
            stored_outputs(given, tmp_path / "store")
        assert str(refused.value) == message


@pytest.mark.parametrize("cache", [{"top_k": 2}, {"dtype": "int8"}])
def test_outputs_come_with_the_data_as_a_run_sees_them(cache: dict[str, Any], tmp_path: Path) -> None:
    cold = trained("eager", conf(tmp_path, **cache), counting(), 1)
    student = classifier(1, dropout=0.0)
    with Distillation(conf(None), student_model=student) as distiller:
        loop = Loop(student, distiller=distiller)
        for x, y, stored in stored_outputs(dataset(), tmp_path / "store"):
            loop.hand_in = lambda _, stored=stored: stored["teacher_output"]
            loop.step(x, y)
    assert same_weights(cold, student)
    rows()


def test_ids_of_a_dataset(tmp_path: Path) -> None:
    student, (x, y) = classifier(1), batches()[0]
    with Distillation(conf(tmp_path), student_model=student, teacher_model=counting()) as distiller:
        distiller.on_after_compute_loss(x, student(x), cross_entropy(y, student(x)), sample_ids=tf.range(8))
    data = tf.data.Dataset.from_tensors((x + 1.0, y, tf.range(8)))
    *_, stored = next(iter(stored_outputs(data, tmp_path / "store", sample_ids=lambda x, y, ids: ids)))
    np.testing.assert_allclose(stored["teacher_output"], counting()(x), rtol=1e-5, atol=1e-6)
    SEEN.clear()


# ---- tokens ----------------------------------------------------------------------------------------


class Reader(keras.Model):
    """Logits of each token, from a mapping as tokenizers give it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        keras.utils.set_random_seed(seed)
        self.embedding, self.head = keras.layers.Embedding(20, 8), keras.layers.Dense(5)
        self.forwards: list[None] = []
        self(**tokens(3))

    def call(self, input_ids: Any, attention_mask: Any) -> Any:
        hidden = self.embedding(input_ids) * tf.cast(attention_mask[..., None], tf.float32)
        return self.head(hidden + tf.cumsum(hidden, 1))


def tokens(length: int, *, left: int = 0) -> dict[str, Any]:
    """Three rows of 3, 2 and 1 tokens, with padding."""
    ids, mask = np.zeros([3, length + left], np.int32), np.zeros([3, length + left], np.int32)
    for row, count in enumerate((3, 2, 1)):
        ids[row, left : left + count] = np.arange(1, count + 1) + 4 * row
        mask[row, left : left + count] = 1
    return {"input_ids": tf.constant(ids), "attention_mask": tf.constant(mask)}


@pytest.mark.parametrize("how", ["eager", "graph"])
@pytest.mark.parametrize("cache", [{}, {"top_k": 3}])
def test_padding_does_not_matter(how: str, cache: dict[str, Any], tmp_path: Path) -> None:
    student, teacher = Reader(1), Reader(2)

    def step(given: Any, mask: Any) -> Any:
        output = student(**given)
        return distiller.on_after_compute_loss(given, output, tf.constant(0.0), mask=mask)

    with Distillation(conf(None), student_model=student, teacher_model=teacher) as distiller:
        live = float(step(tokens(3), tokens(3)["attention_mask"]))
    run = step if how == "eager" else tf.function(step, reduce_retracing=True)
    settings, totals = conf(tmp_path, **cache), []
    with Distillation(settings, student_model=student, teacher_model=teacher) as distiller:
        for given in (tokens(3), tokens(5), tokens(7)):
            totals.append(float(run(given, given["attention_mask"])))
            totals.append(float(run(given, None)))  # padding of stored rows counts in no loss
        store = distiller._run.teachers["teacher"]  # type: ignore[union-attr]
        counts = [one.outputs.space for one in store._rows.values()]
    assert [(space.misses, space.hits) for space in counts] in ([(0, 15)], [(3, 15)])
    assert totals == pytest.approx([totals[0]] * 6, rel=1e-5)
    assert totals[0] == pytest.approx(live, rel=1e-5) if not cache else totals[0] != live


def test_tokens_come_with_the_data(tmp_path: Path) -> None:
    student, teacher, given = Reader(1), Reader(2), tokens(5)

    def total(**stored: Any) -> float:
        return float(distiller.on_after_compute_loss(given, student(**given), tf.constant(0.0), **stored))

    with Distillation(conf(tmp_path), student_model=student, teacher_model=teacher) as distiller:
        expected = total()
    data = tf.data.Dataset.from_tensors((given, tf.zeros([3])))
    with Distillation(conf(None), student_model=student) as distiller:
        *_, stored = next(iter(stored_outputs(data, tmp_path / "store")))
        assert sorted(stored) == ["mask", "teacher_output"] and stored["teacher_output"].shape == [3, 5, 5]
        assert total(**stored) == pytest.approx(expected, rel=1e-6)


# ---- precision and several teachers ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["eager", "graph"])
@pytest.mark.parametrize("teacher", [{"precision": "bf16"}, {"compile": True}])
def test_a_faster_teacher_fills_the_store(how: str, teacher: dict[str, Any], tmp_path: Path) -> None:
    live = trained(how, conf(None), classifier(2, 16), 1)
    cold = trained(how, conf(tmp_path, teacher=teacher), classifier(2, 16), 2)
    warm = trained(how, conf(tmp_path, teacher=teacher), classifier(2, 16), 2)
    assert same_weights(cold, warm)
    other = trained(how, conf(tmp_path, teacher=teacher), classifier(2, 16), 1)
    for mine, theirs in zip(live.weights, other.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=5e-2, atol=5e-3)


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_what_auto_chose_stays_with_the_store(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kdhooks_tf.teacher_choice.fastest", lambda *_: "bf16")
    monkeypatch.setattr("kdhooks_tf.teacher.fastest", lambda *_: "bf16")
    cold = trained(how, conf(tmp_path, teacher={"precision": "auto"}), counting(), 1)
    rows()
    monkeypatch.setattr("kdhooks_tf.teacher.fastest", lambda *_: "fp32")
    with caplog.at_level(logging.INFO, "kdhooks"):
        warm = trained(how, conf(tmp_path, teacher={"precision": "auto"}), counting(), 1)
    assert rows() == 0 and same_weights(cold, warm)
    assert caplog.records[0].getMessage() == (
        f"the teacher Sequential runs in {Choice('bf16')}, as an earlier run chose"
    )


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_several_teachers_share_a_store(how: str, tmp_path: Path) -> None:
    teachers = {"small": counting(2), "large": counting(3, 32)}
    live = trained(how, conf(None), teachers, 1)
    rows()
    cold = trained(how, conf(tmp_path), teachers, 1)
    assert rows() == 80
    warm = trained(how, conf(tmp_path), teachers, 1)
    assert rows() == 0 and same_weights(cold, warm)
    close(live, cold)


# ---- what can't be stored --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_layers_that_the_student_trains_are_not_stored(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = keras.layers.Dense(8)
    student, teacher = (keras.Sequential([keras.Input([6]), base, keras.layers.Dense(4)]) for _ in range(2))
    with Distillation(conf(tmp_path), student_model=student, teacher_model=teacher) as distiller:
        assert np.isfinite(Loop(student, how, distiller=distiller).run(2)).all()
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "the outputs of the teacher Sequential are not stored: it shares layers or weights with the student, which "
        "training changes. It runs at every step."
    ]


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_a_store_that_can_not_be_used_says_why_and_training_goes_on(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store").write_text("no folder")
    live = trained(how, conf(None), counting(), 2)
    rows()
    found = trained(how, conf(tmp_path), counting(), 2)
    assert rows() == 80 and same_weights(live, found)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and str(tmp_path / "store") in warnings[0]


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_a_store_that_fails_in_a_run_is_left(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    student, teacher, (x, y) = classifier(1), counting(), batches()[0]

    def step(x: Any, y: Any) -> Any:
        output = student(x)
        return distiller.on_after_compute_loss(x, output, cross_entropy(y, output))

    with Distillation(conf(tmp_path), student_model=student, teacher_model=teacher) as distiller:
        run = step if how == "eager" else tf.function(step)
        before = [float(run(x, y)) for _ in range(2)]
        assert rows() == 8
        shared = distiller._run.teachers["teacher"].shared  # type: ignore[union-attr]
        shared.store._give_up("the disk is gone")
        after = [float(run(x, y)) for _ in range(2)]
        assert rows() == 16
    assert before == pytest.approx(after, rel=1e-6)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "the disk is gone" in warnings[0]


def test_a_wrong_number_of_ids_is_the_callers_mistake(tmp_path: Path) -> None:
    student, (x, y) = classifier(1), batches()[0]

    def step(x: Any, y: Any) -> Any:
        return distiller.on_after_compute_loss(x, student(x), cross_entropy(y, student(x)), sample_ids=tf.range(3))

    with Distillation(conf(tmp_path), student_model=student, teacher_model=classifier(2)) as distiller:
        with pytest.raises(UsageError, match="sample_ids holds 3 ids for a batch of 8 rows"):
            step(x, y)
        with pytest.raises(tf.errors.OpError, match="sample_ids holds 3 ids for a batch of 8 rows"):
            tf.function(step)(x, y)


def test_an_average_of_the_student_is_not_stored(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Distillation(conf(tmp_path, teacher={"ema": 0.9}), student_model=classifier(1)).on_train_begin()
    assert "a teacher with ema changes at every step, so its outputs can't be stored" in str(caught.value)


# ---- replicas --------------------------------------------------------------------------------------


def test_replicas_share_a_store() -> None:
    (found,) = distributed_programs.run("tests.tf.mirrored_stored")
    assert found["rows"] == [48, 24, 0]
    assert found["cold and warm"] == 0.0 and found["live and cold"] < 1e-5
    assert found["fast"] < 0.05 and found["compiled"] < 1e-5
    assert found["refused"] == (
        "<dict>: distillation.teacher.compile: XLA reads no weights of another device, and the teacher Sequential has "
        "them on one\n  Make it in the scope of the student's strategy, or leave compile out."
    )
