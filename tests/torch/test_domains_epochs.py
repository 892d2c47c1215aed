"""What an epoch's end asks for: validators without labels, AdaBN; and the alternating form of adversaries."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdhooks import Distillation
from kdhooks.domains import validate
from tests.torch.domain_runs import conf, data, equal, one, student, train


def test_a_validator_chooses_the_best_epoch_of_a_bare_loop() -> None:
    model = student()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    seen: list[Any] = []
    model.head.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    with Distillation(conf(validator=["entropy", "snd"]), student_model=model) as distiller:
        for _ in range(3):
            seen.clear()
            train(distiller, model, optimizer, data(3))
            distiller.on_epoch_end()
            logits = torch.cat(seen[1::2])
            expected = validate(logits.numpy(), ["entropy", "SND"], rows=4096)
            assert distiller.history[-1]["metrics"] == pytest.approx(expected)
            assert distiller.history[-1]["score"] == distiller.history[-1]["metrics"]["entropy"]
    scores = [record["score"] for record in distiller.history]
    assert distiller.best_score == min(scores) and scores[2] < scores[0]


def test_a_validator_reads_a_loader_in_evaluation_mode() -> None:
    model = student(dropout=0.5)
    batches = [t for _, _, t in data(3)]
    distiller = Distillation(conf(validator="IM"), student_model=model)
    distiller.target_eval_dataloader = batches
    with distiller:
        one(distiller, model, data(1)[0])
        state = torch.get_rng_state()
        distiller.on_epoch_end()
    assert torch.equal(state, torch.get_rng_state()) and model.training
    twin = copy.deepcopy(model).eval()
    logits = torch.cat([twin(batch) for batch in batches]).detach().numpy()
    expected = validate(logits, ["information_maximization"], rows=4096)
    assert distiller.history[-1]["metrics"] == pytest.approx(expected)


def test_a_validator_stands_beside_the_user_s_metric() -> None:
    model = student()
    distiller = Distillation(conf(validator="snd"), student_model=model)
    distiller.eval_func = lambda model: {"accuracy": 0.25}
    with distiller:
        one(distiller, model, data(1)[0])
        distiller.on_epoch_end()
    record = distiller.history[-1]
    assert record["metrics"]["accuracy"] == 0.25 and record["score"] == record["metrics"]["SND"]


def test_of_many_rows_the_last_are_kept() -> None:
    model = student()
    with Distillation(conf(validator="entropy", validator_rows=12), student_model=model) as distiller:
        train(distiller, model, torch.optim.SGD(model.parameters(), lr=0.1), data(5))
        assert len(distiller.criterion[1].predictions()) == 12
        distiller.on_epoch_end()
        train(distiller, model, torch.optim.SGD(model.parameters(), lr=0.1), data(1))
        assert len(distiller.criterion[1].predictions()) == 6


@pytest.mark.parametrize("evaluation", [False, True])
def test_adabn_sets_the_statistics_of_the_target_before_an_evaluation(evaluation: bool) -> None:
    model = student()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(t, torch.zeros(len(t))) for _, _, t in data(4)]
    distiller = Distillation(conf({"AdaBN": {}, "MCC": {}}), student_model=model)
    setattr(distiller, "target_eval_dataloader" if evaluation else "target_dataloader", batches)
    found: list[Any] = []
    distiller.eval_func = lambda model: found.append(model.body[1].running_mean.clone()) or 0.5
    with distiller:
        train(distiller, model, optimizer, data(3))
        distiller.on_epoch_end()
        rows = model.body[0](torch.cat([t for t, _ in batches])).detach()
        torch.testing.assert_close(found[0], rows.mean(0))
        train(distiller, model, optimizer, data(2))
    rows = model.body[0](torch.cat([t for t, _ in batches])).detach()  # the run's end does it as well
    torch.testing.assert_close(model.body[1].running_mean, rows.mean(0))
    torch.testing.assert_close(model.body[1].running_var, rows.var(0))


def test_adversaries_take_steps_of_their_own() -> None:
    model = student()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    adversary = {"steps": 2, "optimizer": {"SGD": {"learning_rate": 0.05}}}
    reversal = {"low": 1, "high": 1}
    settings = conf(alternating=True, adversary=adversary, reversal=reversal)
    with Distillation(settings, student_model=model) as distiller:
        one(distiller, model, data(1)[0])
        assert not list(distiller.parameters())
        criterion = distiller.criterion[1]
        own = criterion._work.placed[0].adapter
        twin, free = copy.deepcopy(own), copy.deepcopy(model)
        batch = data(2)[1]
        optimizer.zero_grad()
        one(distiller, model, batch).backward()
        assert all(parameter.grad is None and parameter.requires_grad for parameter in own.parameters())
    mine, theirs = (free.body[:3](x) for x in (batch[0], batch[2]))
    steps = torch.optim.SGD(twin.parameters(), lr=0.05)
    for _ in range(2):
        steps.zero_grad()
        _domain_loss(twin, mine.detach(), theirs.detach()).backward()
        steps.step()
    torch.testing.assert_close(own.state_dict(), twin.state_dict())
    loss = F.cross_entropy(free.head(mine), batch[1]) - _domain_loss(twin, mine, theirs)
    loss.backward()
    torch.testing.assert_close(model.body[0].weight.grad, free.body[0].weight.grad)


def _domain_loss(adapter: Any, mine: Any, theirs: Any) -> Any:
    source, target = adapter.discriminator(mine), adapter.discriminator(theirs)
    return F.softplus(-source).mean() + F.softplus(target).mean()


def test_alternating_takes_no_step_in_evaluation() -> None:
    model = student()
    with Distillation(conf(alternating=True), student_model=model) as distiller:
        one(distiller, model, data(1)[0])
        own = distiller.criterion[1]._work.placed[0].adapter
        before = copy.deepcopy(own)
        model.eval()
        one(distiller, model, data(1)[0])
        assert equal(own, before)
        model.train()
        one(distiller, model, data(1)[0])
        assert not equal(own, before)


def test_methods_that_split_the_student_know_their_parts() -> None:
    model = student()
    criterion = {"ADDA": {"layer": "body.2", "encoder": "body"}, "MCD": {"head": "head"}, "MDD": {"head": "head"}}
    for alternating in (False, True):
        with Distillation(conf(criterion, alternating=alternating), student_model=model) as distiller:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            train(distiller, model, optimizer, data(4))
            found = distiller.losses
        assert set(found) >= {"CE", "ADDA", "ADDA.domain_accuracy", "MCD", "MDD", "total"}
        assert all(map(torch.isfinite, map(torch.tensor, found.values())))


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = student()

    def forward(self, x: Any) -> Any:
        return self.inner.head(input=self.inner.body(x))
