"""What holds for every adapter besides its formula, which `tests/contract` holds."""

from __future__ import annotations

import copy
import inspect
import pickle
import random
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from kdhooks.adaptation import ADAPTER_RULES
from kdhooks.errors import ModelError, UsageError
from kdhooks.torch.adaptation import ADAPTERS, DomainBatch, reverse_gradient
from tests.torch.adapter_parts import Parts, adapter_of, batch_of, domains_of
from tests.torch.test_no_sync import NoLooking

OURS = sorted(set(ADAPTERS) - {"cac"})
every = pytest.mark.parametrize("name", OURS)
OWNERS = ("dann", "cdan", "adda", "mcd", "mdd")
owning = pytest.mark.parametrize("name", OWNERS)


def states() -> list[Any]:
    return [random.getstate(), numpy.random.get_state(legacy=True)[1].tolist(), torch.get_rng_state().tolist()]


@every
def test_the_table_says_what_the_rules_say(name: str) -> None:
    made, rules = ADAPTERS[name], ADAPTER_RULES[name]
    assert (made.name, made.layers, made.adversarial) == (rules.name, rules.layers, rules.adversarial)
    assert (made.needs, made.labelled) == (rules.modules, rules.labelled)
    parameters = inspect.signature(made).parameters.values()
    written = {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}
    assert written == {key: option.default for key, option in rules.options.items()}
    assert (
        made.__doc__ and ADAPTERS[rules.title.replace("Deep ", "").replace("entropy minimisation", "entropy")] is made
    )


@every
def test_nothing_of_the_student_is_ours_and_nothing_of_ours_the_students(name: str) -> None:
    student = Parts()
    before, numbers = list(student.named_modules()), copy.deepcopy(student.state_dict())
    adapter = adapter_of(name, student)
    adapter(*domains_of(name, student)).requires_grad_().backward()
    assert list(student.named_modules()) == before and all(part.training for part in student.modules())
    assert all(torch.equal(one, numbers[key]) for key, one in student.state_dict().items())
    assert not {id(one) for one in adapter.parameters()} & {id(one) for one in student.parameters()}
    assert nn.Sequential(student.encoder, student.head)(torch.ones(2, 5)).shape == (2, 3)  # nothing was put into it


@every
def test_the_users_generators_do_not_move(name: str) -> None:
    student = Parts()
    adapter, batches = adapter_of(name, student), domains_of(name, student)
    before = states()
    adapter(*batches)
    adapter(*batches)
    assert states() == before


@owning
def test_the_seed_decides_and_the_users_does_not(name: str) -> None:
    def parameters(seed: int) -> list[torch.Tensor]:
        student = Parts()
        adapter = adapter_of(name, student, seed=seed)
        adapter.build(*domains_of(name, student))
        return [one for key, one in adapter.state_dict().items() if "source_encoder" not in key]

    first = parameters(0)
    torch.manual_seed(5)
    assert all(map(torch.equal, first, parameters(0)))
    assert not any(map(torch.equal, first, parameters(1)))


def test_a_second_head_is_not_the_first_where_seeds_agree() -> None:
    torch.manual_seed(0)
    head = nn.Linear(4, 3)
    for name, part in (("mcd", "auxiliary"), ("mdd", "adversary")):
        adapter = adapter_of(name, None, seed=0)
        adapter.attach(None, head)
        adapter.build(*domains_of(name, Parts()))
        assert not torch.equal(getattr(adapter, part).weight, head.weight)


@every
def test_an_evaluation_counts_nothing_and_the_state_is_tensors(name: str) -> None:
    student = Parts()
    adapter, batches = adapter_of(name, student), domains_of(name, student)
    first = adapter(*batches, coefficient=0.5)
    before = copy.deepcopy(adapter.state_dict())
    adapter.eval()
    with torch.no_grad():
        for _ in range(3):
            adapter(*batches, coefficient=0.5)
    adapter.train()
    assert all(torch.equal(one, before[key]) for key, one in adapter.state_dict().items())
    assert set(adapter.state_dict()) == set(before) and all(isinstance(one, torch.Tensor) for one in before.values())
    assert torch.equal(adapter(*batches, coefficient=0.5), first)


@owning
def test_a_state_waits_for_the_first_batch(name: str) -> None:
    student = Parts()
    trained, batches = adapter_of(name, student), domains_of(name, student)
    trained.build(*batches)
    with torch.no_grad():
        for one in trained.parameters():
            one.add_(1.0)
    resumed = adapter_of(name, student)
    resumed.load_state_dict(pickle.loads(pickle.dumps(trained.state_dict())))
    again = adapter_of(name, student)
    again.load_state_dict(resumed.state_dict())  # saved once more before its first batch
    for one in (resumed, again):
        assert torch.equal(one(*batches), trained(*batches))
        assert all(map(torch.equal, one.state_dict().values(), trained.state_dict().values()))


def test_a_state_of_another_width_is_refused() -> None:
    student = Parts()
    wide, narrow = adapter_of("dann", hidden_size=9), adapter_of("dann", hidden_size=6)
    wide.build(*domains_of("dann", student))
    narrow.load_state_dict(wide.state_dict())
    with pytest.raises(ModelError) as caught:
        narrow.build(*domains_of("dann", student))
    assert str(caught.value) == (
        "the state of the adapter 'dann' doesn't fit the first batch: size mismatch for discriminator.layers.2.weight: "
        "copying a param with shape torch.Size([1, 9]) from checkpoint, "
        "the shape in current model is torch.Size([1, 6])."
    )


@every
def test_one_row_in_each_domain(name: str) -> None:
    student = Parts()
    value = adapter_of(name, student)(*domains_of(name, student, 1, 1))
    value.requires_grad_().backward()
    assert value.isfinite() and all(one.grad is None or one.grad.isfinite().all() for one in student.parameters())


@every
@pytest.mark.parametrize("scale", [0.0, 1e4, 1e30])
def test_saturated_logits_and_equal_rows_are_finite(name: str, scale: float) -> None:
    if name == "adda":  # it looks at no logits
        scale = min(scale, 1e4)
    generator = torch.Generator().manual_seed(3)
    leaves = [(torch.randn(n, 3, generator=generator) * scale).requires_grad_() for n in (5, 4)]
    rows = [torch.full((n, 4), 7.0).requires_grad_() for n in (5, 4)]
    student = Parts()
    batches = []
    for one, logits in zip(rows, leaves, strict=True):
        taken = (one,) if ADAPTERS[name].layers[1] != 0 else ()
        labels, inputs = torch.zeros(len(one)).long(), (torch.ones(len(one), 5),)
        batches.append(DomainBatch(taken, logits, labels, one, inputs))
    value = adapter_of(name, student)(*batches)
    value.requires_grad_().backward()
    assert value.isfinite()
    for one in (*leaves, *rows, *student.parameters()):
        assert one.grad is None or one.grad.isfinite().all()


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_compute_as_float32(name: str, dtype: torch.dtype) -> None:
    student = Parts()
    batches = [one for one in domains_of(name, student)]

    def turned(batch: DomainBatch, kind: torch.dtype) -> DomainBatch:
        assert batch.head_input is not None
        inputs = tuple(one.to(dtype).to(kind) for one in batch.encoder_inputs)
        logits, given = (one.detach().to(dtype).to(kind) for one in (batch.logits, batch.head_input))
        features = tuple(one.detach().to(dtype).to(kind) for one in batch.features)
        return DomainBatch(features, logits, batch.labels, given, inputs)

    expected = adapter_of(name, student)(*(turned(one, torch.float32) for one in batches))
    with torch.autocast("cpu", torch.bfloat16):
        inside = adapter_of(name, student)(*(turned(one, dtype) for one in batches))
    outside = adapter_of(name, student)(*(turned(one, dtype) for one in batches))
    assert torch.equal(inside, expected) and torch.equal(outside, expected)
    assert expected.dtype == inside.dtype == outside.dtype == torch.float32


@every
def test_no_step_waits_for_the_device(name: str) -> None:
    student = Parts()
    adapter, batches = adapter_of(name, student), domains_of(name, student)
    adapter.build(*batches)
    with NoLooking():
        adapter(*batches, coefficient=torch.tensor(0.5)).requires_grad_().backward()
        adapter.measures()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, of its tracing
def test_the_reversal_takes_a_tensor_and_compiles_whole() -> None:
    student = Parts()
    adapter, batches = adapter_of("dann"), domains_of("dann", student)
    adapter.build(*batches)
    found = []
    compiled = torch.compile(adapter, backend="aot_eager", fullgraph=True)
    for step in (adapter, compiled):
        leaf = batches[0].features[0].detach().requires_grad_()
        source = DomainBatch((leaf,), batches[0].logits.detach())
        target = DomainBatch((batches[1].features[0].detach(),), batches[1].logits.detach())
        (slope,) = torch.autograd.grad(step(source, target, coefficient=torch.tensor(0.25)), leaf)
        found.append(slope)
    torch.testing.assert_close(found[0], found[1])
    x = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    reverse_gradient(x, torch.tensor(0.5)).float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16 and x.grad.tolist() == [-0.5] * 3


def test_an_entropy_weight_belongs_to_its_row() -> None:
    """A [B, 1] of losses times a [B] of weights would be a [B, B], in which every row has every weight."""
    student, source, target = Parts(), *domains_of("cdan", Parts())
    adapter = adapter_of("cdan", student, randomized=False)
    adapter.build(source, target)
    sure = source.logits.detach() * 0
    surer = sure.clone()
    surer[0] = torch.tensor([50.0, 0.0, 0.0])

    def slope(logits: torch.Tensor) -> torch.Tensor:
        leaf = source.features[0].detach().requires_grad_()
        value = adapter(DomainBatch((leaf,), logits), target)
        (found,) = torch.autograd.grad(value, leaf)
        return found

    before, after = slope(sure), slope(surer)
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1:], after[1:])


def test_batches_that_do_not_fit() -> None:
    student = Parts()
    source, target = domains_of("dann", student)
    adapter = adapter_of("dann")
    adapter.build(source, target)
    other = DomainBatch((torch.ones(3, 9),), torch.ones(3, 3))
    logits_only = [DomainBatch((), one.logits) for one in (source, target)]
    pixels = DomainBatch((torch.ones(2, 4),), torch.ones(2, 3, 5, 5))
    misfits: list[tuple[Any, Any, str]] = [
        (
            adapter,
            (source, other),
            "the adapter 'dann' needs features of one width in both domains; the source's has shape [6, 4] and the "
            "target's [3, 9]",
        ),
        (
            adapter,
            (other, other),
            "the discriminator of 'dann' was made for rows of 4 numbers, and gets rows of 9; the first batch decides, "
            "so make a new adapter for another model",
        ),
        (
            adapter_of("coral"),
            (source, logits_only[1]),
            "the adapter 'coral' needs features of the same layers in both domains, and gets 1 of the source and 0 of "
            "the target",
        ),
        *(
            (
                adapter_of(name),
                batches,
                f"the adapter {name!r} needs the student's {part}: name its layer with {part}: in its options",
            )
            for name, part, batches in (
                ("mcd", "head", (source, target)),
                ("adda", "encoder", (source, target)),
                ("mdd", "head", logits_only),
            )
        ),
        (
            adapter_of("cdan"),
            (pixels, pixels),
            "the adapter 'cdan' needs logits [N, C], and they have shape [2, 3, 5, 5]; for segmentation use cac",
        ),
    ]
    for made, batches, message in misfits:
        with pytest.raises(ModelError) as caught:
            made(*batches)
        assert str(caught.value) == message
    unlabelled = DomainBatch(source.features, source.logits, None, source.head_input)
    with pytest.raises(UsageError) as missing:
        adapter_of("mcd", student)(unlabelled, target)
    assert str(missing.value) == "the adapter 'mcd' needs the source's labels: pass target= to on_after_compute_loss"


def test_space_of_another_size_is_averaged() -> None:
    logits = torch.ones(2, 3)
    maps = [DomainBatch((torch.randn(2, 4, side, side),), logits) for side in (3, 5)]
    for name in ("dann", "cdan", "mk_mmd", "jan", "coral", "bsp", "afn"):
        assert adapter_of(name, pool="mean")(*maps).isfinite()
    with pytest.raises(ModelError, match="pool: mean takes the mean over space or tokens"):
        adapter_of("dann")(*maps)


def test_a_batch_of_the_adapter_may_be_of_the_student_alone() -> None:
    student = Parts()
    x = torch.randn(3, 5)
    one = batch_of("afn", student, x)
    assert adapter_of("afn")(one, one).item() == pytest.approx(1.0)
