"""Teacher features that the loop has already: handed in by layer, with and without a teacher model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdhooks import Distillation, KDHooksError
from kdhooks.torch import KnowledgeDistillationLoss
from tests.torch.hidden_models import Net, criterion, models
from tests.torch.small_models import batches, made
from tests.torch.test_several_layers import BOTH, Maps, X
from tests.torch.test_several_layers import features as captured

X_ROWS, Y = batches()[0]


def features(teacher: Net, x: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        first = teacher.first(x)
        return {"first": first, "head": teacher(x)}


def losses(distiller: Distillation, student: Net, **given: object) -> dict[str, float]:
    output = student(X_ROWS)
    distiller.on_after_compute_loss(X_ROWS, output, F.cross_entropy(output, Y), **given)
    return distiller.losses


def test_they_give_the_losses_of_the_teacher_which_does_not_run() -> None:
    student, teacher = models()
    distiller = Distillation(student_model=student, teacher_model=teacher)
    distiller.criterion = criterion()
    stored = features(teacher, X_ROWS)
    with distiller:
        expected = losses(distiller, student)
        ran: list[int] = []
        teacher.register_forward_pre_hook(lambda *_: ran.append(1))
        assert losses(distiller, student, teacher_features=stored) == pytest.approx(expected, rel=1e-6)
        assert ran == []
        losses(distiller, student)
        assert ran == [1]
    alone = Distillation(student_model=student)
    alone.criterion = criterion()
    with alone:
        assert losses(alone, student, teacher_features=stored) == pytest.approx(expected, rel=1e-6)


def test_with_stored_logits_no_teacher_is_needed_at_all() -> None:
    student, teacher = models()
    stored = features(teacher, X_ROWS)
    distiller = Distillation(student_model=student)
    distiller.criterion = [KnowledgeDistillationLoss(2.0), criterion(add_origin_loss=False)]
    with distiller:
        found = losses(distiller, student, teacher_output=stored["head"], teacher_features=stored)
    assert sorted(found) == ["CE", "KL", "MSE[first]", "MSE[head]", "total"]
    kl = F.kl_div(
        (student(X_ROWS) / 2).log_softmax(-1),
        (stored["head"] / 2).log_softmax(-1),
        reduction="batchmean",
        log_target=True,
    )
    assert found["KL"] == pytest.approx(4 * kl.item(), rel=1e-5)


def test_selectors_inputs_and_several_teachers() -> None:
    student, teacher = models()
    distiller = Distillation(student_model=student, teacher_model={"big": teacher, "other": made(3, Net)})
    mappings = [["block", "1", "block", "1"], ["head:input", "head:input"]]
    distiller.criterion = criterion(layer_mappings=mappings, teacher="big", feature_matchers="auto")
    with torch.no_grad():
        both = teacher.block(teacher.first(X_ROWS).tanh())
    with distiller:
        expected = losses(distiller, student)
        for block in (both, both[1]):  # what the layer returned, or what its selector means
            stored = {"big": {"block": block, "head:input": both[0]}}
            assert losses(distiller, student, teacher_features=stored) == pytest.approx(expected, rel=1e-6)


def test_several_layers_a_side() -> None:
    student, teacher = made(1, Maps), made(2, Maps)
    stored = dict(zip(("stem", "block2"), captured(teacher, X, "stem", "block2"), strict=True))
    found = []
    for given in (None, stored):
        distiller = Distillation(student_model=student, teacher_model=teacher)
        distiller.criterion = criterion(layer_mappings=[BOTH], loss_types="fsp", loss_weights=1.0)
        with distiller:
            output = student(X)
            distiller.on_after_compute_loss(X, output, output.sum(), teacher_features=given)
            found.append(distiller.losses)
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_faults() -> None:
    student, teacher = models()
    stored = features(teacher, X_ROWS)
    alone = Distillation(student_model=student)
    alone.criterion = criterion()
    several = Distillation(student_model=student, teacher_model=[teacher, made(3, Net)])
    several.criterion = criterion(teacher="teacher0")
    for distiller, given, message in (
        (
            alone,
            None,
            "features come from a teacher, and there is none: set teacher_model, or hand teacher_features to "
            "on_after_compute_loss",
        ),
        (
            alone,
            {"frist": stored["first"], "head": stored["head"]},
            "layer_mappings[0][1]: pair 'first' -> 'first': teacher_features has no layer 'first'. Did you mean "
            "'frist'?",
        ),
        (alone, [stored["first"]], "teacher_features must be a mapping from layers to tensors"),
        (
            several,
            stored,
            "teacher_features must be a mapping from layers to tensors, by the teachers' names (teacher0, teacher1)",
        ),
        (
            alone,
            {"first": 3, "head": stored["head"]},
            "layer_mappings[0][1]: pair 'first' -> 'first': teacher_features of this step: layer 'first' returned a "
            "int, and no selector says which is meant. Write the selector behind the layer, as in [first, '0'].",
        ),
    ):
        with pytest.raises(KDHooksError) as caught, distiller:
            losses(distiller, student, teacher_features=given)
        assert str(caught.value) == message
