"""What is wrong with pairs of layers, word for word: pair, layer, model and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

from kdhooks import ConfigError, Distillation
from kdhooks.errors import ModelError, UsageError
from tests.tf.feature_models import (
    Net,
    batches,
    criterion,
    distillation,
    from_yaml,
    functional,
    made,
    models,
    stepping,
    subclassed,
    total_of,
)

PATH = "distillation.train.criterion.IntermediateLayersKnowledgeDistillationLoss"


class Whole(Net):
    """Has a layer that never runs."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.spare = keras.layers.Identity(name="spare")


class Words(keras.Model):
    """Gives numbers of tokens."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.head = keras.layers.Dense(width, name="first"), keras.layers.Dense(4, name="head")
        self.best = keras.layers.Identity(name="best")

    def call(self, x: Any) -> Any:
        output = self.head(self.first(x))
        self.best(tf.argmax(output, -1))
        return output


def built(kind: Callable[[int], Any]) -> Callable[[int], Any]:
    def build(width: int) -> Any:
        model = kind(width)
        model(tf.zeros([1, 6]))
        return model

    return build


CASES: dict[str, tuple[str, Callable[[int], Any], int, str]] = {
    "unknown": (
        "layer_mappings: [[first, frist]]",
        subclassed,
        8,
        """\
kd.yaml:5:34: PATH.layer_mappings[0][1]: teacher Net has no layer 'frist'
  5 |         layer_mappings: [[first, frist]]
    |                                  ^^^^^
  Did you mean 'first'? All layers: kdhooks layers MODEL""",
    ),
    "only in the teacher": (
        "layer_mappings: [[spare, first]]",
        built(Whole),
        8,
        """\
kd.yaml:5:27: PATH.layer_mappings[0][0]: student Net has no layer 'spare'
  5 |         layer_mappings: [[spare, first]]
    |                           ^^^^^
  The teacher Whole has one. All layers: kdhooks layers MODEL""",
    ),
    "silent": (
        "layer_mappings: [[first], [first, spare]]",
        built(Whole),
        8,
        """\
kd.yaml:5:43: PATH.layer_mappings[1][1]: pair 'first' -> 'spare': teacher Whole: layer 'spare' \
did not run at this step
  5 |         layer_mappings: [[first], [first, spare]]
    |                                           ^^^^^
  Map a layer that every forward calls.""",
    ),
    "tuple": (
        "layer_mappings: [[first, block]]",
        subclassed,
        8,
        """\
kd.yaml:5:34: PATH.layer_mappings[0][1]: pair 'first' -> 'block': teacher Net: layer 'block' returned a \
tuple of TENSOR, TENSOR, and no selector says which is meant
  5 |         layer_mappings: [[first, block]]
    |                                  ^^^^^
  Write the selector behind the layer, as in [block, '0'].""",
    ),
    "shapes": (
        "layer_mappings: [[first, first]]\nfeature_matchers: [identity]",
        subclassed,
        12,
        """\
kd.yaml:5:26: PATH.layer_mappings[0]: pair 'first' -> 'first': no feature matcher 'identity' for student \
Net [8, 8] and teacher Net [8, 12]: identity needs equal shapes
  5 |         layer_mappings: [[first, first]]
    |                          ^^^^^^^^^^^^^^
  Write auto in feature_matchers.""",
    ),
    "integers": (
        "layer_mappings: [[first, best]]",
        built(Words),
        8,
        """\
kd.yaml:5:34: PATH.layer_mappings[0][1]: pair 'first' -> 'best': teacher Words: layer 'best' gives \
int64, which can't be followed
  5 |         layer_mappings: [[first, best]]
    |                                  ^^^^
  Map a layer whose values are floats.""",
    ),
    "unknown loss": (
        "layer_mappings: [[first]]\nloss_types: [MSEE]",
        subclassed,
        8,
        """\
kd.yaml:6:22: PATH.loss_types[0]: unknown loss between features 'MSEE'
  6 |         loss_types: [MSEE]
    |                      ^^^^
  Did you mean 'MSE'?""",
    ),
    "weights": (
        "layer_mappings: [[first], {student: '{i}', teacher: '{i}', i: 0..2}]\nloss_weights: [1, 2, 3]",
        subclassed,
        8,
        """\
kd.yaml:6:23: PATH.loss_weights: expected one for each of the 2 layer mappings (which stand for 4 pairs), got 3
  6 |         loss_weights: [1, 2, 3]
    |                       ^^^^^^^^^""",
    ),
    "unknown matcher": (
        "layer_mappings: [[first]]\nfeature_matchers: lin",
        subclassed,
        8,
        """\
kd.yaml:6:27: PATH.feature_matchers: unknown feature matcher 'lin'
  6 |         feature_matchers: lin
    |                           ^^^
  Did you mean 'linear'?""",
    ),
}


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("case", CASES)
def test_errors_name_pair_layer_model_and_line(case: str, mode: str, tmp_path: Path) -> None:
    options, kind, width, message = CASES[case]
    student, teacher = made(subclassed, 8, 1), made(kind, width, 2)
    with pytest.raises(ConfigError) as caught, from_yaml(tmp_path, options, student, teacher) as distiller:
        distiller.optimizer = keras.optimizers.SGD(0.1)
        stepping(distiller, student, distiller.optimizer, mode)(*batches()[0])
    found = str(caught.value).replace(str(tmp_path / "kd.yaml"), "kd.yaml")
    tensor = "EagerTensor" if mode == "eager" else "SymbolicTensor"
    assert found == message.replace("PATH", PATH).replace("TENSOR", tensor)


def test_errors_of_a_criterion_made_in_python() -> None:
    student, teacher = models()
    with pytest.raises(ModelError) as caught:
        distillation(student, teacher, layer_mappings=[["first", "frist"]], loss_weights=[1]).on_train_begin()
    assert str(caught.value) == (
        "layer_mappings[0][1]: teacher Net has no layer 'frist'. Did you mean 'first'? All layers: kdhooks layers MODEL"
    )
    with pytest.raises(UsageError) as wrong:
        criterion(loss_weights=[1, 2, 3])
    assert str(wrong.value) == "loss_weights: expected one for each of the 2 layer mappings, got 3"
    with pytest.raises(UsageError) as missing:
        distillation(student, [teacher, made(subclassed, 8, 3)]).on_train_begin()
    assert str(missing.value) == (
        "features come from one teacher, and there are teacher0, teacher1: say which with teacher"
    )
    distiller = Distillation(student_model=student, teacher_model=[teacher, made(subclassed, 8, 3)])
    distiller.criterion = criterion(teacher="teacher1")
    distiller.optimizer = keras.optimizers.SGD(0.1)
    with distiller, tf.GradientTape():
        total_of(distiller, student, *batches()[0])
        assert distiller.criterion.feature_matchers[0].is_identity
    with pytest.raises(UsageError) as nothing:
        criterion(layer_mappings=None)
    assert str(nothing.value) == "give layer_mappings, or layer_mappings_for_knowledge_transfer, and not both"


def test_a_students_layer_that_did_not_run_where_it_counts() -> None:
    student, teacher = models()
    with distillation(student, teacher, layer_mappings=[["first"]], loss_weights=[1.0]) as distiller:
        x, y = batches()[0]
        with pytest.raises(ModelError) as caught:
            total_of(distiller, student, x, y)  # no tape is open, and nothing is traced
    assert str(caught.value) == (
        "layer_mappings[0][0]: pair 'first' -> 'first': student Net: layer 'first' did not run at this step. Map a "
        "layer that every forward calls; the student's forward must come before the loss, under the gradient tape, and "
        "not in a tf.function that was traced before distillation began."
    )


class Spoilt(keras.Model):
    """Returns NaN from a hidden layer for a batch that begins with a large number."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.head = keras.layers.Dense(width, name="first"), keras.layers.Dense(4, name="head")
        self.hidden = keras.layers.Identity(name="hidden")

    def call(self, x: Any) -> Any:
        hidden = self.first(x)
        hidden = tf.where(x[0, 0] > 50.0, hidden * float("nan"), hidden)
        return self.head(self.hidden(hidden))


NAN = """\
kd.yaml:5:34: PATH.layer_mappings[0][1]: pair 'first' -> 'hidden': teacher Spoilt: layer 'hidden' \
returned NaN or infinite values at step 2
  5 |         layer_mappings: [[first, hidden]]
    |                                  ^^^^^^
  Look at the teacher's inputs, weights and precision.""".replace("PATH", PATH)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_teacher_that_returned_nan_is_named(mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = made(subclassed, 8, 1), made(built(Spoilt), 8, 2)
    options = "layer_mappings: [[first, hidden]]\nadd_origin_loss: true"
    with from_yaml(tmp_path, options, student, teacher) as distiller:
        step = stepping(distiller, student, keras.optimizers.SGD(0.1), mode)
        for index, (x, y) in enumerate(batches()):
            step(x + (100.0 if index == 2 else 0.0), y)
        distiller.on_epoch_end()
        assert distiller.first_bad() == (2, "MSE[first]")
    told = [record.getMessage() for record in caplog.records if "NaN" in record.getMessage()]
    assert [one.replace(str(tmp_path / "kd.yaml"), "kd.yaml") for one in told] == [
        f"the loss component 'MSE[first]' became NaN or infinite at step 2:\n{NAN}"
    ]


def test_a_model_that_is_not_built() -> None:
    with pytest.raises(ModelError) as caught:
        distillation(Net(), made(functional, 8, 1)).on_train_begin()
    assert str(caught.value).startswith("student Net is not built, so its layers have no weights yet: call it once")
