"""Distillation in chunks: the memory it takes, how it chooses, its criterion, and what it refuses."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdhooks.errors import ModelError, UsageError
from kdhooks.torch.losses import ChunkedDistillationLoss, chunked_distillation, chunked_heads
from kdhooks.torch.losses.chunked_pass import _Pass
from tests.torch.chunked_case import TOKENS, Case


class Largest(TorchDispatchMode):
    """The largest tensor that any operator returned."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return result


def test_no_buffer_of_tokens_by_vocabulary_lives() -> None:
    hidden, weight = torch.randn(600, 4, requires_grad=True), torch.randn(900, 4, requires_grad=True)
    teacher, target = torch.randn(900, 4), torch.randint(900, (600,))
    with Largest() as seen:
        chunked_distillation(hidden, weight, hidden.detach(), teacher, target=target, chunk_size=20).backward()
    assert seen.numbers <= 20 * 900


def test_chunks_are_chosen_by_memory_and_of_one_size() -> None:
    run = _Pass.__new__(_Pass)
    sizes = {}
    for tokens, classes in ((4096, 128_000), (300, 128_000), (10_000, 1_000), (4096, 10_000_000)):
        run.hidden, run.wide = torch.empty(tokens, 1, device="meta"), torch.float32
        run.head = chunked_heads.Head(torch.empty(classes, 1, device="meta"), None)
        run.plan = type("Plan", (), {"chunk_size": None})()  # type: ignore[assignment]
        sizes[tokens, classes] = run._chunk_size()
    assert sizes == {(4096, 128_000): 512, (300, 128_000): 300, (10_000, 1_000): 10_000, (4096, 10_000_000): 32}


def test_onednns_products_and_torchs_own_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(dtype=torch.float32)
    operator = chunked_heads._find_onednn()
    assert operator is not None
    losses = []
    for each in (operator, None):
        monkeypatch.setattr(chunked_heads, "_ONEDNN", each)
        losses.append(case.chunked())
    case.same(losses[0], losses[1], 1e-5)


def test_torchs_own_products_are_taken_on_processors_of_mkls_maker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for vendor, own in (("GenuineIntel", True), ("AuthenticAMD", False)):
        told = io.StringIO(f"processor : 0\nvendor_id : {vendor}\n")
        monkeypatch.setattr(chunked_heads, "open", lambda *_, told=told, **__: told, raising=False)
        assert chunked_heads._mkl_is_at_home() is (own and torch.backends.mkl.is_available())

    def nothing(*_: object, **__: object) -> io.StringIO:
        raise FileNotFoundError

    monkeypatch.setattr(chunked_heads, "open", nothing, raising=False)
    assert not chunked_heads._mkl_is_at_home()


def test_an_onednn_operator_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert chunked_heads._find_onednn() is None


def test_the_criterion_keeps_its_terms() -> None:
    case = Case()
    criterion = ChunkedDistillationLoss(temperature=2.0, loss_types=("ce", "kd"), loss_weights=(0.2, 0.8))
    total = criterion(case.hidden, case.head, case.teacher_hidden, case.teacher_head, target=case.target)
    case.same(total, case.direct(temperature=2.0, weights=(0.2, 0.8)))
    assert list(criterion.losses) == ["CE", "KL"]
    assert not any(one.requires_grad for one in criterion.losses.values())
    torch.testing.assert_close(0.2 * criterion.losses["CE"] + 0.8 * criterion.losses["KL"], total.detach())


def test_it_draws_nothing_and_leaves_its_inputs_alone() -> None:
    case = Case()
    state = torch.get_rng_state()
    copies = [one.detach().clone() for one in (case.hidden, case.teacher_hidden, case.head.weight, case.target)]
    case.chunked(mask=torch.ones(TOKENS)).backward()
    assert torch.equal(torch.get_rng_state(), state)
    for one, copy in zip((case.hidden, case.teacher_hidden, case.head.weight, case.target), copies, strict=True):
        assert torch.equal(one.detach(), copy)


class Hooked(nn.Linear):
    """A head with a forward of its own, as adapters have."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": None}, "the CE of chunked distillation needs target=; without labels say loss_weights=(0.0, 1.0)"),
        (
            {"loss_types": ("KL", "CE")},
            "chunked distillation takes the loss_types CE and one of KL, JSD, reverse_KL, and not ['KL', 'CE']",
        ),
        ({"loss_weights": (1.0,)}, "chunked distillation has 2 loss_weights, of CE and of the divergence, and not 1"),
        ({"temperature": 0.0}, "the temperature must be above 0, and is 0.0"),
        ({"softcap": -1.0}, "the softcap must be above 0, and is -1.0"),
        ({"chunk_size": 0}, "the chunk_size must be 1 or more, and is 0"),
        ({"vocabulary": "larger"}, "vocabulary is 'student', 'teacher' or 'common', and not 'larger'"),
    ],
)
def test_options_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Case().chunked(**change)
    assert str(caught.value) == message


def test_vocabularies_of_different_sizes_are_refused_until_said() -> None:
    with pytest.raises(UsageError) as caught:
        Case(50, 44).chunked()
    assert str(caught.value) == (
        "the student has 50 classes and the teacher 44; if the first ones are the same, say vocabulary='common' "
        "(or 'student', 'teacher') to compare those and cut off the others"
    )
    with pytest.raises(UsageError) as caught:
        Case(50, 44).chunked(vocabulary="student")
    assert str(caught.value) == (
        "vocabulary='student' needs the student to have the fewer classes; the student has 50 and the teacher 44"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(5, 3)}, "the student's hidden states have shape [5, 3] and its head's weight [7, 4]; "
         "they must end with the same size"),
        ({"teacher_hidden": torch.zeros(6, 4)}, "the student has hidden states of tokens [5] and the teacher of [6]"),
        ({"target": torch.zeros(4)}, "the target has shape [4]; the tokens have [5]"),
        ({"mask": torch.zeros(5, 1)}, "the mask has shape [5, 1]; the tokens have [5]"),
        ({"head": Hooked(4, 7)}, "the student's head is Hooked with a forward or hooks of its own; "
         "pass (weight, bias) of what it computes"),
        ({"teacher_head": nn.Identity()}, "the teacher's head is Identity with a forward or hooks of its own; "
         "pass (weight, bias) of what it computes"),
        ({"head": 3}, "the student's head is nn.Linear, a weight [V, D], or (weight, bias)"),
        ({"head": (torch.zeros(7, 4), torch.zeros(4))},
         "the student's head needs a weight [V, D] and a bias [V] or None"),
    ],
)  # fmt: skip
def test_shapes_and_heads_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "hidden": torch.zeros(5, 4), "head": torch.zeros(7, 4), "teacher_hidden": torch.zeros(5, 4),
        "teacher_head": torch.zeros(7, 4), "target": torch.zeros(5),
    }  # fmt: skip
    given.update(change)
    positional = [given.pop(name) for name in ("hidden", "head", "teacher_hidden", "teacher_head")]
    with pytest.raises(ModelError) as caught:
        chunked_distillation(*positional, **given)
    assert str(caught.value) == message
