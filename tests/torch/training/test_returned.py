"""What student and teacher may return, and how a batch reaches them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdhooks.errors import DataError, ModelError, UsageError
from kdhooks.training.batches import Calls, Forward
from kdhooks.training.outputs import as_logits, loss_terms
from tests.torch.training.setups import BATCH, Brings, Older, data, kd_loss, linear, loader, trained, training

STUDENT, TEACHER = linear(1).requires_grad_(False), linear(2).requires_grad_(False)


class Returns(nn.Module):
    """A model that returns what a function makes of its logits."""

    def __init__(self, seed: int, make: Any) -> None:
        super().__init__()
        self.layer, self.make = linear(seed), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.layer(x))


FORMS = {
    "logits": lambda z: z,
    "a tuple": lambda z: (z, "more"),
    "a mapping": lambda z: {"logits": z, "prob": z * 0 + 0.25},
    "prob": lambda z: {"prob": z.softmax(-1)},
    "log_prob": lambda z: {"log_prob": z.log_softmax(-1), "hidden": torch.zeros(8, 50)},
    "an object": lambda z: type("Output", (), {"logits": z})(),
}


def once(folder: Path, student: nn.Module, teacher: Any, **changes: Any) -> dict[str, float]:
    """The losses of one step."""
    run = trained(folder, student_model=student, teacher_model=teacher, train_data_loader=loader(rows=BATCH), **changes)
    losses: dict[str, float] = run.history[0]["losses"]
    return losses


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_output_means_the_same(tmp_path: Path, form: str) -> None:
    x, _ = data(rows=BATCH).tensors
    expected = float(kd_loss(STUDENT(x), TEACHER(x), 3.0))
    losses = once(tmp_path, Returns(1, FORMS[form]), Returns(2, FORMS[form]), temperature=3)
    assert losses["kd_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("keys", [(), ("log_prob",), ("prob",), ("logits", "prob")])
def test_a_model_that_takes_the_temperature_has_softened_by_itself(tmp_path: Path, keys: tuple[str, ...]) -> None:
    x, _ = data(rows=BATCH).tensors
    student, teacher = Older(1, *keys), Older(2, *keys)
    expected = float(kd_loss(STUDENT(x), TEACHER(x), 3.0))
    assert once(tmp_path, student, teacher, temperature=3)["kd_loss"] == pytest.approx(expected, rel=1e-4)
    assert student.temperatures == teacher.temperatures == [3]


def test_several_teachers_weigh_alike_and_are_called_alike(tmp_path: Path) -> None:
    x, _ = data(rows=BATCH).tensors
    plain, older = linear(2), Older(3)
    with torch.no_grad():
        values = [float(kd_loss(STUDENT(x), teacher(x), 2.0)) for teacher in (plain, older.layer)]
    losses = once(tmp_path, linear(1), {"plain": plain, "older": older}, temperature=2)
    assert losses["kd_loss"] == pytest.approx(sum(values) / 2, rel=1e-4)
    assert older.temperatures == [1]


def test_token_logits_count_the_tokens_with_a_label(tmp_path: Path) -> None:
    x = torch.randn(4, 3, 6)
    labels = torch.tensor([[1, 2, -100]] * 4)
    with torch.no_grad():
        p, q = TEACHER(x).log_softmax(-1), STUDENT(x).log_softmax(-1)
    each = (p.exp() * (p - q)).sum(-1)
    for batch, expected in (((x, labels), each[:, :2].mean()), ((x, torch.zeros(4, 7).long()), each.mean())):
        run = trained(tmp_path, train_data_loader=[batch])
        assert run.history[0]["losses"]["kd_loss"] == pytest.approx(float(expected), rel=1e-4)


def test_a_loss_of_ones_own_joins_the_components(tmp_path: Path) -> None:
    x, y = data(rows=BATCH).tensors
    expected = float(F.cross_entropy(STUDENT(x), y))
    coefficients = {"kd_loss": 0.0, "student_loss": 1.0}
    losses = once(tmp_path, linear(1), linear(2), student_loss=F.cross_entropy, final_loss_coeff_dict=coefficients)
    assert losses == pytest.approx({"student_loss": expected, "total": expected})
    several = {"kd_loss": 0, "a": 1, "b": 2}
    losses = once(
        tmp_path,
        linear(1),
        linear(2),
        student_loss=lambda output, labels: {"a": output.mean(), "b": labels.float().mean()},
        final_loss_coeff_dict=several,
    )
    assert losses["total"] == pytest.approx(losses["a"] + 2 * losses["b"])


def test_a_teacher_of_weight_0_never_runs(tmp_path: Path) -> None:
    teacher = Older(2)
    once(
        tmp_path,
        linear(1),
        teacher,
        student_loss=F.cross_entropy,
        final_loss_coeff_dict={"kd_loss": 0, "student_loss": 1},
    )
    assert teacher.temperatures == []


def test_hidden_layers_join_by_the_configuration(tmp_path: Path) -> None:
    criterion = {"layer_mappings": [["layer"]], "loss_types": ["MSE"], "loss_weights": [0.5]}
    conf = {"distillation": {"train": {"criterion": {"IntermediateLayersKnowledgeDistillationLoss": criterion}}}}
    x, _ = data(rows=BATCH).tensors
    losses = once(tmp_path, Returns(1, FORMS["logits"]), Returns(2, FORMS["logits"]), distillation=conf)
    assert losses["MSE[layer]"] == pytest.approx(float(F.mse_loss(STUDENT(x), TEACHER(x))), rel=1e-4)
    assert losses["total"] == pytest.approx(losses["kd_loss"] + 0.5 * losses["MSE[layer]"], rel=1e-5)


def error(folder: Path, kind: type[Exception], **changes: Any) -> str:
    run = training(folder, **changes)
    with pytest.raises(kind) as caught:
        run.start_kd_training()
    return str(caught.value)


def test_a_coefficient_without_a_component_and_the_reverse(tmp_path: Path) -> None:
    coefficients = {"kd_loss": 1, "student_los": 1}
    assert error(tmp_path, ModelError, student_model=Brings(), final_loss_coeff_dict=coefficients) == (
        "the student returned the losses 'student_loss', 'penalty' without a coefficient; final_loss_coeff_dict has "
        "the coefficient 'student_los' without a component.\n"
        "  coefficients: kd_loss, student_los\n"
        "  components: kd_loss, cos_embed_loss, student_loss, penalty\n"
        "  Names must be the same on both sides; a coefficient of 0 leaves a component out."
    )
    assert error(tmp_path, ModelError, final_loss_coeff_dict={"kd_loss": 1, "ce": 1}) == (
        "final_loss_coeff_dict has the coefficient 'ce' without a component.\n"
        "  coefficients: kd_loss, ce\n"
        "  components: kd_loss, cos_embed_loss\n"
        "  Names must be the same on both sides; a coefficient of 0 leaves a component out."
    )
    complete = {"kd_loss": 1, "penalty": 0, "student_loss": 0}
    trained(tmp_path, student_model=Brings(), final_loss_coeff_dict=complete)


def test_what_a_model_returned_that_can_not_be_used(tmp_path: Path) -> None:
    over_rows = Returns(1, lambda z: {"prob": z.softmax(0)})
    message = error(tmp_path, ModelError, student_model=over_rows)
    assert message.startswith("'prob' of the student is no distribution over the classes: along axis -1 it sums to ")
    assert message.endswith(". Take softmax over that axis")
    assert error(tmp_path, ModelError, teacher_model=Returns(2, lambda z: {"score": z.sum()})) == (
        "the teacher returned a mapping with the keys 'score', and none of them is 'logits' or 'log_prob' or 'prob'"
    )
    coefficients = {"kd_loss": 1, "cos_embed_loss": 1}
    only = Returns(1, FORMS["prob"])
    assert error(tmp_path, ModelError, student_model=only, final_loss_coeff_dict=coefficients) == (
        "cos_embed_loss compares logits, and the student returned a mapping with the keys 'prob': add 'logits'"
    )
    rows = Returns(1, lambda z: {"logits": z, "loss": {"each": z.mean(-1)}})
    assert error(tmp_path, ModelError, student_model=rows, final_loss_coeff_dict={"kd_loss": 1, "each": 1}) == (
        "the student's loss 'each' must be a scalar, and it is a tensor of shape [8]: take its mean"
    )
    twice = Returns(1, lambda z: {"logits": z, "loss": {"a": z.mean()}, "a": z.mean()})
    assert error(tmp_path, ModelError, student_model=twice, final_loss_coeff_dict={"kd_loss": 1, "a": 1}) == (
        "the student returned the loss 'a' twice, in 'loss' and beside it"
    )
    named = Returns(1, lambda z: {"logits": z, "kd_loss": z.mean()})
    assert error(tmp_path, ModelError, student_model=named) == (
        "the student returned the loss 'kd_loss', which is the name of one computed here"
    )
    both = {"kd_loss": 1, "student_loss": 1, "penalty": 1}
    assert error(
        tmp_path, ModelError, student_model=Brings(), student_loss=lambda o, y: 0.0, final_loss_coeff_dict=both
    ) == ("the student returned the loss 'student_loss', and student_loss gives one of that name too")
    unlabelled = DataLoader([torch.randn(6)])  # type: ignore[arg-type]
    coefficients = {"kd_loss": 1, "student_loss": 1}
    changes = {"student_loss": F.cross_entropy, "final_loss_coeff_dict": coefficients}
    assert error(tmp_path, UsageError, train_data_loader=unlabelled, **changes) == (
        "student_loss compares the student's output with labels, and the batch has none"
    )


def test_which_entries_are_losses() -> None:
    z = torch.randn(2, 3, requires_grad=True)
    output = {"logits": z, "a": z.mean(), "seconds": 1.5, "score": torch.tensor(2.0), "loss": {"b": 0}}
    assert set(loss_terms(output)) == {"a", "b"}
    assert set(loss_terms(output, ("score", "seconds"))) == {"a", "b", "score", "seconds"}
    assert loss_terms(output, ("seconds",))["seconds"] == 1.5
    assert set(loss_terms({"logits": z, "loss": z.sum()})) == {"loss"}
    assert loss_terms({"logits": z, "loss": None}) == loss_terms(z) == {}


def test_a_probability_of_0_stays_finite() -> None:
    logits = as_logits({"prob": torch.tensor([[1.0, 0.0]])}, temperature=2.0, softened=False, model="student")
    assert torch.isfinite(logits).all() and logits[0, 0] == 0


# ---- batches ---------------------------------------------------------------------------------------


def forward(signature: str, name: str = "student") -> Forward:
    """The forward of a module with this signature."""
    space: dict[str, Any] = {}
    exec(f"def forward(self, {signature}): pass", space)
    return Forward.of(type("M", (nn.Module,), {"forward": space["forward"]})(), name)


X, Y, Z = torch.zeros(2, 3), torch.zeros(2).long(), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("signature", "batch", "expected", "labels"),
    [
        ("x", (X, Y), X, Y),
        ("x", [X, Y], X, Y),
        ("x", X, X, None),
        ("x", (X,), X, None),
        ("x, y", (X, Y), (X, Y), Y),
        ("x, labels=None", (X, Y), (X, Y), Y),
        ("x, target=None", (X, Y), (X, Y), Y),
        ("x, mask=None", (X, Y), X, Y),
        ("x, mask=None", (X, Z, Y), (X, Z), Y),
        ("x, mask, labels=None", (X, Z, Y), (X, Z, Y), Y),
        ("*args", (X, Z, Y), (X, Z), Y),
        ("x, temperature=1", (X, Y), {"x": X, "temperature": 2.0}, Y),
        ("x, mask=None, flag=True, only=False, temperature=1", (X, Z, False, True),
         {"x": X, "mask": Z, "flag": False, "only": True, "temperature": 2.0}, True),
        ("x, y, temperature", (X, Y), {"x": X, "y": Y, "temperature": 2.0}, Y),
        ("ids, mask=None", {"ids": X, "mask": Z, "labels": Y}, {"ids": X, "mask": Z}, Y),
        ("ids, labels=None", {"ids": X, "labels": Y}, {"ids": X, "labels": Y}, Y),
        ("ids, **more", {"ids": X, "extra": Z, "target": Y}, {"ids": X, "extra": Z}, Y),
        ("ids", ({"ids": X}, Y), {"ids": X}, Y),
        ("a, b", ([X, Z], Y), (X, Z), Y),
        ("y", {"y": X, "labels": Y}, {"y": X}, Y),
    ],
)  # fmt: skip
def test_how_the_student_is_called(signature: str, batch: Any, expected: Any, labels: Any) -> None:
    given = Calls(forward(signature), forward(signature, "teacher"), 2.0).split(batch)
    assert repr(given.student_input) == repr(expected)
    assert given.labels is labels


def test_labels_reach_a_teacher_only_where_it_needs_them() -> None:
    calls = Calls(forward("x, labels=None"), forward("x, labels=None", "teacher"), 1.0)
    assert calls.split((X, Y)).teacher_input is X
    assert calls.split({"x": X, "labels": Y}).teacher_input == {"x": X}
    needs = Calls(forward("x"), forward("x, labels", "teacher"), 1.0)
    assert needs.split((X, Y)).teacher_input == (X, Y)
    assert set(needs.split({"x": X, "labels": Y}).teacher_input) == {"x", "labels"}


def test_input_columns_say_what_the_inputs_are() -> None:
    def split(signature: str, columns: Any, batch: Any) -> Any:
        return Calls(forward(signature), forward(signature, "teacher"), 1.0, columns).split(batch)

    assert split("x, mask=None", (0, 1), (X, Z)).student_input == (X, Z)
    given = split("x", (1,), (Y, X))
    assert given.student_input is X and given.labels is Y
    named = split("ids, mask", ("ids", "mask", "labels"), (X, Z, Y))
    assert named.student_input == {"ids": X, "mask": Z} and named.labels is Y


def test_batches_that_can_not_be_used() -> None:
    calls = Calls(forward("x"), forward("x", "teacher"), 1.0)
    with pytest.raises(DataError) as caught:
        calls.split(5)
    assert str(caught.value) == "a batch must be a tensor, a tuple, a list or a mapping, and this one is a int"
    with pytest.raises(DataError) as caught:
        calls.split({"x": X, "w": Z, "labels": Y})
    assert str(caught.value) == (
        "the batch has the field 'w', which neither student nor teacher takes: it is a mapping with the keys 'x', 'w', "
        "'labels'"
    )
    with pytest.raises(ModelError) as model:
        calls.split((X, Z, Y))
    assert str(model.value) == (
        "the student's forward takes 1 positional arguments, and the batch has 2 inputs: say with input_columns which "
        "of its columns are inputs"
    )
    with pytest.raises(DataError) as caught:
        Calls(forward("x"), forward("x"), 1.0, (3,)).split((X, Y))
    assert str(caught.value) == "input_columns is (3,), and the batch has 2 columns, counted from 0"
    with pytest.raises(ModelError) as model:
        Calls(forward("*args, temperature"), forward("x", "teacher"), 1.0).split((X, Y))
    assert str(model.value) == (
        "the student is to be called with 2 positional arguments beside temperature: give the parameters of its "
        "forward names"
    )


def test_a_line_says_how_the_models_are_called() -> None:
    calls = Calls(forward("x, labels=None"), forward("x, temperature", "teacher"), 1.0)
    assert calls.describe([X, Y]) == (
        "a batch (a list of Tensor, Tensor) has labels; called are the student with 2 arguments and the teacher with "
        "x=, temperature="
    )
