"""Normalisations of a teacher that are folded into its convolutions while its forward runs."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdhooks.speed import Choice
from kdhooks.torch import teacher_choice
from kdhooks.torch.convolution_pairs import pairs_of
from kdhooks.torch.teacher import Teacher
from kdhooks.torch.teacher_copies import Copies
from kdhooks.torch.teacher_folding import Folds
from tests.torch.teacher_parts import attached

AUTO: dict[str, Any] = {"precision": "auto", "channels_last": "auto"}
X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """[N, 3, H, W] to [N, 5]: two pairs, one inside of containers; notes what it sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.deep = nn.Sequential(nn.Sequential(nn.Conv2d(8, 6, 3)), nn.BatchNorm2d(6))
        self.head, self.seen = nn.Linear(6, 5), None
        for norm in (self.norm, self.deep[1]):
            nn.init.uniform_(norm.weight, 0.5, 2)
            norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x = self.norm(self.first(x)).relu()
        output: Tensor = self.head(self.deep(x).mean((2, 3)))
        return output


class Reading(Net):
    """Reads a weight of its normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.norm.weight.mean()


class Between(Net):
    """What is between the two goes elsewhere too."""

    def forward(self, x: Tensor) -> Tensor:
        between = self.first(x)
        return super().forward(x) + between.mean()


@pytest.fixture(autouse=True)
def computes_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_choice, "_cpu_computes_bf16", lambda: True)


def plain(model: nn.Module, dtype: torch.dtype | None = None) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        output: Tensor = model.eval()(X)
    return output


def adopted(teacher: Teacher, precision: Any = "fp32", last: bool = False) -> Teacher:
    teacher.adopt(Choice(precision, channels_last=last, folded=True))
    return teacher


def folded(teacher: Teacher) -> list[Any]:
    way = teacher._way
    assert way is not None
    return [] if way.copies is None else way.copies._folded


def test_pairs_are_found_without_a_trace_on_the_model() -> None:
    model = Net()
    assert pairs_of(model) == [("first", "norm"), ("deep.0.0", "deep.1")]
    assert model.seen is None
    assert pairs_of(Between()) == [("deep.0.0", "deep.1")]


@pytest.mark.parametrize("last", [False, True])
def test_full_precision_differs_by_rounding_alone(last: bool) -> None:
    model = Net()
    expected = plain(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modules = list(map(id, model.modules()))
    with attached(model, **AUTO) as teacher:
        for _ in range(3):
            torch.testing.assert_close(adopted(teacher, last=last)(X), expected, rtol=1e-4, atol=1e-5)
        assert len(folded(teacher)) == 2
        assert list(map(id, model.modules())) == modules and model.first.bias is None
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_bf16_is_as_near_to_full_precision_as_without() -> None:
    model = Net()
    full, low = plain(model), plain(model, torch.bfloat16)
    with attached(model, **AUTO) as teacher:
        output = adopted(teacher, "bf16", last=True)(X)
    assert output.dtype == torch.bfloat16
    assert float((output.float() - full).norm()) < 3 * float((low.float() - full).norm()) + 1e-2


def test_what_is_written_to_the_model_counts_at_once() -> None:
    model = Net()
    with attached(model, **AUTO) as teacher:
        adopted(teacher)(X)
        with torch.no_grad():
            model.norm.running_mean.add_(1)
        torch.testing.assert_close(teacher(X), plain(model), rtol=1e-4, atol=1e-5)
        model.norm = nn.BatchNorm2d(8).eval()
        torch.testing.assert_close(teacher(X), plain(model), rtol=1e-4, atol=1e-5)
        model.norm.train()
        teacher(X)
        assert len(folded(teacher)) == 1


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = Net()
    norm = model.norm
    with attached(model, **AUTO) as teacher:
        adopted(teacher)(X)
        with pytest.raises(RuntimeError, match="expected input"):
            teacher(X[:, :2])
        assert model.norm is norm and model.first.bias is None


@pytest.mark.parametrize(
    ("layer", "left"),
    [("first", 1), ("norm", 1), ("deep.0", 1), ("deep.0.0", 1), ("deep", 2), ("head", 2), ("", 2)],
)
def test_nothing_is_folded_between_whose_ends_somebody_looks(layer: str, left: int) -> None:
    model = Net()
    expected: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _a, output: expected.append(output))
    plain(model)
    handle.remove()
    with attached(model, **AUTO) as teacher:
        teacher.tap().attach([(layer, False)])
        adopted(teacher)(X)
        assert len(folded(teacher)) == left
        (seen,) = teacher.tap().slots[layer, False].calls
        torch.testing.assert_close(seen, expected[0], rtol=1e-4, atol=1e-5)


def test_a_layer_that_is_looked_at_later_is_unfolded() -> None:
    model = Net()
    with attached(model, **AUTO) as teacher:
        adopted(teacher)(X)
        assert len(folded(teacher)) == 2
        teacher.tap().attach([("norm", True)])
        teacher(X)
        assert len(folded(teacher)) == 1


def test_hooks_of_the_user_see_what_they_always_saw() -> None:
    model, seen = Net(), []
    model.norm.register_forward_hook(lambda *_: seen.append(1))
    with attached(model, **AUTO) as teacher:
        adopted(teacher)(X)
        assert len(folded(teacher)) == 1
        seen.clear()
        teacher(X)
        assert seen == [1]
        model.deep.register_forward_pre_hook(lambda *_: None)
        model.deep[0].register_forward_hook(lambda *_: None)
        teacher.on_epoch_begin(1)
        teacher(X)
        assert folded(teacher) == []


def test_a_model_that_reads_its_normalisation_runs_without(caplog: pytest.LogCaptureFixture) -> None:
    model = Reading()
    with caplog.at_level(logging.INFO, "kdhooks"), attached(model, **AUTO) as teacher:
        torch.testing.assert_close(adopted(teacher)(X), plain(model))
        assert teacher._way is not None and not teacher._way.folds
    assert [record.getMessage() for record in caplog.records] == [
        "the teacher Reading runs without folded normalisation: 'Identity' object has no attribute 'weight'"
    ]


def timed_as(monkeypatch: pytest.MonkeyPatch, seconds: Any) -> list[Choice]:
    """Candidates take these seconds; which ones are asked."""
    asked: list[Choice] = []

    def measured(found: Any, ready: Any, kind: str, known: Any) -> Any:
        asked.extend(found)
        return {**known, **{choice: seconds(choice) for choice in found}}

    monkeypatch.setattr(teacher_choice, "_seconds", measured)
    return asked


@pytest.mark.parametrize(("cost", "gain"), [(-0.2, True), (0.1, True), (0.3, False)])
def test_auto_folds_the_quickest_way_unless_that_is_clearly_slower(
    cost: float, gain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = timed_as(monkeypatch, lambda one: 1.0 + (one.precision == "fp32") + cost * one.folded)
    with attached(Net(), **AUTO) as teacher:
        choice = teacher.settle(X)
        assert choice == teacher.chosen == Choice("bf16", channels_last=True, folded=gain)
    assert asked[4:] == [Choice("bf16", channels_last=True, folded=True)]


def test_only_auto_folds_and_only_what_is_the_teachers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed_as(monkeypatch, lambda one: 1.0 - one.folded)
    for options in ({"precision": "bf16"}, {"compile": True}):
        with attached(Net(), **AUTO | options) as teacher:
            teacher.adopt(Choice("bf16", folded=True))
            assert not teacher.settle(X).folded
    model = Net()
    shared = Teacher(model, nn.Sequential(model.head), **AUTO)
    shared.on_train_begin()
    assert not shared.settle(X).folded
    shared.on_train_end()
    assert asked and not any(choice.folded for choice in asked)


def test_weights_in_another_dtype_are_left_alone() -> None:
    model = Net().double().eval()
    copies = Copies(model, None, False, frozenset(), Folds(model))
    with copies.in_place():
        assert copies._folded == []
