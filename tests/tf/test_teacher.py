"""The teacher: in inference, outside of every tape, untouched; what it is handed and in which form."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation, register_loss
from kdhooks.errors import ConfigError, ModelError, UsageError
from kdhooks_tf.ema import MeanTeacher
from kdhooks_tf.outputs import as_call, logits_of
from kdhooks_tf.teacher import Teacher
from tests.tf.loop_models import MODES, Loop, batches, classifier, cross_entropy, kd_conf, surface


def values(model: Any) -> list[Any]:
    return [variable.numpy() for variable in model.variables]


class Counting(keras.Model):
    """Counts its calls in Python, and says whether it was in training."""

    def __init__(self) -> None:
        super().__init__()
        self.head = keras.layers.Dense(4)
        self.seen: list[Any] = []

    def call(self, x: Any, training: bool | None = None) -> Any:
        self.seen.append(training)
        return self.head(x)


@pytest.mark.parametrize("mode", MODES)
def test_the_teacher_is_untouched(mode: str) -> None:
    student, teacher = classifier(1), classifier(2, 16)
    teacher.layers[1].trainable = False
    before, seen = values(teacher), surface(teacher)
    with Distillation(kd_conf(), student_model=student, teacher_model=teacher) as distiller:
        Loop(student, mode, distiller=distiller).run(3)
        assert surface(teacher) == seen
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(before, values(teacher), strict=True))
    assert surface(teacher) == seen


@pytest.mark.parametrize("graph", [False, True])
def test_no_tape_watches_the_teacher(graph: bool) -> None:
    student, teacher = classifier(1), classifier(2)
    watched: list[Any] = []

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            output = student(x, training=True)
            total = distiller.on_after_compute_loss(x, output, cross_entropy(y, output))
        watched[:] = tape.watched_variables()
        return tape.gradient(total, [weight.value for weight in teacher.trainable_weights])

    with Distillation(kd_conf(), student_model=student, teacher_model=teacher) as distiller:
        gradients = (tf.function(step) if graph else step)(*batches()[0])
    assert gradients == [None] * len(teacher.trainable_weights)
    theirs = {id(weight.value) for weight in teacher.weights}
    assert len(watched) == len(student.trainable_weights) and not theirs & {id(one) for one in watched}


def test_the_teacher_runs_once_a_step_and_in_inference() -> None:
    student, teacher = classifier(1), Counting()
    teacher(tf.ones([1, 6]))
    teacher.seen.clear()
    conf = kd_conf([0.4, 0.3, 0.3], loss_types=["CE", "KL", "MSE"])
    with Distillation(conf, student_model=student, teacher_model=teacher) as distiller:
        Loop(student, distiller=distiller).run(3)
    assert teacher.seen == [False] * 3


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_shared_layers_stay_as_the_student_has_them(mode: str) -> None:
    keras.utils.set_random_seed(3)
    base = keras.layers.Dense(8, activity_regularizer="l2")
    norm = keras.layers.BatchNormalization()
    student, teacher = (
        keras.Sequential([keras.Input([6]), base, norm, keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(4)])
        for _ in range(2)
    )
    (x, y), before = batches()[0], surface(student)

    def step(x: Any, y: Any) -> Any:
        output = student(x, training=True)
        own = tf.add_n(student.losses)
        moved = tf.identity(norm.moving_mean.value)
        distiller.on_after_compute_loss(x, output, cross_entropy(y, output))
        return own, tf.add_n(student.losses), moved, tf.identity(norm.moving_mean.value)

    with Distillation(kd_conf(), student_model=student, teacher_model=teacher) as distiller:
        own, after, moved, later = (step if mode == "eager" else tf.function(step))(x, y)
    assert float(own) == float(after) > 0
    assert np.array_equal(moved, later) and surface(student) == before


@pytest.mark.parametrize(("precision", "name"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")])
def test_the_teacher_has_a_precision_of_its_own(precision: Any, name: str) -> None:
    teacher = Teacher(classifier(2), classifier(1), precision=precision)
    before = surface(teacher.model)
    teacher.on_train_begin()
    assert teacher(tf.ones([2, 6])).dtype.name == name
    assert {weight.dtype for weight in teacher.model.weights} == {"float32"}
    teacher.on_train_end()
    assert surface(teacher.model) == before
    assert teacher(tf.ones([2, 6])).dtype.name == "float32"


class Two(keras.Model):
    def call(self, a: Any, b: Any = None, training: Any = None) -> Any:
        return a if b is None else a - b


class One(keras.Model):
    def call(self, given: Any) -> Any:
        return tf.nest.flatten(given)[0]


@pytest.mark.parametrize(
    ("model", "given", "args", "kwargs"),
    [
        (Two, "x", ("x",), {}),
        (Two, ("x", "y"), ("x", "y"), {}),
        (Two, ["x"], ("x",), {}),
        (Two, {"a": "x", "b": "y"}, (), {"a": "x", "b": "y"}),
        (Two, {"other": "y"}, ({"other": "y"},), {}),
        (One, ["x", "y"], (["x", "y"],), {}),
        (One, {"p": "x"}, ({"p": "x"},), {}),
        (One, {"given": "x"}, (), {"given": "x"}),
        (lambda: classifier(1), ["x", "y"], (["x", "y"],), {}),
        (lambda: classifier(1), {"p": "x"}, ("x",), {}),
    ],
)
def test_an_input_is_passed_on_as_a_keras_model_takes_it(model: Any, given: Any, args: Any, kwargs: Any) -> None:
    assert as_call(model(), given) == (args, kwargs)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_models_with_named_inputs(mode: str) -> None:
    def two_inputs(seed: int) -> Any:
        keras.utils.set_random_seed(seed)
        a, b = keras.Input([6], name="a"), keras.Input([6], name="b")
        return keras.Model({"a": a, "b": b}, {"logits": keras.layers.Dense(4)(a + b), "other": a})

    student, teacher = two_inputs(1), two_inputs(2)
    (x, y), _ = batches()[:2]
    given = {"a": x, "b": 2 * x}

    def step(given: Any, y: Any) -> Any:
        output = student(given, training=True)
        return distiller.on_after_compute_loss(given, output, cross_entropy(y, output["logits"]))

    with Distillation(kd_conf([0.0, 1.0]), student_model=student, teacher_model=teacher) as distiller:
        total = (step if mode == "eager" else tf.function(step))(given, y)
    p, q = (tf.nn.softmax(model(given)["logits"] / 2.0) for model in (teacher, student))
    expected = 4.0 * tf.reduce_mean(tf.reduce_sum(p * tf.math.log(p / q), -1))
    assert float(total) == pytest.approx(float(expected), rel=1e-5)


# ---- probabilities ---------------------------------------------------------------------------------


def test_probabilities_give_what_their_logits_give() -> None:
    logits = [tf.constant(np.random.default_rng(seed).normal(size=[8, 4]) * 3) for seed in (1, 2)]
    own, other = (tf.nn.softmax(one) for one in logits)
    from kdhooks_tf import KnowledgeDistillationLoss

    expected = float(KnowledgeDistillationLoss(temperature=4.0)(*logits))
    both = KnowledgeDistillationLoss(temperature=4.0, from_logits=False)
    mixed = KnowledgeDistillationLoss(temperature=4.0, from_logits=False, teacher_from_logits=True)
    assert float(both(own, other)) == pytest.approx(expected, rel=1e-12)
    assert float(mixed(own, logits[1])) == pytest.approx(expected, rel=1e-12)


def test_a_probability_that_rounded_to_zero_is_finite() -> None:
    for dtype in (tf.float16, tf.float32, tf.float64):
        probabilities = tf.Variable(tf.constant([[1.0, 0.0]], dtype))
        with tf.GradientTape() as tape:
            logits = logits_of(probabilities, from_logits=False)
        assert np.isfinite(logits).all() and np.isfinite(tape.gradient(logits, probabilities)).all()


def test_outputs_without_logits_are_named() -> None:
    assert logits_of((tf.ones([]), tf.ones([2, 3]))).shape == [2, 3]
    for output, keys, message in (
        ({"a": 1}, (), "the student returned a mapping with the keys 'a', in which there are no logits"),
        (
            [tf.ones([])],
            ("head",),
            "the student returned a list of EagerTensor, in which there are no logits named 'head'",
        ),
        (tf.ones([]).numpy(), (), "the student returned a float32, in which there are no logits"),
    ):
        with pytest.raises(ModelError) as caught:
            logits_of(output, keys)
        assert str(caught.value) == message


# ---- the mean teacher ------------------------------------------------------------------------------

EMA = {"distillation": {"teacher": {"ema": 0.9}}}


@pytest.mark.parametrize("mode", MODES)
def test_the_average_follows_the_student(mode: str) -> None:
    student = classifier(1)
    average = [weight.numpy() for weight in student.weights]
    with Distillation(EMA, student_model=student) as distiller:
        loop = Loop(student, mode, distiller=distiller)
        teacher = distiller._run.teachers["teacher"].model  # type: ignore[union-attr]
        for x, y in batches(4):
            loop.step(x, y)
            average = [
                0.9 * mine + 0.1 * theirs.numpy() if theirs.trainable else theirs.numpy()
                for mine, theirs in zip(average, student.weights, strict=True)
            ]
    for mine, theirs in zip(average, teacher.weights, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=1e-6)


def test_a_step_is_taken_in_once() -> None:
    student = classifier(1)
    teacher = MeanTeacher(student, 0.5)
    teacher.on_train_begin()
    before = teacher.model.weights[0].numpy()
    teacher.follow()
    assert np.array_equal(teacher.model.weights[0].numpy(), before)
    student.weights[0].assign(before + 1.0)
    for _ in range(3):
        teacher.on_step_end()
        np.testing.assert_allclose(teacher.model.weights[0].numpy(), before + 0.5, rtol=1e-6)
    again = MeanTeacher(student, 0.5)
    again.load_state_dict(teacher.state_dict())
    np.testing.assert_array_equal(again.model.weights[0].numpy(), teacher.model.weights[0].numpy())


def test_what_an_average_can_not_be() -> None:
    for student, teacher, message in (
        (
            classifier(1),
            classifier(2, 16),
            "<dict>: distillation.teacher.ema: with ema the teacher is an average of the student, and Sequential has "
            "other parameters than Sequential\n  Leave teacher_model unset: the average begins as the student.",
        ),
        (
            Counting(),
            None,
            "<dict>: distillation.teacher.ema: with ema the teacher is an average of the student, which is not built "
            "yet: call it once",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            Distillation(EMA, student_model=student, teacher_model=teacher).on_train_begin()
        assert str(caught.value) == message


# ---- the weights of samples ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_sample_weight_acts_on_the_teachers_terms(mode: str) -> None:
    student, teacher = classifier(1), classifier(2)
    (x, y), weight = batches()[0], tf.constant([2.0, 0, 1, 1, 0, 1, 0, 3])

    def step(x: Any, y: Any, weight: Any) -> Any:
        output = student(x)
        return distiller.on_after_compute_loss(x, output, cross_entropy(y, output), sample_weight=weight)

    with Distillation(kd_conf([0.0, 1.0]), student_model=student, teacher_model=teacher) as distiller:
        run = step if mode == "eager" else tf.function(step, jit_compile=mode == "compiled")
        total = run(x, y, weight)
    p, q = (tf.nn.softmax(model(x) / 2.0) for model in (teacher, student))
    expected = 4.0 * tf.reduce_sum(weight * tf.reduce_sum(p * tf.math.log(p / q), -1)) / 8
    assert float(total) == pytest.approx(float(expected), rel=1e-5)


def test_a_loss_that_takes_no_sample_weight_says_so(registrations_end_with_the_test: None) -> None:
    def plain(student: Any, teacher: Any, *, temperature: Any, target: Any, mask: Any, axis: int) -> Any:
        return tf.reduce_mean(tf.square(student - teacher))

    register_loss("plain", plain)
    student = classifier(1)
    x, y = batches()[0]
    conf = kd_conf(loss_types=["CE", "plain"])
    with Distillation(conf, student_model=student, teacher_model=classifier(2)) as distiller:
        loss = cross_entropy(y, student(x))
        assert float(distiller.on_after_compute_loss(x, student(x), loss)) > 0
        with pytest.raises(UsageError) as caught:
            distiller.on_after_compute_loss(x, student(x), loss, sample_weight=tf.ones([8]))
    assert str(caught.value) == "the loss 'plain' takes no sample_weight: give it such an argument, or none here"
