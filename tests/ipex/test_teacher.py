"""A teacher by Intel's extension: its values, its layers, the user's model, and where it runs without."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdhooks.speed import Choice
from kdhooks.torch.ema import MeanTeacher
from kdhooks.torch.ipex import unusable
from kdhooks.torch.ipex_teacher import IpexWay
from kdhooks.torch.teacher import Teacher
from tests.ipex.models import Head, Images, ReadsItsWeight, Tokens, images, made, tokens

NEAR = {"fp32": 1e-5, "bf16": 0.03}


def begun(model: nn.Module, **options: Any) -> Teacher:
    teacher = Teacher(model, nn.Linear(2, 2), **{"ipex": True, **options})
    teacher.on_train_begin()
    return teacher


def plain(model: nn.Module, x: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        output: Tensor = model(x)
    return output


def apart(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).norm() / other.float().norm())


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "without" in record.message]


@pytest.fixture(autouse=True)
def listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kdhooks")


def test_these_tests_have_the_extension() -> None:
    assert unusable() is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kind", "x"), [(Images, images()), (Tokens, tokens())])
def test_values_are_the_teachers_own(
    kind: type[nn.Module], x: Tensor, precision: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = made(kind)
    expected = plain(model, x)
    teacher = begun(model, precision=precision)
    outputs = [teacher(x) for _ in range(3)]
    assert teacher.choice == Choice(precision, ipex=True) and isinstance(teacher._way, IpexWay)
    assert all(apart(output, expected) < NEAR[precision] for output in outputs)
    assert not any(output.requires_grad or output.is_inference() for output in outputs)
    assert lines(caplog) == []
    (said,) = [record.message for record in caplog.records]
    start = f"the teacher {kind.__name__} in {precision}, ipex, on the first batch against fp32: logits differ by at"
    assert said.startswith(start)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_users_teacher_stays_as_it_is(precision: Any) -> None:
    model = made(Images).train()
    model.body[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strides = [parameter.stride() for parameter in model.parameters()]
    kinds = [(name, type(module), set(vars(module))) for name, module in model.named_modules()]
    flags = [(parameter.requires_grad, id(parameter)) for parameter in model.parameters()]
    teacher = begun(model, precision=precision)
    teacher.tap().attach([("stage1", False)])
    teacher(images())
    teacher.on_train_end()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert strides == [parameter.stride() for parameter in model.parameters()]
    assert kinds == [(name, type(module), set(vars(module))) for name, module in model.named_modules()]
    assert flags == [(parameter.requires_grad, id(parameter)) for parameter in model.parameters()]
    assert model.training and teacher._way is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_are_captured_and_the_forward_ends_at_the_deepest(precision: Any) -> None:
    model, x = made(Images), images()
    kept: dict[str, Tensor] = {}
    names = ["stage1", "stage2.conv1", "stage2.bn2"]
    handles = [
        model.get_submodule(name).register_forward_hook(lambda m, a, output, name=name: kept.update({name: output}))
        for name in names
    ]
    plain(model, x)
    for handle in handles:
        handle.remove()
    expected = dict(kept)
    teacher = begun(model, precision=precision)
    keys = frozenset((name, False) for name in names)
    teacher.tap().attach(keys)
    teacher(x)
    Head.calls.clear()
    for _ in range(2):
        teacher.features(x, keys)
        for name in names:
            (value,) = teacher.tap().slots[name, False].read()
            assert apart(value, expected[name]) < NEAR[precision], name
        teacher.release()
    assert Head.calls == []
    teacher(x)
    assert Head.calls == [1]


def test_a_layer_that_is_tapped_later_is_no_longer_folded_away() -> None:
    model, x = made(Images), images()
    teacher = begun(model, precision="fp32")
    teacher.tap().attach([("stage2", False)])
    teacher(x)
    assert isinstance(teacher.tap().model.get_submodule("stage1.bn1"), nn.Identity)
    teacher.tap().attach([("stage1.conv1", False)])
    teacher(x)
    expected = plain(model.stage1.conv1, x)
    assert apart(teacher.tap().slots["stage1.conv1", False].read()[0], expected) < 1e-5


def test_the_copy_follows_the_teachers_weights() -> None:
    model, x = made(Images), images()
    teacher = begun(model, precision="fp32")
    teacher(x)
    with torch.no_grad():
        model.head.weight.mul_(2.0)
    assert apart(teacher(x), plain(model, x)) < 1e-5
    model.head.weight.data.mul_(3.0)  # a write that torch does not count
    teacher.on_epoch_begin(1)
    assert apart(teacher(x), plain(model, x)) < 1e-5


def test_without_a_precision_it_follows_the_autocast_around_it() -> None:
    model, x = made(Images), images()
    teacher = begun(model)
    assert teacher(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher(x).dtype == torch.bfloat16
    assert teacher(x).dtype == torch.float32


def test_auto_chooses_by_timing_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    teacher = begun(made(Images), precision="auto", channels_last="auto", ipex="auto")
    teacher(images())
    assert teacher.chosen is not None
    line = caplog.records[0].message
    assert line.startswith(f"the teacher Images runs in {teacher.chosen}: ")
    assert all(way in line for way in ("bf16, ipex", "fp32, ipex", "bf16, channels last", "fp32, channels last"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"compile": True}, "it is compiled"),
        ({"precision": "fp16"}, "it computes in fp32 and bf16, not in fp16"),
    ],
)
def test_what_the_extension_can_not_do_is_done_without_it(
    options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = begun(made(Images), **options)
    assert teacher.settle(images()).ipex is False
    assert lines(caplog) == [f"the teacher Images runs without Intel's extension: {reason}"]


def test_a_teacher_that_shares_with_the_student_runs_without_it(caplog: pytest.LogCaptureFixture) -> None:
    model = made(Images)
    teacher = Teacher(model, nn.Sequential(model.stage1), precision="bf16", ipex=True)
    teacher.on_train_begin()
    teacher(images())
    assert lines(caplog) == [
        "the teacher Images runs without Intel's extension: it has modules or weights that are the student's too, "
        "and the copy would not follow them"
    ]


def test_an_average_of_the_student_runs_without_it(caplog: pytest.LogCaptureFixture) -> None:
    teacher = MeanTeacher(made(Images), 0.9, precision="fp32", ipex=True)
    teacher.on_train_begin()
    teacher(images())
    assert lines(caplog) == ["the teacher Images runs without Intel's extension: its weights change at every step"]


def test_weights_of_another_kind_run_without_it(caplog: pytest.LogCaptureFixture) -> None:
    teacher = begun(made(Images).double(), precision="fp32")
    teacher(images())
    assert lines(caplog) == ["the teacher Images runs without Intel's extension: its weights are not in float32"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_that_reads_packed_weights_is_found_out(precision: Any, caplog: pytest.LogCaptureFixture) -> None:
    model, x = made(ReadsItsWeight), images()
    teacher = begun(model, precision=precision)
    for _ in range(2):
        assert apart(teacher(x), plain(model, x)) < NEAR[precision]
    (line,) = lines(caplog)
    assert line.startswith("the teacher ReadsItsWeight runs without Intel's extension: ")
    assert teacher._way is not None and not teacher._way.choice.ipex


def test_gradients_of_normalisation_are_right_with_the_extension_loaded() -> None:
    x = torch.randn(4, 6, dtype=torch.float32, requires_grad=True)
    weight, bias = torch.randn(6, requires_grad=True), torch.randn(6, requires_grad=True)
    wanted = torch.randn(4, 6)
    torch.nn.functional.layer_norm(x, (6,), weight, bias).backward(wanted)
    found = [one.grad for one in (x, weight, bias)]
    mean, deviation = x.mean(1, keepdim=True), (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = torch.autograd.grad((x - mean) / deviation * weight + bias, (x, weight, bias), wanted)
    torch.testing.assert_close(found, list(expected), rtol=1e-4, atol=1e-5)
