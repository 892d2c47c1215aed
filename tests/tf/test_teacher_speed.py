"""A live teacher that runs faster: in low precision, compiled, chosen by timing; and gone without a trace."""

from __future__ import annotations

import logging
import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.errors import ModelError
from kdhooks_tf.teacher import Teacher
from tests.tf.loop_models import MODES, Loop, batches, classifier, cross_entropy, kd_conf, surface
from tests.tf.tapped_models import KINDS, inputs

LOW = ("bf16", "fp16")
POLICIES = {"bf16": "mixed_bfloat16", "fp16": "mixed_float16"}


def begun(model: Any, **options: Any) -> Teacher:
    teacher = Teacher(model, classifier(1), **options)
    teacher.on_train_begin()
    return teacher


def conf(*, weights: Any = (0.5, 0.5), **teacher: Any) -> dict[str, Any]:
    settings = kd_conf(weights)
    settings["distillation"]["teacher"] = teacher
    return settings


def values(model: Any) -> list[Any]:
    return [variable.numpy() for variable in model.variables]


def pair_conf(**teacher: Any) -> dict[str, Any]:
    """A pair of layers alone, so that the teacher's forward ends early."""
    pair = {"layer_mappings": [["first", "first"]], "loss_types": ["MSE"], "add_origin_loss": True}
    return {
        "distillation": {
            "train": {"criterion": {"IntermediateLayersKnowledgeDistillationLoss": pair}},
            "teacher": teacher,
        }
    }


# ---- low precision ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("precision", LOW)
def test_weights_cast_once_give_what_keras_casts_at_every_use(kind: str, precision: Any) -> None:
    model, twin, x = KINDS[kind](), KINDS[kind](), inputs()
    for mine, theirs in zip(model.variables, twin.variables, strict=True):
        theirs.assign(mine)
    for layer in twin._flatten_layers():
        layer.dtype_policy = keras.DTypePolicy(POLICIES[precision])
    expected = tf.function(twin)(x, training=False)
    teacher = begun(model, precision=precision)
    for given in (teacher(x), tf.function(teacher)(x)):
        assert given.dtype == expected.dtype == {"bf16": tf.bfloat16, "fp16": tf.float16}[precision]
        assert np.array_equal(tf.cast(given, tf.float32), tf.cast(expected, tf.float32))


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"precision": "auto"}, {"compile": True}])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_it_outlives_the_run(mode: str, options: Any) -> None:
    student, teacher = classifier(1), classifier(2, 16)
    before, seen, losses = values(teacher), surface(teacher), list(teacher.losses)
    with Distillation(conf(**options), student_model=student, teacher_model=teacher) as distiller:
        assert np.isfinite(Loop(student, mode, distiller=distiller).run(3)).all()
    assert surface(teacher) == seen and teacher.losses == losses
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(before, values(teacher), strict=True))
    assert teacher(batches()[0][0]).dtype == tf.float32


def test_an_error_in_the_loop_gives_the_policies_back() -> None:
    teacher = classifier(2)
    seen = surface(teacher)
    with (
        pytest.raises(ZeroDivisionError),
        Distillation(conf(precision="bf16"), student_model=classifier(1), teacher_model=teacher),
    ):
        assert surface(teacher) != seen
        raise ZeroDivisionError
    assert surface(teacher) == seen


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_weights_that_are_loaded_in_a_run_count_from_the_next_epoch_on(mode: str) -> None:
    student, teacher, other, (x, y) = classifier(1), classifier(2), classifier(3), batches()[0]
    other.layers[-1].bias.assign([3.0, 0.0, 0.0, -3.0])

    def step(x: Any, y: Any) -> Any:
        output = student(x)
        return distiller.on_after_compute_loss(x, output, cross_entropy(y, output))

    def total_under(model: Any) -> float:
        with Distillation(conf(precision="bf16"), student_model=student, teacher_model=model) as alone:
            return float(alone.on_after_compute_loss(x, student(x), cross_entropy(y, student(x))))

    first, second = total_under(teacher), total_under(other)
    run = step if mode == "eager" else tf.function(step)
    with Distillation(conf(precision="bf16"), student_model=student, teacher_model=teacher) as distiller:
        assert float(run(x, y)) == pytest.approx(first, rel=1e-3)
        teacher.set_weights(other.get_weights())
        distiller.on_epoch_end()
        assert float(run(x, y)) == pytest.approx(second, rel=1e-3)
    assert first != pytest.approx(second, rel=0.1)


def test_shared_layers_stay_in_full_precision() -> None:
    base = keras.layers.Dense(8)
    student, teacher = (keras.Sequential([keras.Input([6]), base, keras.layers.Dense(4)]) for _ in range(2))
    with Distillation(conf(precision="bf16"), student_model=student, teacher_model=teacher) as distiller:
        Loop(student, distiller=distiller).run(2)
        policies = [layer.dtype_policy.name for layer in teacher.layers]
    assert policies == ["float32", "mixed_bfloat16"]


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"precision": "auto"}, {"compile": True}])
@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_layers_are_seen_through_a_function_of_its_own(kind: str, mode: str, options: Any) -> None:
    student, teacher, x = KINDS["sequential"](), KINDS[kind](), inputs()
    student(x)

    def step(x: Any) -> Any:
        with tf.GradientTape():
            output = student(x)
            return distiller.on_after_compute_loss(x, output, tf.constant(0.0))

    def totals(settings: Any) -> list[float]:
        with Distillation(settings, student_model=student, teacher_model=teacher) as made:
            nonlocal distiller
            distiller = made
            run = step if mode == "eager" else tf.function(step)
            return [float(run(x[:rows])) for rows in (8, 8, 4)]

    distiller: Any = None
    expected = totals(pair_conf())
    assert expected[0] > 0
    np.testing.assert_allclose(totals(pair_conf(**options)), expected, rtol=2e-2)


# ---- compiled --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_compiled_teacher_gives_the_same_losses(mode: str) -> None:
    expected, found = (
        Loop(student, mode, distiller=distiller).run(6)
        for settings in (conf(), conf(compile=True))
        for student in [classifier(1, dropout=0.0)]
        for distiller in [Distillation(settings, student_model=student, teacher_model=classifier(2, 16))]
        for _ in [distiller.on_train_begin()]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_compiled_teacher_is_compiled() -> None:
    teacher = begun(classifier(2), compile=True)

    @tf.function
    def outer(x: Any) -> Any:
        return teacher(x)

    graph = outer.get_concrete_function(tf.TensorSpec([None, 6])).graph
    calls = [op for op in graph.get_operations() if "_XlaMustCompile" in op.node_def.attr]
    assert len(calls) == 1 and calls[0].get_attr("_XlaMustCompile")
    assert begun(classifier(2), precision="fp32")._own is None


class Printing(keras.Model):
    """Does in Python what no graph can."""

    def __init__(self) -> None:
        super().__init__()
        self.head = keras.layers.Dense(4)

    def call(self, x: Any) -> Any:
        return self.head(x) * float(tf.reduce_max(tf.abs(x)).numpy())


class Text(keras.Model):
    """Has an operation that XLA does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.head = keras.layers.Dense(4)

    def call(self, x: Any) -> Any:
        length = tf.strings.length(tf.strings.as_string(tf.reduce_sum(x)))
        return self.head(x) + 0.0 * tf.cast(length, x.dtype)


def test_what_xla_can_not_compile_is_an_error() -> None:
    model = Text()
    model(inputs())
    with pytest.raises(ModelError) as caught:
        begun(model, compile=True)(inputs())
    assert re.fullmatch(
        r"the teacher Text can't be compiled by XLA: .+\. Leave distillation\.teacher\.compile out", str(caught.value)
    )


def test_what_can_not_be_traced_runs_eagerly_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = Printing()
    model(inputs())
    teacher = begun(model, precision="bf16")
    with caplog.at_level(logging.INFO, "kdhooks"):
        outputs = [teacher(inputs()) for _ in range(2)]
    assert np.array_equal(*(tf.cast(one, tf.float32) for one in outputs))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings and all(
        one.startswith("the teacher Printing can't be traced, so it runs eagerly, which is slower: ")
        for one in warnings
    )
