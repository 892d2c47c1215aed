"""A teacher that shares modules or weights with the student."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.torch.small_models import Classifier, batches, made, same_weights
from tests.torch.teacher_parts import attached, flags, modes

# ---- what is shared with the student ---------------------------------------------------------------


class WithHead(nn.Module):
    """A body of its own and a head from elsewhere."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(x))
        return output


def test_a_tied_head_stays_as_the_student_has_it() -> None:
    head = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 4))
    student, model = WithHead(head), WithHead(head)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    x = batches()[0][0]
    with attached(model, student) as teacher:
        assert set(modes(student).values()) == {True}
        assert set(flags(student).values()) == {True}
        assert set(flags(model.body).values()) == {False}
        assert torch.equal(teacher(x), teacher(x))  # no dropout
        assert set(modes(student).values()) == {True}
        head[0].eval()
        teacher(x)
        assert not head[0].training and head[1].training
        teacher.on_train_end()
        assert not head[0].training and head[1].training
        head[0].train()
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert set(modes(model).values()) == set(modes(student).values()) == {True}
    assert set(flags(model).values()) == {True}


def test_modes_of_shared_modules_come_back_when_the_teacher_raises() -> None:
    student = WithHead(nn.Linear(8, 4))
    model = WithHead(student.head)
    with attached(model, student) as teacher:
        with pytest.raises(RuntimeError):
            teacher(torch.randn(2, 5))
        assert set(modes(student).values()) == {True}


def test_the_student_may_be_its_own_teacher() -> None:
    student = made(1, Classifier)
    copy = made(1, Classifier).eval()
    x = batches()[0][0]
    with attached(student, student) as teacher:
        assert torch.equal(teacher(x), copy(x))
        assert set(modes(student).values()) == set(flags(student).values()) == {True}
    assert same_weights(student, copy)


class LoRALinear(nn.Module):
    """A frozen linear layer with a low-rank addition that can be switched off."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) * 0.3)
        self.up = nn.Parameter(torch.randn(base.out_features, rank) * 0.3)
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.base(x)
        return output + F.linear(F.linear(x, self.down), self.up) if self.enabled else output


class WithoutAdapters(nn.Module):
    """The base model under the adapters, as a teacher."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        adapters = [module for module in self.model.modules() if isinstance(module, LoRALinear)]
        for adapter in adapters:
            adapter.enabled = False
        try:
            return self.model(x)
        finally:
            for adapter in adapters:
                adapter.enabled = True


def adapted() -> nn.Sequential:
    return nn.Sequential(
        LoRALinear(nn.Linear(6, 8)), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.0), LoRALinear(nn.Linear(8, 4))
    )


def adapter_gradients(student: nn.Module, teach: Any, dtype: torch.dtype | None) -> list[Tensor]:
    """Gradients of a KD-like loss when the teacher runs between two forwards in one autocast block."""
    (x, y), (x2, _) = batches()[:2]
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        said = teach(x)  # before the student's forward, when the cache of casts is empty
        loss = F.mse_loss(student(x).float(), said.float()) + F.cross_entropy(student(x2), y)
    return list(torch.autograd.grad(loss, [p for p in student.parameters() if p.requires_grad]))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", [None, "fp32", "bf16"])
def test_lora_with_adapters_switched_off(dtype: torch.dtype | None, precision: Any) -> None:
    student, reference = made(3, adapted), made(3, adapted)
    frozen = made(3, adapted).eval()
    plain = WithoutAdapters(frozen)
    own = {"fp32": None, "bf16": torch.bfloat16, None: dtype}[precision]

    def separate(x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", own or torch.bfloat16, enabled=own is not None):
            output: Tensor = plain(x)
        return output

    expected = adapter_gradients(reference, separate, dtype)
    with attached(WithoutAdapters(student), student, precision=precision) as teacher:
        found = adapter_gradients(student, teacher, dtype)
        assert set(modes(student).values()) == {True}
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert same_weights(student, reference)  # the BatchNorm buffers moved by the student's forwards alone
    assert flags(student) == flags(reference)


@pytest.mark.parametrize("precision", [None, "bf16", "fp16", "fp32"])
@pytest.mark.parametrize("around", [torch.bfloat16, torch.float16])
def test_a_tied_weight_in_modules_of_their_own(precision: Any, around: torch.dtype) -> None:
    """Autocast would keep the teacher's cast copy of the weight, of its dtype, for the student's forward."""
    student, model = nn.Linear(6, 4), nn.Linear(6, 4)
    model.weight = student.weight
    x = torch.randn(3, 6)
    with attached(model, student, precision=precision) as teacher, torch.autocast("cpu", around):
        teacher(x)
        output = student(x)
        output.float().sum().backward()
    assert output.dtype == around
    assert student.weight.grad is not None and student.weight.grad.any()
    assert student.weight.requires_grad


@pytest.mark.parametrize("precision", [None, "bf16"])
@pytest.mark.parametrize("shared", ["module", "weight", "nothing"])
def test_casts_of_shared_weights_are_not_kept(precision: Any, shared: str) -> None:
    seen: list[bool] = []

    class Watching(nn.Module):
        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Any:
            seen.append(torch.is_autocast_cache_enabled())
            return self.inner(x)

    student, inner = nn.Linear(6, 4), nn.Linear(6, 4)
    if shared == "weight":
        inner.weight = student.weight
    model = Watching(student if shared == "module" else inner)
    with attached(model, student, precision=precision) as teacher, torch.autocast("cpu", torch.bfloat16):
        teacher(torch.randn(2, 6))
    assert set(seen) == {shared == "nothing"}  # with those that look at the difference to full precision


def test_autocasts_cache_is_on_again_after_a_shared_teacher() -> None:
    student = nn.Linear(6, 4)
    model = WithoutAdapters(student)
    with attached(model, student) as teacher, torch.autocast("cpu", torch.bfloat16):
        teacher(torch.randn(2, 6))
        assert torch.is_autocast_cache_enabled()
        with pytest.raises(RuntimeError):
            teacher(torch.randn(2, 5))
        assert torch.is_autocast_cache_enabled()


def test_a_compiled_student_shares_its_modules_too() -> None:
    student = WithHead(nn.Linear(8, 4))
    model = WithHead(student.head)
    with attached(model, torch.compile(student, backend="eager")):
        assert set(flags(student).values()) == {True}
        assert set(modes(student).values()) == {True}


def test_a_compiled_teacher() -> None:
    model = made(1, Classifier)
    compiled = torch.compile(model, backend="eager")
    x = batches()[0][0]
    with attached(compiled) as teacher:  # type: ignore[arg-type]
        output = teacher(x)
        assert set(modes(model).values()) == {False}
    assert set(modes(model).values()) == set(flags(model).values()) == {True}
    assert torch.equal(output, made(1, Classifier).eval()(x))


def test_a_teacher_that_was_loaded_in_inference_mode() -> None:
    with torch.inference_mode():
        model = made(1, Classifier)
    x = batches()[0][0]
    with attached(model) as teacher:
        output = teacher(x)
        assert not output.requires_grad
    assert set(modes(model).values()) == set(flags(model).values()) == {True}
    assert torch.equal(output, made(1, Classifier).eval()(x))
