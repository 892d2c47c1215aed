"""Rules 3 to 7 in every framework: teachers, inputs and outputs, captured features, matchers, and what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdhooks import Distillation
from kdhooks.errors import ConfigError, ModelError
from tests.contract.frameworks import Framework, kd_conf, pair_conf, same

BOTH = kd_conf()
BOTH["distillation"]["train"]["criterion"] |= pair_conf(0.5, add_origin_loss=False)["distillation"]["train"][
    "criterion"
]

# ---- 3. the teacher --------------------------------------------------------------------------------


@pytest.mark.parametrize("conf", [kd_conf(), pair_conf(), BOTH], ids=["logits", "pair", "both"])
def test_the_teacher_is_in_inference_and_untouched(framework: Framework, conf: dict[str, Any]) -> None:
    student, teacher = framework.classifier(1), framework.classifier(2, 16, dropout=0.9)
    framework.rough(teacher)
    before, weights = framework.surface(teacher), framework.weights(teacher)
    with Distillation(conf, student_model=student, teacher_model=teacher) as distiller:
        framework.train(student, distiller=distiller, steps=5)
        assert len(distiller.losses) >= 3
    assert same(framework.weights(teacher), weights)
    assert framework.surface(teacher) == before


def test_the_teachers_term_is_that_of_its_inference(framework: Framework) -> None:
    """Dropout of 0.9 that acted, or statistics of the batch, would show."""
    student, teacher = framework.classifier(1, dropout=0.0), framework.classifier(2, 16, dropout=0.9)
    said = framework.constant(framework.logits(teacher, framework.inputs()))
    with Distillation(kd_conf((0, 1)), student_model=student, teacher_model=teacher) as distiller:
        total = framework.number(framework.total(distiller, student))
        expected = framework.number(framework.total(distiller, student, teacher_output=said))
    assert total == pytest.approx(expected, rel=1e-5)


def test_what_leaves_the_teacher_are_ordinary_tensors(framework: Framework) -> None:
    teacher = framework.classifier(2, 16)
    with Distillation(kd_conf(), student_model=framework.classifier(1), teacher_model=teacher) as distiller:
        framework.ordinary(teacher, distiller)


# ---- 4. inputs and outputs -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tensor", "list", "tuple", "mapping"])
def test_an_input_reaches_the_teacher_as_the_student_got_it(framework: Framework, form: str) -> None:
    first, second = framework.inputs(), framework.inputs(features=3)
    if form == "tensor":
        student, teacher = (framework.classifier(seed, dropout=0.0) for seed in (1, 2))
        given: Any = first
    else:
        student, teacher = framework.two_inputs(1), framework.two_inputs(2)
        given = {"list": [first, second], "tuple": (first, second), "mapping": {"second": second, "first": first}}[form]
    said = framework.constant(framework.logits(teacher, given))
    with Distillation(kd_conf((0, 1)), student_model=student, teacher_model=teacher) as distiller:
        live = framework.number(framework.total(distiller, student, x=given))
    with Distillation(kd_conf((0, 1)), student_model=student) as distiller:
        assert live == pytest.approx(
            framework.number(framework.total(distiller, student, x=given, teacher_output=said))
        )
    assert live > 0


@pytest.mark.parametrize("form", ["tuple", "mapping", "object"])
def test_outputs_may_have_any_of_the_usual_forms(framework: Framework, form: str) -> None:
    student, teacher = framework.classifier(1, dropout=0.0), framework.classifier(2, 16)
    conf = kd_conf((0, 1))
    with Distillation(conf, student_model=student, teacher_model=teacher) as distiller:
        expected = framework.number(framework.total(distiller, student))
    returning = framework.returning(teacher, form)
    with Distillation(conf, student_model=student, teacher_model=returning) as distiller:
        assert framework.number(framework.total(distiller, student)) == pytest.approx(expected, rel=1e-6)
        said = framework.constant(framework.logits(teacher, framework.inputs()))
        handed = framework.wrapped_output(form, said)
        total = framework.total(distiller, student, teacher_output=handed)
        assert framework.number(total) == pytest.approx(expected, rel=1e-5)


def test_the_teacher_may_have_an_input_of_its_own(framework: Framework) -> None:
    student, teacher = framework.classifier(1, dropout=0.0), framework.classifier(2, 16)
    other = framework.inputs(seed=99)
    said = framework.constant(framework.logits(teacher, other))
    with Distillation(kd_conf((0, 1)), student_model=student, teacher_model=teacher) as distiller:
        own = framework.number(framework.total(distiller, student, teacher_input=other))
        expected = framework.number(framework.total(distiller, student, teacher_output=said))
        same_input = framework.number(framework.total(distiller, student))
    assert own == pytest.approx(expected, rel=1e-5)
    assert own != pytest.approx(same_input, rel=1e-3)


def test_class_counts_that_differ_are_an_error(framework: Framework) -> None:
    student, teacher = framework.classifier(1), framework.classifier(2, classes=5)
    distiller = Distillation(kd_conf(), student_model=student, teacher_model=teacher)
    with distiller, pytest.raises(ModelError) as caught:
        framework.total(distiller, student)
    assert str(caught.value) == (
        "the student's logits have shape [8, 4] and the teacher's [8, 5]; both need the same positions and the same "
        "classes in the same order"
    )


@pytest.mark.parametrize("loss", ["number", "rows"])
def test_the_loops_loss_must_be_a_scalar_tensor(framework: Framework, loss: str) -> None:
    student = framework.classifier(1)
    given = 1.5 if loss == "number" else framework.inputs(8, 1)[:, 0]
    distiller = Distillation(kd_conf(), student_model=student, teacher_model=framework.classifier(2))
    with distiller, pytest.raises(ModelError) as caught:
        distiller.on_after_compute_loss(framework.inputs(), framework.inputs(8, 4), given)
    kind = "float" if loss == "number" else "one of shape [8]: take its mean"
    assert str(caught.value) == f"student_loss must be a scalar tensor, not {kind}"


# ---- 5. one forward, 6. matchers -------------------------------------------------------------------


@pytest.mark.parametrize("conf", [kd_conf(), "pair", "both"], ids=["logits", "pair", "both"])
def test_one_forward_of_each_model_a_step(framework: Framework, conf: Any) -> None:
    if isinstance(conf, str):
        pair = pair_conf(layers=("model.body", "model.body"), add_origin_loss=conf == "pair")
        conf = {"distillation": {"train": {"criterion": {
            **pair["distillation"]["train"]["criterion"],
            **(kd_conf()["distillation"]["train"]["criterion"] if conf == "both" else {}),
        }}}}  # fmt: skip
    student = framework.counting(framework.classifier(1))
    teacher = framework.counting(framework.classifier(2, 16))
    with Distillation(conf, student_model=student, teacher_model=teacher) as distiller:
        framework.train(student, distiller=distiller, steps=4)
        assert len(distiller.losses) >= 3
    assert (student.calls, teacher.calls) == (4, 4)


def test_matchers_train_with_no_extra_line(framework: Framework) -> None:
    """The widths are 8 and 16; the loop names no parameter of ours, and the pair's loss falls."""
    student, teacher = framework.classifier(1, dropout=0.0), framework.classifier(2, 16)
    distiller = Distillation(pair_conf(), student_model=student, teacher_model=teacher)
    optimizer = framework.optimizer(student, 0.05)
    distiller.on_train_begin(optimizer=optimizer)
    step = framework.stepping(student, distiller, optimizer)
    step(0)
    first = framework.parameters(distiller.parameters())
    value = distiller.losses["MSE[body]"]
    for _ in range(30):
        step(0)
    last = framework.parameters(distiller.parameters())
    assert len(first) == 2 and not any(np.array_equal(one, other) for one, other in zip(first, last, strict=True))
    assert distiller.losses["MSE[body]"] < value / 2
    distiller.on_train_end()


def test_a_layer_that_only_the_teacher_has(framework: Framework) -> None:
    student, teacher = framework.classifier(1), framework.classifier(2, body="stem")
    distiller = Distillation(pair_conf(layers=("stem", "stem")), student_model=student, teacher_model=teacher)
    with pytest.raises(ConfigError) as caught:
        distiller.on_train_begin()
    assert str(caught.value) == (
        "<dict>: distillation.train.criterion.IntermediateLayersKnowledgeDistillationLoss.layer_mappings[0][0]: "
        "student Sequential has no layer 'stem'\n"
        "  The teacher Sequential has one. All layers: kdhooks layers MODEL"
    )


# ---- 7. afterwards ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["end", "with", "raises", "again", "fails to begin"])
def test_nothing_of_ours_is_left(framework: Framework, how: str) -> None:
    student, teacher = framework.classifier(1), framework.classifier(2, 16)
    framework.rough(teacher)
    before = framework.surface(student), framework.surface(teacher)
    distiller = Distillation(BOTH, student_model=student, teacher_model=teacher)
    if how in ("end", "again"):
        for _ in range(1 if how == "end" else 2):
            distiller.on_train_begin()
            framework.train(student, distiller=distiller, steps=2)
        distiller.on_train_end()
        distiller.on_train_end()
    elif how == "with":
        with distiller:
            framework.train(student, distiller=distiller, steps=2)
    elif how == "raises":
        with pytest.raises(KeyboardInterrupt), distiller:
            framework.train(student, distiller=distiller, steps=2)
            raise KeyboardInterrupt
    else:
        distiller.register_hook("on_train_begin", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError), distiller:
            raise AssertionError("not reached")
    assert (framework.surface(student), framework.surface(teacher)) == before


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # of Keras
def test_copies_files_and_exports_are_as_before(framework: Framework, tmp_path: Path) -> None:
    student, teacher = framework.classifier(1), framework.classifier(2, 16)
    with Distillation(BOTH, student_model=student, teacher_model=teacher) as distiller:
        framework.train(student, distiller=distiller, steps=2)
    inputs = framework.inputs()
    expected = framework.logits(student, inputs)
    for copy in framework.copies(student, tmp_path):
        np.testing.assert_allclose(framework.logits(copy, inputs), expected, rtol=1e-5, atol=1e-6)
