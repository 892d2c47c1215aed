"""What is said about a teacher in low precision, once, and what it costs."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from kdhooks.torch.teacher import Teacher
from tests.torch.small_models import Classifier, Counting, made
from tests.torch.speed_models import Maps, Tied, given
from tests.torch.teacher_parts import attached


def both(model: nn.Module, x: Any) -> tuple[Tensor, Tensor]:
    """Outputs in bf16 and in fp32."""
    with torch.no_grad():
        full = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float(), full


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(("kind", "rows"), [(Maps, "rows"), (Tied, "positions")])
def test_the_first_batch_says_how_far_logits_are_from_full_precision(
    kind: Any, rows: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, x = made(1, kind), given(kind)
    low, full = both(made(1, kind).eval(), x)
    with caplog.at_level(logging.INFO, "kdhooks"), attached(model, precision="bf16") as teacher:
        for _ in range(3):
            teacher(x)
    apart, same = (low - full).abs(), (low.argmax(-1) == full.argmax(-1)).float()
    assert said(caplog) == [
        f"the teacher {kind.__name__} in bf16, on the first batch against fp32: logits differ by at most "
        f"{float(apart.max()):.3g} (mean {float(apart.mean()):.2g}), "
        f"the same class is the largest in {float(same.mean()):.1%} of {same.numel()} {rows}"
    ]


@pytest.mark.parametrize("precision", [None, "fp32"])
def test_full_precision_has_nothing_to_say(precision: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = Counting(made(1, Classifier))
    with caplog.at_level(logging.DEBUG, "kdhooks"), attached(model, precision=precision) as teacher:
        teacher(given(Classifier))
    assert (said(caplog), model.calls) == ([], 1)


def test_a_teacher_whose_weights_are_in_low_precision_has_nothing_to_say(caplog: pytest.LogCaptureFixture) -> None:
    model = Counting(made(1, Classifier)).to(torch.bfloat16)
    with caplog.at_level(logging.DEBUG, "kdhooks"), attached(model, precision="bf16") as teacher:
        teacher(given(Classifier))
    assert (said(caplog), model.calls) == ([], 1)


def test_features_that_are_looked_at_are_told_by_layer(caplog: pytest.LogCaptureFixture) -> None:
    model, x = made(1, Classifier), given(Classifier)
    twin = made(1, Classifier).eval()
    low, full = both(twin.body[0], x)
    error = float((low.double() - full.double()).norm() / full.double().norm())
    inputs = both(nn.Sequential(*twin.body), x)
    of_input = float((inputs[0].double() - inputs[1].double()).norm() / inputs[1].double().norm())
    with caplog.at_level(logging.INFO, "kdhooks"), attached(model, precision="bf16") as teacher:
        teacher.tap().attach([("body.0", False), ("head", True)])
        teacher.features(x, frozenset({("body.0", False), ("head", True)}))
        first = teacher.taps.slots["body.0", False].read()[0] if teacher.taps is not None else None
        teacher.features(x, frozenset({("body.0", False)}))
    assert first is not None and torch.equal(first.float(), low)
    assert said(caplog) == [
        "the teacher Classifier in bf16, on the first batch against fp32: "
        f"features of body.0 by {error:.2%}; features of head:input by {of_input:.2%}"
    ]


def test_the_cost_is_two_forwards_once() -> None:
    model = Counting(made(1, Classifier))
    with attached(model, precision="bf16") as teacher:
        calls = []
        for _ in range(3):
            teacher(given(Classifier))
            calls.append(model.calls)
    assert calls == [3, 4, 5]  # full precision, plain autocast to prove the copies by, and the step's own


class Drawing(nn.Module):
    """Draws from every generator, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(()) + random.random() + float(numpy.random.rand())
        output: Tensor = self.head(x) + noise
        return output


@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"precision": "auto", "channels_last": "auto"}])
def test_looking_draws_nothing_from_the_users_generators(options: Any) -> None:
    def after(**options: Any) -> tuple[Any, ...]:
        torch.manual_seed(3)
        random.seed(3)
        numpy.random.seed(3)
        with attached(made(1, Drawing), **options) as teacher:
            teacher(given(Classifier))
        return float(torch.rand(())), random.random(), float(numpy.random.rand())

    assert after(**options) == after()


def test_only_rank_0_looks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("kdhooks.torch.teacher_first.is_rank_zero", lambda: False)
    model = Counting(made(1, Classifier))
    with caplog.at_level(logging.DEBUG, "kdhooks"), attached(model, precision="bf16") as teacher:
        teacher(given(Classifier))
    assert (said(caplog), model.calls) == ([], 2)


def test_the_other_ranks_prove_their_copies_where_a_layer_is_all_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kdhooks.torch.teacher_first.is_rank_zero", lambda: False)
    with caplog.at_level(logging.DEBUG, "kdhooks"), attached(made(1, Classifier), precision="bf16") as teacher:
        teacher.tap().attach([("body.0", False)])
        teacher.features(given(Classifier), frozenset({("body.0", False)}))
        assert teacher._way is not None and teacher._way.copies is not None
    assert said(caplog) == []


def test_a_teacher_without_logits_says_nothing_of_them(caplog: pytest.LogCaptureFixture) -> None:
    class Named(Classifier):
        def forward(self, x: Tensor) -> Any:
            return {"said": super().forward(x)}

    x = given(Classifier)
    with (
        caplog.at_level(logging.INFO, "kdhooks"),
        attached(made(1, Named), precision="bf16", outputs=("other",)) as one,
    ):
        one(x)
    assert said(caplog) == []
    with caplog.at_level(logging.INFO, "kdhooks"), attached(made(1, Named), precision="bf16", outputs=("said",)) as one:
        one(x)
    assert len(said(caplog)) == 1


def test_nothing_runs_before_the_first_forward() -> None:
    model = Counting(made(1, Classifier))
    teacher = Teacher(model, nn.Linear(1, 1), precision="auto", channels_last="auto")
    teacher.on_train_begin()
    teacher.on_epoch_begin(0)
    teacher.on_epoch_end()
    teacher.on_train_end()
    assert (model.calls, teacher.choice) == (0, None)
