"""A profile in TensorFlow: eager steps are divided, steps in a graph are wholes, and nothing changes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.criterion import Step
from kdhooks_tf import DistillationCallback
from tests.tf.callback_models import compiled, data, logits, student, teacher
from tests.tf.fit_runs import NOTHING, SGD, batches, distillation, equal, settings
from tests.tf.loop_models import Loop, classifier, kd_conf, same_weights

WHOLE = "steps run in a graph: the ledger sees each as a whole, and the inside of a graph isn't divided"
BACKWARD = "the backward of the distillation's losses runs in the student's and counts as its part"
NEVER = (
    "no step was timed: the loss is computed in a graph (a tf.function), where Python sees the tracing only; call "
    "on_step_begin() and on_step_end() outside of it, or let fit() or the callback train"
)


def test_an_eager_loop_is_divided() -> None:
    model = classifier(1)
    distiller = Distillation(kd_conf(), student_model=model, teacher_model=classifier(2))
    with distiller, distiller.profile() as ledger:
        Loop(model, distiller=distiller).run(4)
    found = ledger.to_dict()
    assert (found["steps"], found["counts"], found["in_graph"]) == (3, {"losses": 4, "rows": 32}, False)
    assert list(found["parts"]) == ["student", "teacher", "losses", "ours"]
    assert found["versions"]["tensorflow"] == tf.__version__
    assert found["floor"]["ratio"] > 1


@pytest.mark.parametrize("mode", ["graph", "compiled"])
def test_a_graph_that_nobody_stands_around_is_not_timed(mode: str) -> None:
    model = classifier(1)
    distiller = Distillation(kd_conf(), student_model=model, teacher_model=classifier(2))
    with distiller, distiller.profile() as ledger:
        Loop(model, mode, distiller=distiller).run(4)
    assert ledger.to_dict()["steps"] == 0
    assert ledger.to_dict()["notes"] == [NEVER]


@pytest.mark.parametrize("begins", [False, True])
def test_calls_around_a_graph_time_its_steps(begins: bool) -> None:
    model = classifier(1)
    distiller = Distillation(kd_conf(), student_model=model, teacher_model=classifier(2))
    with distiller, distiller.profile() as ledger:
        loop = Loop(model, "graph", distiller=distiller)
        for index in range(4):
            if begins:
                distiller.on_step_begin(index)
            loop.run(1)
            distiller.on_step_end()
    found = ledger.to_dict()
    assert (found["steps"], found["in_graph"], found["floor"]) == (3, True, None)
    assert list(found["parts"]) == (["data", "graph", "ours"] if begins else ["graph", "ours"])
    assert found["notes"] == [WHOLE]


def test_code_that_a_graph_calls_finds_the_ledger_that_is_open_then() -> None:
    """The store is asked in a Python function of the graph, long after the tracing, and not in the loop's thread."""
    model = classifier(1)
    distiller = Distillation(kd_conf(), student_model=model, teacher_model=classifier(2))
    distiller.on_train_begin()
    teachers: Any = distiller._run.teachers  # type: ignore[union-attr]
    inner = teachers["teacher"]

    class Asking:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def __call__(self, value: Any, step: Step) -> Any:
            def look_up(rows: Any) -> Any:
                with step.ledger.part("cache"):
                    step.ledger.count("hits", int(rows))
                return rows

            with tf.control_dependencies([tf.py_function(look_up, [tf.shape(value)[0]], tf.int32)]):
                return inner(value, step)

    teachers["teacher"] = Asking()
    loop = Loop(model, "graph", distiller=distiller)
    loop.run(2)  # traced while nothing is profiled
    for _ in range(2):
        with distiller.profile() as ledger:
            for _ in range(3):
                loop.run(1)
                distiller.on_step_end()
        found = ledger.to_dict()
        assert found["counts"] == {"hits": 24}
        here = found["parts"].get("cache") or found["elsewhere"]["cache"]
        assert here["sum"] > 0
    loop.run(1)
    assert ledger.counts == {"hits": 24}
    distiller.on_train_end()


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_weight_zero_changes_nothing_while_profiling(mode: str) -> None:
    plain, model = classifier(1), classifier(1)
    expected = Loop(plain, mode).run(8)
    distiller = Distillation(kd_conf((1.0, 0.0)), student_model=model, teacher_model=classifier(2))
    with distiller, distiller.profile():
        assert Loop(model, mode, distiller=distiller).run(8) == expected
    assert same_weights(model, plain)


def test_replicas_of_other_threads_are_told_apart() -> None:
    model = classifier(1)
    distiller = Distillation(kd_conf(), student_model=model, teacher_model=classifier(2))
    with distiller, distiller.profile() as ledger:
        thread = threading.Thread(target=lambda: Loop(model, distiller=distiller).run(2))
        thread.start()
        thread.join()
    assert ledger.to_dict()["notes"][-1] == (
        "losses were computed in other threads than the one that opened the profile, and are not in it"
    )


# ---- fit() and the callback ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_profile_around_fit(tmp_path: Path, mode: str) -> None:
    loader = batches()
    distiller = distillation(settings(tmp_path, optimizer=SGD, end_epoch=2, execution_mode=mode), loader)
    with distiller.profile() as ledger:
        distiller.fit()
    found = ledger.to_dict()
    assert found["steps"] == 2 * len(loader) - 1
    if mode == "graph":
        assert list(found["parts"]) == ["data", "graph", "ours"]
        assert found["notes"] == [WHOLE]
    else:
        assert list(found["parts"]) == ["student", "forward", "backward", "data", "teacher", "losses", "ours"]
        assert found["notes"] == [BACKWARD]


def test_fit_with_weight_zero_is_the_same_while_profiling(tmp_path: Path) -> None:
    students = []
    for name in ("one", "two"):
        distiller = distillation(settings(tmp_path / name, criterion=NOTHING, optimizer=SGD, end_epoch=2), batches())
        if name == "two":
            with distiller.profile():
                students.append(distiller.fit())
        else:
            students.append(distiller.fit())
    assert equal(*students)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("counted", [False, True])
def test_a_profile_around_keras_fit(eager: bool, counted: bool) -> None:
    x, y = data(24)
    model = compiled(student(), run_eagerly=eager)
    rows = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    if not counted:  # Keras asks for one batch more than there are
        rows = rows.filter(lambda *_: True)
    distiller = Distillation(logits(), teacher_model=teacher())
    with distiller.profile() as ledger:
        model.fit(
            rows,
            shuffle=False,
            epochs=3,
            validation_data=(x, y),
            verbose=0,
            callbacks=[DistillationCallback(distiller)],
        )
    found = ledger.to_dict()
    assert found["steps"] == 3 * 3 - 1
    assert found["in_graph"] is not eager
    assert found["outside_seconds"] > 0
    if eager:
        assert list(found["parts"]) == [
            "student", "forward", "backward", "undivided", "data", "teacher", "losses", "ours",
        ]  # fmt: skip
    else:
        assert list(found["parts"]) == ["data", "graph", "ours"]
