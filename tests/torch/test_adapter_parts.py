"""Second heads, frozen encoders and statistics of the target: what one adapter has and the others have not."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdhooks.errors import DataError, ModelError
from kdhooks.torch.adaptation import ADDA, MCD, MDD, DomainBatch, adapt_batch_norm, entropy, mcc
from tests.torch.adapter_parts import Parts, adapter_of, domains_of


def slopes(value: Tensor, *modules: nn.Module) -> list[bool]:
    """Which of these modules get a gradient that is not 0."""
    parameters = [list(module.parameters()) for module in modules]
    found = torch.autograd.grad(value, list(itertools.chain(*parameters)), allow_unused=True)
    moved = iter([one is not None and bool(one.any()) for one in found])
    return [any([next(moved) for _ in side]) for side in parameters]


def test_the_alternating_steps_of_mcd_train_what_the_paper_says() -> None:
    student = Parts()
    adapter, (source, target) = adapter_of("mcd", student), domains_of("mcd", student)
    adapter.build(source, target)
    assert isinstance(adapter, MCD)
    parts = student.encoder, student.head, adapter.auxiliary
    assert slopes(adapter.auxiliary_loss(source), *parts) == [True, False, True]
    assert slopes(adapter.heads_loss(source, target), *parts) == [False, True, True]
    assert slopes(adapter.encoder_loss(target), *parts) == [True, False, False]
    apart = adapter.encoder_loss(target)
    assert torch.equal(adapter(source, target), adapter.auxiliary_loss(source) - apart)
    labelled = nn.functional.cross_entropy(source.logits, source.labels) + adapter.auxiliary_loss(source)
    torch.testing.assert_close(adapter.heads_loss(source, target), labelled - apart)


def test_the_alternating_steps_of_adda_train_what_the_paper_says() -> None:
    student = Parts()
    adapter, (source, target) = adapter_of("adda", student), domains_of("adda", student)
    adapter.build(source, target)
    assert isinstance(adapter, ADDA)
    parts = student.encoder, adapter.discriminator
    assert slopes(adapter.discriminator_loss(source, target), *parts) == [False, True]
    assert slopes(adapter.encoder_loss(target), *parts) == [True, False]
    assert torch.equal(adapter(source, target), adapter.discriminator_loss(source, target))


def test_the_source_encoder_of_adda_stays_as_it_was() -> None:
    student = Parts()
    student.encoder.append(nn.Dropout(0.5))
    adapter, batches = adapter_of("adda", student), domains_of("adda", student)
    called: list[int] = []
    handle = student.encoder.register_forward_hook(lambda *_: called.append(1))
    first = adapter(*batches)
    with torch.no_grad():
        student.encoder[0].weight.add_(1.0)  # type: ignore[operator]
    adapter.train()
    assert torch.equal(adapter(*batches), first) and not called
    assert isinstance(adapter, ADDA) and not adapter.source_encoder.training
    assert not any(one.requires_grad for one in adapter.source_encoder.parameters())
    assert not torch.equal(adapter.source_encoder[0].weight, student.encoder[0].weight)  # type: ignore[index]
    handle.remove()


class NormedHead(nn.Module):
    """A head with everything that a second run could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.last = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.drop(self.norm(x))) @ self.scale
        return logits


@pytest.mark.parametrize("name", ["mcd", "mdd"])
def test_a_second_run_of_the_head_moves_nothing(name: str) -> None:
    student = Parts()
    student.head = NormedHead()  # type: ignore[assignment]
    adapter, batches = adapter_of(name, student), domains_of(name, student)
    called: list[int] = []
    student.head.norm.register_forward_hook(lambda *_: called.append(1))  # type: ignore[union-attr]
    before, state = copy.deepcopy(student.state_dict()), torch.get_rng_state()
    adapter(*batches).backward()
    assert all(torch.equal(one, before[key]) for key, one in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and not called
    assert isinstance(adapter, (MCD, MDD))
    second: Any = adapter.auxiliary if isinstance(adapter, MCD) else adapter.adversary
    assert not torch.equal(second.scale, student.head.scale)  # type: ignore[operator]
    assert not second.norm._forward_hooks


def test_a_head_of_another_form_is_refused() -> None:
    student = Parts()
    batches = domains_of("mdd", student)
    adapter = adapter_of("mdd")
    adapter.attach(None, nn.Linear(4, 5))
    with pytest.raises(ModelError) as caught:
        adapter(*batches)
    assert str(caught.value) == (
        "the adapter 'mdd' needs a head that makes logits of shape [6, 3] of its input, and it makes [6, 5]"
    )


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_weight_that_a_hook_makes_is_refused() -> None:
    head = torch.nn.utils.weight_norm(nn.Linear(4, 3))
    adapter = adapter_of("mdd")
    adapter.attach(None, head)
    with pytest.raises(ModelError) as caught:
        adapter(*domains_of("mdd", Parts()))
    assert str(caught.value) == (
        "the student's Linear makes its weight in a hook of torch.nn.utils, which a copy would lack; "
        "use torch.nn.utils.parametrizations instead"
    )


def test_pixels_count_as_rows_for_entropy_and_mcc() -> None:
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    rows = logits.permute(0, 2, 3, 1).reshape(-1, 3)
    torch.testing.assert_close(entropy(logits), entropy(rows))
    torch.testing.assert_close(mcc(logits, temperature=2.0), mcc(rows, temperature=2.0))
    tokens = rows.reshape(4, 10, 3)
    torch.testing.assert_close(entropy(tokens), entropy(rows))
    torch.testing.assert_close(mcc(tokens.movedim(2, 1), temperature=2.0, axis=1), mcc(rows, temperature=2.0))


def test_mcd_on_pixels() -> None:
    head = nn.Conv2d(4, 3, 1)
    maps = [torch.randn(n, 4, 3, 3, requires_grad=True) for n in (3, 2)]
    labels = torch.randint(-1, 3, (3, 3, 3))
    source, target = DomainBatch((maps[0],), head(maps[0]), labels), DomainBatch((maps[1],), head(maps[1]))
    adapter = MCD()
    adapter.attach(None, head)
    adapter(source, target).backward()
    assert all(one.grad is not None and bool(one.grad.any()) for one in maps)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.second = nn.BatchNorm2d(2), nn.Dropout(0.9), nn.BatchNorm1d(2, momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.drop(self.first(x).mean((2, 3))))
        return out


def test_batch_norm_gets_the_statistics_of_all_rows_of_the_target() -> None:
    model = Normed().double()
    model.second.eval()
    batches = [torch.randn(n, 2, 3, 3, dtype=torch.float64) + n for n in (4, 2, 1)]
    before, modes = copy.deepcopy(model.state_dict()), [one.training for one in model.modules()]
    state = torch.get_rng_state()
    assert adapt_batch_norm(model, [batches[0], (batches[1], torch.zeros(2)), {"x": batches[2], "labels": 0}]) is model
    values = np.concatenate([one.numpy().transpose(0, 2, 3, 1).reshape(-1, 2) for one in batches])
    np.testing.assert_allclose(model.first.running_mean, values.mean(0), rtol=1e-12)  # type: ignore[arg-type]
    np.testing.assert_allclose(model.first.running_var, values.var(0, ddof=1), rtol=1e-12)  # type: ignore[arg-type]
    deeper = []
    for one in batches:  # each normalised with its own batch
        mean, spread = one.mean((0, 2, 3), keepdim=True), one.var((0, 2, 3), keepdim=True, unbiased=False)
        deeper.append(((one - mean) / (spread + model.first.eps).sqrt()).mean((2, 3)))
    rows = torch.cat(deeper)
    torch.testing.assert_close(model.second.running_mean, rows.mean(0))
    torch.testing.assert_close(model.second.running_var, rows.var(0))
    assert [one.training for one in model.modules()] == modes and torch.equal(torch.get_rng_state(), state)
    same = [key for key in before if not key.endswith(("running_mean", "running_var"))]
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in same)
    assert not model.first._forward_pre_hooks


def test_batch_norm_is_as_before_where_the_target_fails() -> None:
    model = Normed()
    before, modes = copy.deepcopy(model.state_dict()), [one.training for one in model.modules()]
    with pytest.raises(RuntimeError):
        adapt_batch_norm(model, [torch.randn(4, 2, 3, 3), torch.randn(4, 7, 3, 3)])
    assert all(torch.equal(one, before[key]) for key, one in model.state_dict().items())
    assert [one.training for one in model.modules()] == modes and not model.first._forward_pre_hooks


def test_what_adabn_can_not_do() -> None:
    for model, batches, kind, message in (
        (
            nn.Sequential(nn.Linear(1, 1)),
            [torch.ones(2, 1)],
            ModelError,
            "Sequential has no BatchNorm that keeps statistics, so AdaBN has nothing to adapt",
        ),
        (nn.BatchNorm1d(1), [], DataError, "AdaBN needs at least one batch of the target, and got none"),
        (
            nn.BatchNorm1d(1),
            [torch.ones(1, 1)],
            DataError,
            "AdaBN needs more than one row of the target: a variance of one value is 0",
        ),
        (nn.BatchNorm1d(1), [()], DataError, "AdaBN needs batches with inputs, and got an empty one"),
    ):
        with pytest.raises(kind) as caught:
            adapt_batch_norm(model, batches)
        assert str(caught.value) == message
