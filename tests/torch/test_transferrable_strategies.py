"""All five strategies of the unified API, and what works together beyond them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.torch import KnowledgeDistillationLoss
from kdhooks.torch.adaptation import MCC, mcc
from kdhooks.torch.domains import DomainAdaptationLoss
from kdhooks.torch.segmentation import make_unet
from kdhooks.transferrable import (
    KD,
    BasicFinetunner,
    CACDomainAdversarialLoss,
    TransferrableModel,
    TransferStrategy,
    create_adapter,
    make_transferrable,
    make_transferrable_with_domain_adaption,
    make_transferrable_with_finetune,
    transferrable_with_domain_adaption,
    transferrable_with_finetune,
)
from tests.torch.small_models import Classifier, batches, made, same_weights

CE = nn.CrossEntropyLoss()
ADVERSARY: Any = {"DANN": {"layer": "body.0", "hidden_size": 8}}
SECTION: Any = {"criterion": ADVERSARY, "reversal": {"steps": 4}}
ONLY, WITH_WEIGHTS, WITH_TEACHER = (
    TransferStrategy.OnlyDomainAdaptionStrategy,
    TransferStrategy.FinetuneAndDomainAdaptionStrategy,
    TransferStrategy.DistillationAndDomainAdaptionStrategy,
)


def student(seed: int = 1) -> Any:
    return made(seed, lambda: Classifier(dropout=0.0))


def teacher() -> Any:
    return made(2, lambda: Classifier(width=12))


def finetunner(**options: Any) -> BasicFinetunner:
    return BasicFinetunner(made(3, lambda: Classifier(classes=9)), **options)


def target_batch(index: int, size: int = 6) -> Tensor:
    return torch.randn(size, 6, generator=torch.Generator().manual_seed(100 + index)) + 1


def adapting(adapter: Any = SECTION, **more: Any) -> TransferrableModel:
    return make_transferrable_with_domain_adaption(student(), CE, adapter, **more)


def train(model: TransferrableModel, steps: int = 5) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for index in range(steps):
        x, y = batches()[index]
        pair = (x, target_batch(index)) if model.adapter is not None else x
        loss = model.loss(model(pair), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# ---- the five ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", TransferStrategy, ids=lambda one: one.name)
def test_every_strategy_trains_with_the_parts_that_it_uses(strategy: TransferStrategy) -> None:
    model = make_transferrable(
        student(), CE, finetunner(), KD(teacher()), SECTION, strategy,
        backbone_loss_weight=0.5, distiller_loss_weight=0.7, adapter_loss_weight=0.3,
    )  # fmt: skip
    assert model.transfer_strategy is strategy
    parts = (model.finetunner, model.distiller, model.adapter)
    assert [part is not None for part in parts] == [strategy.finetunes, strategy.distills, strategy.adapts]
    assert torch.equal(model.backbone.body[0].bias, finetunner().pretrained_model.body[0].bias) is strategy.finetunes
    before = copy.deepcopy(model.backbone)
    train(model, steps=2)
    assert not same_weights(model.backbone, before)
    x, y = batches()[2]
    loss = model.loss(model((x, target_batch(2)) if strategy.adapts else x), y)
    assert [one is not None for one in (loss.distiller_loss, loss.adapter_loss)] == [strategy.distills, strategy.adapts]
    expected = 0.5 * loss.backbone_loss
    expected += 0.7 * loss.distiller_loss if strategy.distills else 0
    expected += 0.3 * loss.adapter_loss if strategy.adapts else 0
    torch.testing.assert_close(loss.detach(), expected)
    model.eval()
    assert torch.equal(model(x), model.backbone(x))


@pytest.mark.parametrize("strategy", TransferStrategy, ids=lambda one: one.name)
def test_every_strategy_can_be_copied_and_pickled(strategy: TransferStrategy) -> None:
    model = make_transferrable(student(), CE, finetunner(is_frozen=True), KD(teacher()), SECTION, strategy)
    train(model, steps=1)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    losses = [train(twin) for twin in twins]
    assert losses[0] == losses[1]
    assert same_weights(twins[0].backbone, twins[1].backbone)
    if strategy.finetunes:
        for twin in twins:
            assert torch.equal(twin.backbone.body[1].running_mean, model.backbone.body[1].running_mean)
            assert not twin.backbone.body[1].weight.requires_grad


# ---- fine-tuning -------------------------------------------------------------------------------------


def test_finetuning_begins_with_the_weights_and_says_which() -> None:
    bringing = finetunner()
    model = make_transferrable_with_finetune(student(), CE, bringing)
    assert bringing.finetuned_state_keys == [name for name in Classifier().state_dict() if name.startswith("body")]
    names = {f"backbone.{name}" for name in bringing.finetuned_state_keys}
    slow = [one for name, one in model.named_parameters() if name in names]
    fast = [one for name, one in model.named_parameters() if name not in names]
    assert (len(slow), len(fast)) == (4, 2)
    x, y = batches()[0]
    output = model(x)
    loss = model.loss(output, y)
    assert loss.item() == F.cross_entropy(output, y).item() == loss.backbone_loss.item()
    assert list(loss.parts) == ["backbone", "total"]


def test_finetuning_trains_as_a_plain_loop_does() -> None:
    model, plain = make_transferrable_with_finetune(student(), CE, finetunner()), student()
    finetunner().finetune_network(plain)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    expected = []
    for x, y in batches():
        loss = CE(plain(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert train(model) == expected
    assert same_weights(model.backbone, plain)


def test_what_is_transferred_and_frozen_stays_as_it_is() -> None:
    model = make_transferrable_with_finetune(student(), CE, finetunner(is_frozen=True))
    before = copy.deepcopy(model.backbone.body.state_dict())
    train(model)
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.body.state_dict().items())


def test_a_backbone_with_its_own_loss_needs_none() -> None:
    class Own(Classifier):
        def loss(self, output: Tensor, label: Tensor) -> Tensor:
            return F.cross_entropy(output, label)

    x, y = batches()[0]
    tuned = make_transferrable_with_finetune(Own(), finetunner())
    adapted = make_transferrable_with_domain_adaption(Own(), SECTION, ONLY)
    assert tuned.loss(tuned(x), y).item() > 0
    assert adapted.loss(adapted((x, target_batch(0))), y).adapter_loss.item() > 0
    short = make_transferrable_with_domain_adaption(
        Own(), create_adapter("mcc", temperature=2.0), adapter_loss_weight=0.5
    )
    assert short.loss(short((x, target_batch(0))), y).adapter_loss.item() > 0


# ---- adaptation --------------------------------------------------------------------------------------


def test_it_adapts_as_the_hooks_do_in_a_loop_of_ones_own() -> None:
    losses = train(model := adapting(backbone_loss_weight=0.5, adapter_loss_weight=0.3))
    plain = student()
    distiller = Distillation(student_model=plain)
    options = {"DANN": {**ADVERSARY["DANN"], "weight": 0.3}}
    distiller.criterion = [
        KnowledgeDistillationLoss(loss_types=["CE"], loss_weights=[0.5]),
        DomainAdaptationLoss(options, reversal={"steps": 4}),
    ]
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    expected = []
    with distiller:
        for index, (x, y) in enumerate(batches()):
            output = plain(x)
            loss = distiller.on_after_compute_loss(x, output, CE(output, y), target=y, target_input=target_batch(index))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    assert losses == expected
    assert same_weights(model.backbone, plain)


def test_source_and_target_may_be_one_argument_or_two_or_named() -> None:
    x, y = batches()[0]
    other = target_batch(0)
    losses = []
    for args, named in (((x, other), {}), (((x, other),), {}), (([x, other],), {}), ((x,), {"target_input": other})):
        model = adapting()
        losses.append(model.loss(model(*args, **named), y).item())
    assert losses == [losses[0]] * 4


def test_labels_of_the_target_count_by_the_backbones_own_loss_where_they_are_used() -> None:
    x, y = batches()[0]
    other, labels = target_batch(0), torch.arange(6) % 4
    smooth = nn.CrossEntropyLoss(label_smoothing=0.2)
    for used in (False, True):
        backbone = student()
        model = make_transferrable_with_domain_adaption(
            backbone,
            smooth,
            "MCC",
            enable_target_training_label=used,
            backbone_loss_weight=0.5,
            adapter_loss_weight=0.25,
        )
        loss = model.loss(model((x, other)), (y, labels))
        twin = student()
        of_source, of_target = smooth(twin(x), y), twin(other)
        expected = 0.5 * of_source + 0.25 * mcc(of_target, temperature=2.5)
        expected = expected + 0.5 * smooth(of_target, labels) if used else expected
        torch.testing.assert_close(loss.detach(), expected.detach())
        assert ("backbone_target" in loss.parts) is used
        loss.backward()
        expected.backward()
        torch.testing.assert_close(backbone.head.weight.grad, twin.head.weight.grad)


def test_both_domains_may_go_through_the_backbone_in_one_batch() -> None:
    x, y = batches()[0]
    model = adapting({**SECTION, "joint_forward": True})
    calls: list[int] = []
    model.backbone.body[0].register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    output = model((x, target_batch(0)))
    assert len(output) == len(x)
    model.loss(output, y).backward()
    assert calls == [len(x) + 6]


def test_adapters_come_by_name_with_options_in_lists_and_as_instances() -> None:
    x, y = batches()[0]
    for adapter in ("mcc", {"MCC": {"temperature": 2.5}}, MCC(), [MCC()], {"criterion": "MCC"}):
        model = adapting(adapter)
        loss = model.loss(model((x, target_batch(0))), y)
        assert loss.adapter_loss.item() == pytest.approx(mcc(student()(target_batch(0)), temperature=2.5).item())
    several = adapting([{"MCC": {"weight": 2.0}}, "entropy"], adapter_loss_weight=0.5)
    loss = several.loss(several((x, target_batch(0))), y)
    parts = loss.parts
    assert list(parts) == ["backbone", "MCC", "entropy", "total"]
    torch.testing.assert_close(loss.adapter_loss, 2 * parts["MCC"] + parts["entropy"])
    torch.testing.assert_close(loss.detach(), parts["backbone"] + 0.5 * loss.adapter_loss)


def test_cac_takes_all_levels_of_a_unet_by_itself() -> None:
    unet = make_unet(channels=(4, 8))
    adapter = CACDomainAdversarialLoss(hidden_size=4)
    model = make_transferrable_with_domain_adaption(unet, CE, adapter, ONLY, adapter_loss_weight=0.1)
    images, masks = torch.randn(2, 1, 8, 8), torch.randint(2, (2, 8, 8))
    loss = model.loss(model((images, torch.randn(3, 1, 8, 8))), masks)
    loss.backward()
    assert {name for name in loss.parts if "accuracy" in name} == {
        f"cac.{branch}_accuracy" for branch in ("domain", "encoder", "decoder", "segmentation")
    }
    torch.testing.assert_close(loss.detach(), loss.backbone_loss + 0.1 * loss.adapter_loss)
    alone = make_transferrable_with_domain_adaption(nn.Conv2d(1, 2, 1), CE, adapter, ONLY)
    loss = alone.loss(alone((images, images)), masks)
    assert "cac.encoder_accuracy" not in loss.parts and "cac.segmentation_accuracy" in loss.parts


def test_discriminators_train_and_are_in_the_state_of_the_hooks() -> None:
    model, twin = adapting(), adapting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = batches()[0]
    model.loss(model((x, target_batch(0))), y).backward()
    before = [one.detach().clone() for one in model.hooks.parameters()]
    optimizer.step()
    assert before and not any(torch.equal(*pair) for pair in zip(before, model.hooks.parameters(), strict=True))
    assert list(model.state_dict()) == list(model.backbone.state_dict())
    twin.load_state_dict(model.state_dict())
    twin.hooks.load_state_dict(model.hooks.state_dict())
    x, y = batches()[1]
    losses = [one.loss(one((x, target_batch(1))), y).item() for one in (model, twin)]
    assert losses[0] == losses[1]


def test_a_part_of_weight_0_is_not_computed() -> None:
    x, y = batches()[0]
    model = adapting(adapter_loss_weight=0.0)
    loss = model.loss(model((x, target_batch(0))), y)
    assert loss.adapter_loss is None and list(loss.parts) == ["backbone", "total"]


def test_a_teacher_and_weights_to_begin_with_may_stand_beside_adapters() -> None:
    model = make_transferrable(student(), CE, finetunner(), KD(teacher()), SECTION)
    assert model.transfer_strategy is None
    train(model)
    assert set(model.hooks.losses) == {"backbone", "KL", "DANN", "DANN.domain_accuracy", "total"}


@transferrable_with_finetune(CE, finetunner())
class Tuned(Classifier):
    pass


@transferrable_with_domain_adaption(CE, SECTION, ONLY, adapter_loss_weight=0.5)
class Adapted(Classifier):
    pass


def test_the_decorators_make_every_instance_transferrable() -> None:
    for kind in (Tuned, Adapted):
        model: Any = kind()
        assert type(model) is TransferrableModel and type(model.backbone) is kind
        train(model, steps=2)
        assert type(pickle.loads(pickle.dumps(model)).backbone) is kind
