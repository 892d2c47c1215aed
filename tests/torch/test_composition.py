"""Distillation, weight transfer and domain adaptation in one loop: any two of them, and all three."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation
from tests.torch.small_models import Classifier, batches, made, same_weights

PARTS = ("distillation", "finetune", "domain_adaptation")
COMBINATIONS = [set(some) for count in (1, 2, 3) for some in itertools.combinations(PARTS, count)]
combined = pytest.mark.parametrize("parts", COMBINATIONS, ids=lambda parts: "+".join(sorted(parts)))


def student() -> Any:
    return made(1, lambda: Classifier(dropout=0.0))


def pretrained() -> Any:
    return made(3, lambda: Classifier(classes=9))


def settings(parts: set[str], *, kd: Any = 0.6, dann: Any = 0.3, mcc: Any = 0.2) -> dict[str, Any]:
    sections = {
        "distillation": {
            "train": {"criterion": {"KnowledgeDistillationLoss": {"temperature": 2.0, "loss_weights": [0.4, kd]}}}
        },
        "finetune": {"freeze": ["body.0"], "l2_sp": {"weight": 0.05, "new_weight": 0.0}},
        "domain_adaptation": {
            "criterion": {"DANN": {"layer": "body.2", "hidden_size": 8, "weight": dann}, "MCC": {"weight": mcc}},
            "reversal": {"steps": 10},
        },
    }
    return {name: section for name, section in sections.items() if name in parts}


def composed(parts: set[str], **options: Any) -> Distillation:
    distiller = Distillation(settings(parts, **options), student_model=student())
    if "distillation" in parts:
        distiller.teacher_model = made(2, lambda: Classifier(width=12))
    if "finetune" in parts:
        distiller.pretrained_model = pretrained()
    return distiller


def target_batch(index: int) -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(100 + index)) + 1


def sgd(distiller: Distillation) -> torch.optim.Optimizer:
    return torch.optim.SGD(distiller.student_model.parameters(), lr=0.1, momentum=0.9)


def step(distiller: Distillation, optimizer: torch.optim.Optimizer, index: int) -> float:
    model, (x, y) = distiller.student_model, batches()[index % 5]
    output = model(x)
    loss = F.cross_entropy(output, y)
    target = target_batch(index) if "domain_adaptation" in distiller.conf.to_dict() else None
    loss = distiller.on_after_compute_loss(x, output, loss, target=y, target_input=target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@combined
def test_the_total_is_the_weighted_sum_of_all_components(parts: set[str]) -> None:
    with composed(parts) as distiller:
        optimizer = sgd(distiller)
        for index in range(3):
            total = step(distiller, optimizer, index)
            losses = distiller.losses
            weights = {"CE": 0.4 if "distillation" in parts else 1.0, "KL": 0.6, "DANN": 0.3, "MCC": 0.2}
            extra = {name for name in losses if name not in (*weights, "total", "DANN.domain_accuracy")}
            expected = sum(weights[name] * value for name, value in losses.items() if name in weights)
            expected += sum(0.05 * losses[name] for name in extra)
            assert total == pytest.approx(expected, abs=1e-6) == losses["total"]
        names = {
            "distillation": {"KL"},
            "domain_adaptation": {"DANN", "MCC", "DANN.domain_accuracy"},
            "finetune": set(),
        }
        wanted = {"CE", "total"}.union(*(names[part] for part in parts))
        assert {name for name in losses if name not in extra} == wanted
        assert bool(extra) is ("finetune" in parts)
        distiller.on_epoch_end()
        assert set(distiller.history[-1]["losses"]) == set(losses)


@combined
def test_what_is_transferred_is_there_before_the_first_step_and_what_is_frozen_stays(parts: set[str]) -> None:
    with composed(parts) as distiller:
        model = distiller.student_model
        begins = pretrained() if "finetune" in parts else student()
        assert all(
            torch.equal(value, begins.body.state_dict()[name]) for name, value in model.body.state_dict().items()
        )
        optimizer = sgd(distiller)
        for index in range(4):
            step(distiller, optimizer, index)
        moved = not torch.equal(model.body[0].weight, begins.body[0].weight)
        assert moved is ("finetune" not in parts)
        assert not torch.equal(model.body[1].weight, begins.body[1].weight)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_each_section_has_schedules_of_its_own() -> None:
    ramp, fade = {"linear": {"from": 0, "to": 1, "steps": 4}}, {"linear": {"from": 1, "to": 0, "steps": 2}}
    seen = []
    with composed(set(PARTS), kd=fade, dann=ramp, mcc=0.0) as distiller:
        optimizer = sgd(distiller)
        for index in range(4):
            total = step(distiller, optimizer, index)
            losses = distiller.losses
            rest = total - 0.4 * losses["CE"] - sum(
                0.05 * value for name, value in losses.items() if name.startswith("L2")
            )  # fmt: skip
            expected = max(0.0, 1 - index / 2) * losses.get("KL", 0.0) + index / 4 * losses.get("DANN", 0.0)
            assert rest == pytest.approx(expected, abs=1e-6)
            seen.append(("KL" in losses, "DANN" in losses, "MCC" in losses))
    assert seen == [(True, False, False), (True, True, False), (False, True, False), (False, True, False)]


def test_with_all_weights_0_the_loop_is_the_plain_one() -> None:
    parts = {"distillation", "domain_adaptation"}
    distiller, plain = composed(parts, kd=0.0, dann=0.0, mcc=0.0), student()
    distiller.conf["distillation.train.criterion.KnowledgeDistillationLoss.loss_weights"] = [1.0, 0.0]
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    with distiller:
        ours = sgd(distiller)
        for index in range(5):
            x, y = batches()[index]
            loss = F.cross_entropy(plain(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert step(distiller, ours, index) == loss.item()
    assert same_weights(distiller.student_model, plain)


def test_a_run_of_all_three_resumes_bit_for_bit() -> None:
    whole, parts = composed(set(PARTS)), set(PARTS)
    whole.on_train_begin()
    optimizer = sgd(whole)
    for index in range(3):
        step(whole, optimizer, index)
    saved = copy.deepcopy((whole.student_model.state_dict(), optimizer.state_dict(), whole.state_dict()))
    resumed = composed(parts)
    resumed.student_model.load_state_dict(saved[0])
    resumed.load_state_dict(saved[2])
    resumed.on_train_begin()
    again = sgd(resumed)
    again.load_state_dict(saved[1])
    for index in range(3, 6):
        assert step(whole, optimizer, index) == step(resumed, again, index)
    assert same_weights(whole.student_model, resumed.student_model)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    for distiller in (whole, resumed):
        distiller.on_train_end()


def test_features_for_a_pair_of_layers_and_for_an_adapter_come_from_one_forward() -> None:
    conf = settings({"domain_adaptation"})
    pair = {"layer_mappings": [["body.2", "body.2"]], "loss_types": "MSE", "add_origin_loss": True}
    conf["distillation"] = {"train": {"criterion": {"IntermediateLayersKnowledgeDistillationLoss": pair}}}
    model, calls = student(), []
    model.body[2].register_forward_hook(lambda module, args, output: calls.append(len(output)))
    distiller = Distillation(conf, student_model=model, teacher_model=made(2, lambda: Classifier(width=12)))
    with distiller:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = None
        for index in range(2):
            step(distiller, optimizer, index)
            own = [parameter.detach().clone() for parameter in distiller.parameters()]
            assert before is None or not any(torch.equal(*both) for both in zip(own, before, strict=True))
            before = own
        assert set(distiller.losses) == {"CE", "MSE[body.2]", "DANN", "MCC", "DANN.domain_accuracy", "total"}
    assert calls == [8, 5] * 2
    assert isinstance(model.body[2], nn.ReLU)
