"""Resuming, copies and imports: a state in the middle, the best model, and what is loaded when."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.errors import MissingPackageError, ModelError
from kdhooks_tf import generators
from kdhooks_tf.backend import BACKEND
from tests.tf.loop_models import Loop, classifier, kd_conf, same_weights

CONF = kd_conf([1.0, {"linear": {"from": 0.0, "to": 1.0, "steps": 12}}])


class Subclassed(keras.Model):
    """A model whose constructor takes what no configuration can hold."""

    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.activation, self.layers_in_a_list = activation, [keras.layers.Dense(5), keras.layers.BatchNormalization()]
        self.head = {"last": keras.Sequential([keras.layers.Dropout(0.5), keras.layers.Dense(4)])}

    def call(self, x: Any, training: Any = None) -> Any:
        for layer in self.layers_in_a_list:
            x = self.activation(layer(x, training=training))
        return self.head["last"](x, training=training)


def subclassed() -> Any:
    model = Subclassed(lambda x: tf.nn.relu(x))
    model(tf.ones([2, 6]))
    return model


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("ema", [False, True])
def test_a_state_in_the_middle_continues_bit_for_bit(mode: str, ema: bool) -> None:
    conf: Any = {"distillation": {**CONF["distillation"], **({"teacher": {"ema": 0.9}} if ema else {})}}

    def begun() -> tuple[Any, Any]:
        student = classifier(1)
        distiller = Distillation(conf, student_model=student, teacher_model=None if ema else classifier(2))
        distiller.on_train_begin()
        return distiller, Loop(student, mode, distiller=distiller)

    whole, loop = begun()
    first = loop.run(5)
    state = whole.state_dict()
    weights = [variable.numpy() for variable in (*loop.student.variables, *loop.optimizer.variables)]
    rest = loop.run(5)
    whole.on_epoch_end()

    resumed, other = begun()
    resumed.load_state_dict(state)
    for variable, value in zip((*other.student.variables, *other.optimizer.variables), weights, strict=True):
        variable.assign(value)
    assert resumed.step == 5 and len(first) == 5
    assert other.run(5) == rest
    resumed.on_epoch_end()
    assert same_weights(other.student, loop.student)
    for name, value in whole.history[0]["losses"].items():
        assert resumed.history[0]["losses"][name] == pytest.approx(value, rel=1e-12)
    assert resumed.history[0]["steps"] == 10


def test_a_state_is_plain_data_and_arrays() -> None:
    student = classifier(1)
    distiller = Distillation(CONF, student_model=student, teacher_model=classifier(2))
    distiller.eval_func = lambda model: 1.0
    with distiller:
        Loop(student, "graph", distiller=distiller).run(2)
        distiller.on_epoch_end()
        state = distiller.state_dict()
    assert json.loads(json.dumps(state, default=np.ndarray.tolist))["step"] == 2


@pytest.mark.parametrize("kind", ["sequential", "functional", "subclassed"])
def test_the_best_model_is_a_true_copy(kind: str) -> None:
    if kind == "functional":
        given = keras.Input([6])
        student = keras.Model(given, keras.layers.Dense(4)(classifier(1)(given)))
    else:
        student = classifier(1) if kind == "sequential" else subclassed()
    scores = iter([1.0, 0.0])
    distiller = Distillation(CONF, student_model=student, teacher_model=classifier(2))
    distiller.eval_func = lambda model: next(scores)
    with distiller:
        loop = Loop(student, distiller=distiller)
        loop.run(2)
        distiller.on_epoch_end()
        best, x = [weight.numpy() for weight in student.weights], tf.ones([3, 6])
        expected = student(x).numpy()
        loop.run(2)
        distiller.on_epoch_end()
        before = generators.state()
        copy = distiller.best_model
        assert repr(generators.state()) == repr(before)
    assert type(copy) is type(student) and copy is not student
    assert not {id(one.value) for one in copy.variables} & {id(one.value) for one in student.variables}
    assert all(np.array_equal(one.numpy(), value) for one, value in zip(copy.weights, best, strict=True))
    np.testing.assert_array_equal(copy(x).numpy(), expected)
    now = [weight.numpy() for weight in student.weights]
    Loop(copy).run(2)
    assert all(np.array_equal(one.numpy(), value) for one, value in zip(student.weights, now, strict=True))
    BACKEND.restore(student, distiller._run.best.weights)  # type: ignore[union-attr]
    np.testing.assert_array_equal(student(x).numpy(), expected)


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(ModelError) as caught:
        BACKEND.restore(classifier(1), BACKEND.snapshot(classifier(1, 16)))
    assert str(caught.value) == "the weights are of another model than this Sequential"


def test_the_generators_continue_where_they_stood() -> None:
    tf.random.set_seed(3)

    def drawn() -> list[float]:
        return [
            float(tf.random.normal([])),
            float(np.random.normal()),
            float(tf.random.get_global_generator().normal([])),
            float(keras.random.normal([])),
        ]

    drawn()
    state = BACKEND.rng_state()
    first = drawn()
    assert drawn() != first
    BACKEND.set_rng_state(state)
    assert drawn() == first


def test_the_learning_rate_is_read_in_all_its_forms() -> None:
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([10], [0.5, 0.25])
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.125))
    assert [
        BACKEND.learning_rate(one) for one in (None, keras.optimizers.SGD(0.5), keras.optimizers.Adam(schedule), scaled)
    ] == [None, 0.5, 0.5, 0.125]


def test_the_rank_is_that_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert BACKEND.rank() == 0
    for task, rank in (({"type": "worker", "index": 1}, 2), ({"type": "chief", "index": 0}, 0)):
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"chief": ["a"], "worker": ["b", "c"]}, "task": task}))
        assert BACKEND.rank() == rank


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_imports_load_what_they_need() -> None:
    names = "print(*sorted({'torch', 'tensorflow', 'keras'} & set(sys.modules)))"
    assert run(f"import sys, kdhooks, kdhooks_tf; {names}") == ""
    code = "import sys, kdhooks_tf; kdhooks_tf.KnowledgeDistillationLoss; import kdhooks_tf.backend; "
    assert run(f"{code}{names}") == "keras tensorflow"


def test_a_missing_tensorflow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "kdhooks_tf.backend")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingPackageError) as caught:
        Distillation({"model": {"framework": "tensorflow"}}).backend  # noqa: B018
    assert str(caught.value) == (
        "framework: tensorflow needs the package 'tensorflow': pip install 'kdhooks[tensorflow]'"
    )
