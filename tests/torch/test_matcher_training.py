"""Matchers train in loops that know nothing of them: every kind of loop that people write."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import lr_scheduler

from kdhooks import Distillation
from tests.torch.hidden_models import Net, all_equal, distillation, models, total_of, weights
from tests.torch.small_models import batches, made, same_weights

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "AdamW groups": lambda p: torch.optim.AdamW([{"params": [one]} for one in p], lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.005),
    "named": lambda p: torch.optim.SGD([(str(index), one) for index, one in enumerate(p)], lr=0.05),
}


def step_of(optimizer: torch.optim.Optimizer, student: nn.Module) -> Callable[[Tensor], None]:
    def step(total: Tensor) -> None:
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def run_steps(
    distiller: Distillation, student: nn.Module, step: Callable[[Tensor], None], count: int = 30
) -> tuple[list[Tensor], list[Tensor], list[float]]:
    """Weights after the first loss and at the end, and the losses of the first pair."""
    data, losses, begun = batches(), [], []
    for index in range(count):
        total = total_of(distiller, student, *data[index % len(data)])
        begun = begun or weights(distiller)
        step(total)
        losses.append(distiller.losses["MSE[first]"])
    return begun, weights(distiller), losses


def assert_trained(begun: list[Tensor], ended: list[Tensor], losses: list[float]) -> None:
    assert len(begun) == 2 and not any(map(torch.equal, begun, ended))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("told", [True, False])
def test_in_a_plain_loop(name: str, told: bool) -> None:
    student, teacher = models()
    optimizer = OPTIMIZERS[name](list(student.parameters()))
    before = [list(group["params"]) for group in optimizer.param_groups]
    distiller = distillation(student, teacher)
    distiller.on_train_begin(optimizer=optimizer if told else None)
    assert_trained(*run_steps(distiller, student, step_of(optimizer, student)))
    distiller.on_train_end()
    assert [[id(p) for p in group] for group in before] == [
        [id(p) for p in group["params"]] for group in optimizer.param_groups
    ]
    assert {id(p) for p in optimizer.state} == {id(p) for group in before for p in group} - (
        {id(p) for group in before for p in group} if name == "named" else set()
    )
    assert surface(optimizer) == surface(OPTIMIZERS[name](list(student.parameters())))


def surface(optimizer: torch.optim.Optimizer) -> dict[str, int]:
    return {key: len(value) for key, value in vars(optimizer).items() if "hook" in key}


def test_an_optimizer_made_after_the_beginning_and_after_the_first_loss() -> None:
    student, teacher = models()
    with distillation(student, teacher) as distiller:
        total_of(distiller, student, *batches()[0])
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
        begun, ended, losses = run_steps(distiller, student, step_of(optimizer, student))
        assert_trained(begun, ended, losses)
        assert len(optimizer.param_groups[0]["params"]) == len(list(student.parameters())) + 2
    assert len(optimizer.param_groups[0]["params"]) == len(list(student.parameters()))


def test_the_optimizer_that_steps_gets_them_and_not_one_of_an_earlier_phase() -> None:
    student, teacher = models()
    old = torch.optim.SGD(student.parameters(), lr=0.1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    with distillation(student, teacher) as distiller:
        assert_trained(*run_steps(distiller, student, step_of(optimizer, student)))
        ours = {id(parameter) for parameter in distiller.parameters()}
        assert not any(id(p) in ours for p in old.param_groups[0]["params"])
        assert sum(id(p) in ours for p in optimizer.param_groups[0]["params"]) == 2
    del old
    gc.collect()


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "OneCycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=40),
    "Lambda": lambda o: lr_scheduler.LambdaLR(o, [lambda step: 0.99**step] * len(o.param_groups)),
    "Plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=100, min_lr=[0.0] * len(o.param_groups)),
    "Cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=60),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_with_a_scheduler_made_before(name: str) -> None:
    student, teacher = models()
    groups = [{"params": student.first.parameters(), "lr": 0.02}, {"params": student.head.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    scheduler = SCHEDULERS[name](optimizer)
    step = step_of(optimizer, student)

    def both(total: Tensor) -> None:
        step(total)
        scheduler.step(*([1.0] if name == "Plateau" else []))

    with distillation(student, teacher) as distiller:
        assert_trained(*run_steps(distiller, student, both))
        assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize("set_to_none", [True, False])
def test_with_zero_grad_of_the_model(set_to_none: bool) -> None:
    def final(clear: Callable[[nn.Module, torch.optim.Optimizer], None]) -> list[Tensor]:
        student, teacher = models()
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)

        def step(total: Tensor) -> None:
            clear(student, optimizer)
            total.backward()
            optimizer.step()

        with distillation(student, teacher) as distiller:
            return run_steps(distiller, student, step, 6)[1]

    assert all_equal(
        final(lambda model, _: model.zero_grad(set_to_none=set_to_none)), final(lambda _, opt: opt.zero_grad())
    )


def test_accumulation_adds_up_and_a_cleared_accumulation_begins_anew() -> None:
    student, teacher = models()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    data = batches()
    with distillation(student, teacher) as distiller:
        grads = []
        for x, y in data[:3]:
            (total_of(distiller, student, x, y) / 3).backward()
            grads.append([p.grad.clone() for p in distiller.parameters()])
        student.zero_grad(set_to_none=True)  # given up without a step
        (total_of(distiller, student, *data[0]) / 3).backward()
        assert all_equal(grads[0], [p.grad for p in distiller.parameters()])
        (total_of(distiller, student, *data[1]) / 3).backward()
        (total_of(distiller, student, *data[2]) / 3).backward()
        assert all_equal(grads[2], [p.grad for p in distiller.parameters()])
        student.zero_grad(set_to_none=False)
        (total_of(distiller, student, *data[0]) / 3).backward()
        assert all_equal(grads[0], [p.grad for p in distiller.parameters()])
        optimizer.step()
        assert [p.grad for p in distiller.parameters()] == [None, None]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_infinite_gradients_do_not_stick_where_ranks_train_together(
    set_to_none: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdhooks.torch.guests.average", lambda parameters, group: None)
    monkeypatch.setattr("kdhooks.torch.guests.process_group", lambda student, found: object())
    student, teacher = models()
    data = batches()
    with distillation(student, teacher) as distiller:
        (total_of(distiller, student, *data[0]) * float("inf")).backward()
        assert not any(parameter.grad.isfinite().all() for parameter in distiller.parameters())
        student.zero_grad(set_to_none=set_to_none)
        total_of(distiller, student, *data[0]).backward()
        alone = [parameter.grad.clone() for parameter in distiller.parameters()]
        assert all(gradient.isfinite().all() for gradient in alone)
        total_of(distiller, student, *data[0]).backward()  # and what is not cleared adds up
        for parameter, gradient in zip(distiller.parameters(), alone, strict=True):
            torch.testing.assert_close(parameter.grad, 2 * gradient)


@pytest.mark.parametrize("clear", ["optimizer", "model", "model zeros"])
@pytest.mark.parametrize("clip", [True, False])
def test_with_a_grad_scaler_that_skips_steps(clear: str, clip: bool) -> None:
    student, teacher = models()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=13)
    data, losses, begun, skipped = batches(), [], [], 0
    with distillation(student, teacher) as distiller:
        for index in range(60):
            with torch.autocast("cpu", torch.float16):
                total = total_of(distiller, student, *data[index % len(data)])
            begun = begun or weights(distiller)
            if clear == "optimizer":
                optimizer.zero_grad()
            else:
                student.zero_grad(set_to_none=clear == "model")
            scaler.scale(total).backward()
            if clip:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            skipped += scaler.get_scale() < before
            losses.append(distiller.losses["MSE[first]"])
        assert_trained(begun, weights(distiller), losses)
        assert all(parameter.isfinite().all() for parameter in distiller.parameters())
    assert 0 < skipped < 30


def test_with_autocast_in_the_matcher() -> None:
    student, teacher = models()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    data = batches()
    with distillation(student, teacher) as distiller:
        seen = []
        for index in range(30):
            x, y = data[index % len(data)]
            with torch.autocast("cpu", torch.bfloat16):
                output = student(x)
                total = distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y))
                matcher = distiller.criterion.feature_matchers[0]
                seen.append(matcher(output.new_zeros(2, 8), output.new_zeros(2, 12))[0].dtype)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        assert set(seen) == {torch.bfloat16}
        assert {parameter.dtype for parameter in distiller.parameters()} == {torch.float32}
        assert distiller.losses["MSE[first]"] < 0.5


@pytest.mark.parametrize("clear", ["optimizer", "model"])
def test_with_lbfgs(clear: str) -> None:
    student, teacher = models()
    optimizer = torch.optim.LBFGS(student.parameters(), lr=0.2, max_iter=4)
    x, y = batches()[0]
    with distillation(student, teacher) as distiller:
        losses = []

        def closure() -> Tensor:
            total = total_of(distiller, student, x, y)
            optimizer.zero_grad() if clear == "optimizer" else student.zero_grad()
            total.backward()
            losses.append(distiller.losses["MSE[first]"])
            return total

        optimizer.step(closure)
        begun = weights(distiller)
        for _ in range(5):
            optimizer.step(closure)
        assert not any(map(torch.equal, begun, weights(distiller)))
        assert losses[-1] < 0.5 * losses[0]
        state = optimizer.state_dict()
    size = sum(parameter.numel() for parameter in student.parameters())
    assert {len(one) for one in (state["state"][0]["d"], *state["state"][0]["old_dirs"])} == {size}
    assert len(optimizer.state[optimizer.param_groups[0]["params"][0]]["d"]) == size
    alone = torch.optim.LBFGS(student.parameters(), lr=0.2, max_iter=4)
    alone.load_state_dict(state)

    def plain() -> Tensor:
        alone.zero_grad()
        loss = F.cross_entropy(student(x), y)
        loss.backward()
        return loss

    alone.step(plain)
    optimizer.step(plain)  # and the one that had guests goes on without them


def test_with_two_optimizers_one_takes_them() -> None:
    student, teacher = models()
    first = torch.optim.SGD(student.first.parameters(), lr=0.05, momentum=0.9)
    rest = torch.optim.AdamW([*student.block.parameters(), *student.head.parameters()], lr=0.01)

    def step(total: Tensor) -> None:
        for optimizer in (first, rest):
            optimizer.zero_grad()
        total.backward()
        for optimizer in (first, rest):
            optimizer.step()

    with distillation(student, teacher) as distiller:
        assert_trained(*run_steps(distiller, student, step))
        ours = {id(parameter) for parameter in distiller.parameters()}
        counts = [sum(id(p) in ours for g in one.param_groups for p in g["params"]) for one in (first, rest)]
        assert sorted(counts) == [0, 2]


def test_parameters_that_the_user_gave_to_an_optimizer_stay_there() -> None:
    student, teacher = models()
    distiller = distillation(student, teacher)
    distiller.on_train_begin([batches()[0]])
    ours = list(distiller.parameters())
    assert len(ours) == 2
    optimizer = torch.optim.SGD([*student.parameters(), *ours], lr=0.05, momentum=0.9)
    assert_trained(*run_steps(distiller, student, step_of(optimizer, student)))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(student.parameters())) + 2
    distiller.on_train_end()
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(student.parameters())) + 2


def test_matchers_that_nobody_trains_are_told(caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = models()
    with distillation(student, teacher) as distiller:
        total_of(distiller, student, *batches()[0]).backward()
    assert [record.message for record in caplog.records if "matchers" in record.message] == [
        "the feature matchers were not trained: no optimizer of the student stepped. Pass the optimizer to "
        "on_train_begin(optimizer=...), or give it distiller.parameters()"
    ]


def test_the_same_parameters_whatever_the_users_generator_and_untouched(tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        student, teacher = models()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        with distillation(student, teacher) as distiller:
            total_of(distiller, student, *batches()[0])
            found.append(weights(distiller))
        assert torch.equal(torch.get_rng_state(), before)
    assert all_equal(*found)


def test_weight_zero_has_no_guests_and_no_hooks() -> None:
    student, teacher = models()
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    plain = made(1, Net)
    other = torch.optim.AdamW(plain.parameters(), lr=0.01)
    with distillation(student, teacher, loss_weights=[0, 0]) as distiller:
        for x, y in batches():
            total = total_of(distiller, student, x, y)
            optimizer.zero_grad(), total.backward(), optimizer.step()
            other.zero_grad(), F.cross_entropy(plain(x), y).backward(), other.step()
            assert not any(module._forward_hooks for module in student.modules())
        assert list(distiller.parameters()) == []
    assert same_weights(student, plain)
