"""Weights that are cast once: the values of plain autocast, and the user's teacher as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdhooks import Distillation
from tests.torch.small_models import Classifier, batches, kd_conf, made
from tests.torch.speed_models import Asking, Centred, Encoder, Maps, Signals, Tied, given
from tests.torch.teacher_parts import attached

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def plain(model: nn.Module, x: Any, precision: str) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", LOW[precision]):
        output: Tensor = model(x)
    return output


class Casts(TorchDispatchMode):
    """Remembers the shapes of what is cast to a low precision."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") in LOW.values():
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


# ---- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Maps, Tied, Signals, Classifier])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_values_are_those_of_plain_autocast_to_the_last_bit(kind: Any, precision: Any) -> None:
    model, twin, x = made(1, kind), made(1, kind).eval(), given(kind)
    with attached(model, precision=precision) as teacher:
        for _ in range(3):
            output = teacher(x)
            expected = plain(twin, x, precision)
            assert output.dtype == expected.dtype
            assert torch.equal(output, expected)
        assert teacher._way is not None and teacher._way.copies is not None
        assert not torch.equal(output.float(), twin(x))


def test_a_weight_is_cast_once() -> None:
    model, x = made(1, Maps), given(Maps)
    weights = {tuple(parameter.shape) for parameter in model.parameters() if parameter.ndim > 1}
    with attached(model, precision="bf16") as teacher:
        teacher(x)
        with Casts() as casts:
            teacher(x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Casts() as usual:
        model.eval()(x)
    assert weights.intersection(usual.shapes) == weights
    assert not weights.intersection(casts.shapes)


def test_torchs_own_encoder_runs_in_the_precision_that_was_asked_for() -> None:
    model, twin, x = made(1, Encoder), made(1, Encoder).eval(), given(Encoder)
    with attached(model, precision="bf16") as teacher:
        outputs = [teacher(x), teacher(x)]
        assert teacher._way is not None and teacher._way.copies is not None
    assert torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        expected = plain(twin, x, "bf16")
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert all(torch.equal(output, expected) for output in outputs)
    with torch.no_grad():
        assert not torch.equal(outputs[0].float(), twin(x))


def test_a_layer_that_computes_with_its_weight_itself_keeps_it() -> None:
    class Model(nn.Sequential):
        pass

    def make() -> nn.Module:
        return Model(Centred(6, 8), nn.ReLU(), nn.Linear(8, 4))

    model, twin, x = made(1, make), made(1, make).eval(), given(Classifier)
    seen: list[Any] = []
    model[0].register_forward_pre_hook(lambda module, args: seen.append(module.weight.dtype))
    model[2].register_forward_pre_hook(lambda module, args: seen.append(module.weight.dtype))
    with attached(model, precision="bf16") as teacher:
        teacher(x)
        seen.clear()
        output = teacher(x)
    assert seen == [torch.float32, torch.bfloat16]
    assert torch.equal(output, plain(twin, x, "bf16"))


def test_a_parametrized_weight_is_left_alone() -> None:
    def make() -> nn.Module:
        layer = nn.Linear(6, 4)
        nn.utils.parametrizations.weight_norm(layer)
        return layer

    model, twin, x = made(1, make), made(1, make).eval(), given(Classifier)
    with attached(model, precision="bf16") as teacher:
        assert torch.equal(teacher(x), plain(twin, x, "bf16"))
        assert torch.equal(teacher(x), plain(twin, x, "bf16"))


def test_a_model_that_asks_for_a_weights_dtype_runs_without_copies(caplog: pytest.LogCaptureFixture) -> None:
    model, twin, x = made(1, Asking), made(1, Asking).eval(), given(Asking)
    with caplog.at_level(logging.INFO, "kdhooks"), attached(model, precision="bf16") as teacher:
        outputs = [teacher(x), teacher(x)]
        assert teacher._way is not None and teacher._way.copies is None
    assert all(torch.equal(output, plain(twin, x, "bf16")) for output in outputs)
    assert caplog.records[0].getMessage() == (
        "the teacher Asking runs without copies of its weights in bf16: it gives other values with them"
    )


def test_a_model_that_fails_with_copies_runs_without_them(caplog: pytest.LogCaptureFixture) -> None:
    class Product(Asking):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return x @ self.body.weight.t()

    model, x = made(1, Product), given(Asking)
    with caplog.at_level(logging.INFO, "kdhooks"), attached(model, precision="bf16") as teacher:
        output = teacher(x)
        assert torch.equal(teacher(x), output)
    assert torch.equal(output, x @ model.body.weight.t())
    (said, *_) = [record.getMessage() for record in caplog.records]
    assert said.startswith("the teacher Product runs without copies of its weights in bf16: expected m")


# ---- the user's teacher ----------------------------------------------------------------------------


def state(model: nn.Module) -> list[tuple[Any, ...]]:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return [(name, id(one), one.dtype, one.stride(), one.data_ptr(), one._version) for name, one in named]


@pytest.mark.parametrize("kind", [Maps, Tied])
@pytest.mark.parametrize("precision", [None, "fp16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_outside_of_a_forward_the_model_is_the_users(kind: Any, precision: Any, channels_last: bool) -> None:
    model, x = made(1, kind), given(kind)
    before = state(model)
    keys = list(model.state_dict())
    with attached(model, precision=precision, channels_last=channels_last) as teacher:
        for _ in range(3):
            teacher(x)
            assert state(model) == before
            assert list(model.state_dict()) == keys
    assert state(model) == before
    own = [one for module in model.modules() for one in module._parameters.values() if one is not None]
    assert {type(one) for one in own} == {nn.Parameter}


def test_the_model_is_the_users_after_an_error_in_the_middle() -> None:
    class Failing(Maps):
        fails = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.first(x))
            if self.fails:
                assert self.first.weight.dtype == torch.bfloat16
                raise RuntimeError("in the middle")
            return self.head(self.up(x).mean((2, 3)))

    model, x = made(1, Failing), given(Maps)
    before = state(model)
    with attached(model, precision="bf16") as teacher:
        teacher(x)
        model.fails = True
        with pytest.raises(RuntimeError, match="in the middle"):
            teacher(x)
        assert state(model) == before


def test_a_first_forward_that_fails_is_tried_again() -> None:
    model, x = made(1, Classifier), given(Classifier)
    before = state(model)
    with attached(model, precision="bf16") as teacher:
        with pytest.raises(RuntimeError):
            teacher(x[:, :3])
        assert state(model) == before
        assert torch.equal(teacher(x), plain(made(1, Classifier).eval(), x, "bf16"))


# ---- weights that change ---------------------------------------------------------------------------


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_weights_that_are_loaded_in_the_middle_are_used(assign: bool, channels_last: bool) -> None:
    model, other, x = made(1, Maps), made(2, Maps).eval(), given(Maps)
    with attached(model, precision="bf16", channels_last=channels_last) as teacher:
        teacher(x)
        model.load_state_dict(other.state_dict(), assign=assign)
        torch.testing.assert_close(teacher(x), plain(other, x, "bf16"), rtol=0.05, atol=0.01)
        if not channels_last:
            assert torch.equal(teacher(x), plain(other, x, "bf16"))


def test_a_write_past_the_counters_is_found_at_the_next_epoch() -> None:
    model, x = made(1, Maps), given(Maps)
    with attached(model, precision="bf16") as teacher:
        teacher(x)
        model.head.weight.data.mul_(2)
        teacher.on_epoch_end()
        assert torch.equal(teacher(x), plain(model, x, "bf16"))
        model.head.weight.data.mul_(2)
        teacher.on_epoch_begin(1)
        assert torch.equal(teacher(x), plain(model, x, "bf16"))


def test_what_the_student_has_too_is_never_copied() -> None:
    student, model, x = nn.Linear(6, 4), made(1, Classifier), given(Classifier)
    body = model.body[0]
    body.weight = nn.Parameter(torch.randn(8, 6))
    around = nn.ModuleList([student, nn.Linear(6, 8)])
    around[1].weight = body.weight
    seen: list[Any] = []
    body.register_forward_pre_hook(lambda module, args: seen.append((module.weight is body_weight, module.bias.dtype)))
    body_weight = body.weight
    with attached(model, around, precision="bf16") as teacher:
        teacher(x)
        seen.clear()
        teacher(x)
        assert seen == [(True, torch.bfloat16)]
        with torch.no_grad():
            body.weight.mul_(2)
        assert torch.equal(teacher(x), plain(model, x, "bf16"))


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_average_of_the_student_is_followed(channels_last: bool) -> None:
    student = made(1, lambda: Classifier(dropout=0.0))
    conf = kd_conf()
    conf["distillation"]["teacher"] = {"ema": 0.5, "precision": "bf16", "channels_last": channels_last}
    distiller = Distillation(conf, student_model=student)
    optimizer = torch.optim.SGD(student.parameters(), 0.5)
    with distiller:
        for x, y in batches(4):
            output = student(x)
            loss = nn.functional.cross_entropy(output, y)
            total = distiller.on_after_compute_loss(x, output, loss)
            average = distiller._run.teachers["teacher"]
            said = average(x)
            assert torch.equal(said, plain(average.model, x, "bf16"))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()


# ---- models that are left alone --------------------------------------------------------------------


@pytest.fixture
def compiled() -> Iterator[Any]:
    yield torch.compile(made(1, Classifier), backend="eager")
    torch.compiler.reset()


def test_a_model_that_its_user_compiled_runs_under_plain_autocast(compiled: Any) -> None:
    x = given(Classifier)
    with attached(compiled, precision="bf16", channels_last=True) as teacher:
        assert torch.equal(teacher(x), plain(made(1, Classifier).eval(), x, "bf16"))
        assert teacher._way is not None and teacher._way.copies is None


@pytest.mark.parametrize("where", ["hf_device_map", "_hf_hook", "inner"])
def test_a_model_that_others_spread_or_move_runs_under_plain_autocast(where: str) -> None:
    model, x = made(1, Maps), given(Maps)
    if where == "inner":
        model.first._hf_hook = object()
    else:
        setattr(model, where, {"": 0})
    with attached(model, precision="bf16", channels_last=True) as teacher:
        assert torch.equal(teacher(x), plain(made(1, Maps).eval(), x, "bf16"))
        assert teacher._way is not None and teacher._way.copies is None


# ---- channels last ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [None, "fp32", "bf16"])
def test_maps_and_their_weights_lie_channels_last(precision: Any) -> None:
    model, twin, x = made(1, Maps), made(1, Maps).eval(), given(Maps)
    seen: list[bool] = []

    def look(module: Any, args: Any) -> None:
        seen.append(args[0].is_contiguous(memory_format=torch.channels_last) and not args[0].is_contiguous())
        seen.append(module.weight.is_contiguous(memory_format=torch.channels_last))

    model.first.register_forward_pre_hook(look)
    model.up.register_forward_pre_hook(look)
    with attached(model, precision=precision, channels_last=True) as teacher:
        teacher(x)
        seen.clear()
        output = teacher(x)
    assert seen == [True] * 4
    assert x.is_contiguous() and model.first.weight.is_contiguous()
    if precision == "bf16":
        torch.testing.assert_close(output, plain(twin, x, "bf16"), rtol=0.05, atol=0.01)
    else:
        torch.testing.assert_close(output, twin(x))


def test_a_model_without_maps_has_nothing_to_lay_otherwise() -> None:
    model, x = made(1, Classifier), given(Classifier)
    with attached(model, channels_last=True) as teacher:
        assert torch.equal(teacher(x), made(1, Classifier).eval()(x))
