"""The criterion in torch: outputs of every form, several teachers, schedules, masks, and who runs when."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdhooks.criterion import Objective, Step
from kdhooks.errors import ModelError, UsageError
from kdhooks.torch import KnowledgeDistillationLoss
from kdhooks.torch.losses import kd, mse
from kdhooks.torch.outputs import constant, logits_of
from tests.torch.criterion_parts import LOGITS, OTHER, THIRD, Output, Pair, term

# ---- forms of outputs ------------------------------------------------------------------------------

FORMS: dict[str, Any] = {
    "tensor": lambda z: z,
    "tuple": lambda z: (z, torch.zeros(6, 9)),
    "tuple with a loss in front": lambda z: (torch.tensor(1.0), z),
    "named tuple": lambda z: Pair(torch.zeros(6, 9), z),
    "mapping": lambda z: {"hidden": torch.zeros(6, 9), "logits": z},
    "mapping without logits": lambda z: {"loss": torch.tensor(1.0), "out": z},
    "object": lambda z: Output(None, z),
}


@pytest.mark.parametrize("student", FORMS)
@pytest.mark.parametrize("teacher", FORMS)
def test_outputs_of_every_form(student: str, teacher: str) -> None:
    given = Step(0, LOGITS, FORMS[student](LOGITS), teachers={"teacher": lambda value, step: FORMS[teacher](OTHER)})
    assert torch.equal(term(given), kd(LOGITS, OTHER))


@pytest.mark.parametrize("teacher", sorted(set(FORMS) - {"mapping without logits"}))
def test_outputs_of_every_form_handed_in_without_a_teacher(teacher: str) -> None:
    assert torch.equal(term(Step(0, None, LOGITS, FORMS[teacher](OTHER))), kd(LOGITS, OTHER))


def test_a_key_chooses_the_logits() -> None:
    output = {"aux": OTHER, "out": LOGITS}
    assert logits_of(output, ("out",)) is LOGITS
    assert logits_of(Output(None, LOGITS), ("absent",)) is LOGITS
    given = Step(0, None, output, {"aux": LOGITS, "out": THIRD})
    assert torch.equal(term(given, outputs=["out"]), kd(LOGITS, THIRD))


def test_an_output_without_logits_is_described() -> None:
    with pytest.raises(ModelError) as caught:
        term(Step(0, None, LOGITS, {"logits": {"a": 1}, "boxes": [1]}))
    assert str(caught.value) == (
        "the teacher returned a mapping with the keys 'logits', 'boxes', in which there are no logits"
    )
    with pytest.raises(ModelError) as caught:
        term(Step(0, None, (torch.tensor(1.0), "text"), LOGITS))
    assert str(caught.value) == "the student returned a tuple of Tensor, str, in which there are no logits"
    with pytest.raises(ModelError) as caught:
        logits_of({"out": LOGITS}, ("seg", "depth"))
    assert str(caught.value) == (
        "the student returned a mapping with the keys 'out', in which there are no logits named 'seg' or 'depth'"
    )


# ---- weights, temperatures, names ------------------------------------------------------------------


def test_temperature_follows_its_schedule() -> None:
    schedule = {"linear": {"from": 1, "to": 5, "steps": 4}}
    for step, temperature in ((0, 1.0), (2, 3.0), (9, 5.0)):
        given = Step(step, None, LOGITS, OTHER)
        assert torch.equal(term(given, temperature=schedule), kd(LOGITS, OTHER, temperature=temperature))
        assert torch.equal(
            term(given, temperature=lambda step: 1.0 + min(step, 4)), kd(LOGITS, OTHER, temperature=temperature)
        )


@pytest.mark.parametrize(
    ("temperature", "message"),
    [
        (0, "schedule: expected a number above 0 or a schedule, got 0"),
        (-1.5, "schedule: expected a number above 0 or a schedule, got -1.5"),
        ({"linear": {"from": 4, "to": 0, "steps": 9}}, "schedule: linear.to: expected a number above 0, got 0"),
    ],
)
def test_a_temperature_of_zero_is_refused(temperature: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        KnowledgeDistillationLoss(temperature=temperature)
    assert str(caught.value) == message


def test_a_function_that_cools_down_to_zero_is_named_at_its_step() -> None:
    with pytest.raises(UsageError, match=r"^the temperature must be above 0, and is 0.0 at step 3$"):
        term(Step(3, None, LOGITS, OTHER), temperature=lambda step: 3.0 - step)


def test_the_first_type_is_a_label_and_its_loss_is_never_recomputed() -> None:
    criterion = KnowledgeDistillationLoss(loss_types=["my loss", "MSE"], loss_weights=[0.25, 2.0])
    loss = torch.tensor(3.0)
    total, names, values = Objective([criterion]).total(Step(0, None, LOGITS, OTHER), loss)
    assert names == ("my loss", "MSE", "total")
    assert values[0] is loss
    assert torch.equal(total, 0.25 * loss + 2.0 * mse(LOGITS, OTHER))
    assert values[-1] is total


def test_one_loss_type_alone_scales_the_students_loss() -> None:
    criterion = KnowledgeDistillationLoss(loss_types=["CE"], loss_weights=[0.5])
    total, names, _ = Objective([criterion]).total(Step(0, None, LOGITS), torch.tensor(3.0))
    assert (float(total), names) == (1.5, ("CE", "total"))


def test_the_students_weight_is_the_sum_over_criteria() -> None:
    half = KnowledgeDistillationLoss(loss_weights=[0.5, 0])
    loss = torch.tensor(3.0)
    assert Objective([half, half]).total(Step(0, None, LOGITS), loss)[0] is loss
    assert torch.equal(Objective([half, half, half]).total(Step(0, None, LOGITS), loss)[0], 1.5 * loss)


def test_a_students_weight_of_zero_drops_its_loss() -> None:
    total = Objective([KnowledgeDistillationLoss(loss_weights=[0, 1])]).total(
        Step(0, None, LOGITS, OTHER), torch.tensor(float("nan"))
    )[0]
    assert torch.equal(total, kd(LOGITS, OTHER))


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        KnowledgeDistillationLoss(loss_types=["CE", "KL", "MSE"], loss_weights=[0.5, 0.5])
    assert str(caught.value) == "loss_types and loss_weights must be of one length: 3 types, 2 weights"


def test_combine_is_checked() -> None:
    with pytest.raises(UsageError) as caught:
        KnowledgeDistillationLoss(combine="mean")  # type: ignore[arg-type]
    assert str(caught.value) == "combine must be 'losses', 'logits' or 'probabilities', not 'mean'"


def test_an_unknown_type_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        KnowledgeDistillationLoss(loss_types=["CE", "revers_KL"])
    assert str(caught.value) == "unknown loss 'revers_KL'. Did you mean 'reverse_KL'?"


def test_without_teacher_and_output_the_message_says_what_to_do() -> None:
    with pytest.raises(UsageError) as caught:
        term(Step(0, LOGITS, LOGITS))
    assert str(caught.value) == (
        "there is no teacher: set teacher_model, or hand teacher_output to on_after_compute_loss"
    )


# ---- masks and targets -----------------------------------------------------------------------------

TOKENS = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(4))
SAID = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(5))
LABELS = torch.tensor([[1, 2, -100], [-100, 4, 0]])


def test_ignored_labels_and_mask_together_are_a_slice() -> None:
    mask = torch.tensor([[1, 0, 1], [1, 1, 1]])
    counted = (LABELS != -100) & mask.bool()
    value = term(Step(0, None, TOKENS, SAID, target=LABELS, mask=mask))
    torch.testing.assert_close(value, kd(TOKENS[counted], SAID[counted]))


def test_targets_that_are_no_labels_of_positions_mask_nothing() -> None:
    whole = kd(TOKENS, SAID)
    for target in (torch.tensor([0, -100]), torch.rand(2, 3), {"labels": LABELS}, None):
        assert torch.equal(term(Step(0, None, TOKENS, SAID, target=target)), whole)


def test_a_mask_that_would_broadcast_against_the_labels_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        term(Step(0, None, TOKENS, SAID, target=LABELS, mask=torch.ones(2, 1)))
    assert str(caught.value) == (
        "the mask has shape [2, 1]; for logits of shape [2, 3, 5] with the classes on axis -1 it must be [2, 3]"
    )


def test_the_teachers_graph_is_left_out() -> None:
    student, teacher = LOGITS.clone().requires_grad_(), OTHER.clone().requires_grad_()
    term(Step(0, None, student, teacher * 2)).backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.any()


def test_inference_tensors_are_usable_in_a_graph() -> None:
    with torch.inference_mode():
        teacher = OTHER * 1
    student = LOGITS.clone().requires_grad_()
    (student * constant(teacher)).sum().backward()  # a product keeps both sides for its backward
    assert torch.equal(student.grad, OTHER)
    for combine in ("losses", "logits", "probabilities"):
        student = LOGITS.clone().requires_grad_()
        term(Step(0, None, student, [teacher, teacher]), combine=combine).backward()
        expected = LOGITS.clone().requires_grad_()
        kd(expected, OTHER).backward()
        torch.testing.assert_close(student.grad, expected.grad)


def test_called_directly_in_a_loop_without_hooks() -> None:
    criterion = KnowledgeDistillationLoss(
        temperature=2.0,
        loss_types=["CE", "KL", "MSE"],
        loss_weights=[0.1, {"linear": {"from": 1, "to": 0, "steps": 2}}, 3],
    )
    expected = 0.5 * kd(LOGITS, OTHER, temperature=2.0) + 3 * mse(LOGITS, OTHER)
    torch.testing.assert_close(criterion(LOGITS, OTHER, step=1), expected)
    torch.testing.assert_close(criterion({"logits": LOGITS}, (OTHER, torch.zeros(1)), step=1), expected)
    torch.testing.assert_close(criterion(LOGITS, [OTHER, OTHER], step=1), expected)
    torch.testing.assert_close(criterion(LOGITS, {"a": OTHER, "b": OTHER}, step=1), expected)
    masked = criterion(TOKENS, SAID, target=LABELS, step=5)
    torch.testing.assert_close(masked, 3 * F.mse_loss(TOKENS[LABELS != -100], SAID[LABELS != -100]))
