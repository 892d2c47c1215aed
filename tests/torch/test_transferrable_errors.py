"""What the unified API says of mistakes, word for word."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from kdhooks import ConfigError
from kdhooks.errors import ModelError, UsageError
from kdhooks.torch.adaptation import DANN
from kdhooks.transferrable import (
    DKD,
    KD,
    make_transferrable,
    make_transferrable_with_domain_adaption,
    make_transferrable_with_finetune,
)
from tests.torch.small_models import Classifier, batches
from tests.torch.test_transferrable import CE, distilled, student, teacher
from tests.torch.test_transferrable_strategies import (
    ONLY,
    SECTION,
    WITH_TEACHER,
    WITH_WEIGHTS,
    adapting,
    finetunner,
    target_batch,
)

PARTS: Any = {"loss": CE, "distiller": KD(nn.Linear(6, 4))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"loss": None},
            "the backbone Classifier carries no loss of its own: pass loss, a function of (output, label)",
        ),
        ({"loss": 3}, "loss must be a function of (output, label), not 3"),
        (
            {"loss": nn.Bilinear(1, 1, 1)},
            "the loss Bilinear has parameters of its own, which belong into the backbone: make it the method loss of a "
            "module that holds both, and leave loss out",
        ),
        ({"distiller": None}, "there is nothing to transfer: give a finetunner, a distiller or an adapter"),
        (
            {"distiller": nn.Linear(6, 4)},
            "the distiller must be a BasicDistiller, KD or DKD, not a Linear: KD(teacher) makes one",
        ),
        ({"finetunner": nn.Linear(6, 4)}, "the finetunner must be a BasicFinetunner, not a Linear"),
        ({"distiller_loss_weight": -1}, "distiller_loss_weight: expected a number of at least 0 or a schedule, got -1"),
        (
            {"backbone_loss_weight": 0, "distiller_loss_weight": 0},
            "OnlyDistillationStrategy: all weights are 0, so nothing would be trained",
        ),
        (
            {"distiller": DKD(nn.Linear(6, 4), warmup=3), "distiller_loss_weight": {"warmup": {"to": 1, "steps": 2}}},
            "DKD: warmup and a distiller_loss_weight that is a schedule: keep one of them",
        ),
    ],
)
def test_what_does_not_fit_together_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        make_transferrable(Classifier(), **{**PARTS, **options})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: KD(teacher(), is_frozen=False),
            "KD: the teacher is always frozen; leave is_frozen out, or train it before",
        ),
        (lambda: KD(teacher(), topk=-1), "KD: topk must be a number of classes, or 0 for all of them, not -1"),
        (lambda: DKD(None), "DKD needs a teacher, or use_saved_logits=True and the logits_path of saved ones"),
        (lambda: DKD(teacher(), warmup=0.5), "DKD: warmup must be a number of training steps, not 0.5"),
        (
            lambda: KD(None, use_saved_logits=True).prepare_logits([]),
            "KD has no teacher whose logits could be saved",
        ),
        (
            lambda: KD(teacher()).prepare_logits([], epochs=2, start_epoch=2),
            "prepare_logits: no epoch lies from start_epoch 2 to epochs 2",
        ),
    ],
)
def test_distillers_say_what_is_wrong(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        make()


def test_a_loss_without_a_training_step_says_so() -> None:
    x, y = batches()[0]
    model = distilled()
    told = r"^loss\(\) in training needs what model\(x\) returned in training: call model.train\(\) before the forward,"
    with pytest.raises(UsageError, match=told):
        model.loss(torch.zeros(8, 4), y)
    with pytest.raises(UsageError, match=r"^OnlyDistillationStrategy: loss\(output, label\) needs labels$"):
        model.loss(model(x))
    with pytest.raises(UsageError, match=r"^OnlyDistillationStrategy has no target domain: leave target_input out$"):
        model(x, target_input=x)
    with pytest.raises(ModelError, match=r"^the backbone must be a torch.nn.Module, not function$"):
        make_transferrable(lambda x: x, **PARTS)
    unreduced = make_transferrable(student(), nn.CrossEntropyLoss(reduction="none"), distiller=KD(teacher()))
    with pytest.raises(ModelError, match=r"^student_loss must be a scalar tensor, not one of shape \[8\]: take its"):
        unreduced.loss(unreduced(x), y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: make_transferrable_with_domain_adaption(student(), CE, SECTION, False, 1.0, 0.5),
            "transfer_strategy must be a TransferStrategy, not False; what stands behind it is best given by name, as "
            "in enable_target_training_label=False, backbone_loss_weight=1.0, adapter_loss_weight=1.0",
        ),
        (
            lambda: adapting(None),
            "OnlyDomainAdaptionStrategy needs an adapter: by its name, as in {'DANN': {'layer': 'avgpool'}}",
        ),
        (
            lambda: adapting(transfer_strategy=WITH_WEIGHTS),
            "FinetuneAndDomainAdaptionStrategy needs a finetunner: a BasicFinetunner",
        ),
        (
            lambda: adapting(transfer_strategy=WITH_TEACHER),
            "DistillationAndDomainAdaptionStrategy needs a distiller: a BasicDistiller, KD or DKD",
        ),
        (
            lambda: make_transferrable_with_domain_adaption(student(), SECTION, CE),
            "loss must be a function of (output, label), and an adapter stands in its place",
        ),
        (
            lambda: make_transferrable_with_domain_adaption(student(), SECTION, ONLY, True),
            "in (model, adapter, transfer_strategy) what follows is given by name",
        ),
        (
            lambda: adapting(7),
            "the adapter must be given by name, as in {'DANN': {'layer': 'avgpool'}}, or be an Adapter, not int",
        ),
        (
            lambda: adapting(DANN()),
            "the adapter 'dann' looks at a layer: give it by name, as in {'dann': {'layer': 'avgpool'}}",
        ),
        (
            lambda: make_transferrable(
                student(), CE, finetunner(), enable_target_training_label=False
            ),
            "OnlyFinetuneStrategy learns from labels only: leave enable_target_training_label at True",
        ),
        (
            lambda: make_transferrable_with_finetune(student(), CE, finetunner(unfreeze={2: ["head"]})),
            "BasicFinetunner(unfreeze=...) acts during a run: write it in the section finetune of a Distillation",
        ),
    ],
)  # fmt: skip
def test_what_a_strategy_lacks_is_said(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        make()


def test_a_missing_target_batch_and_missing_labels_are_said() -> None:
    x, y = batches()[0]
    model = adapting(enable_target_training_label=True)
    told = (
        "OnlyDomainAdaptionStrategy: the target domain's batch is missing: in training call model((source, target)), "
        "or model(source, target_input=target)"
    )
    for args in ((x,), ((x, None),)):
        with pytest.raises(UsageError, match=f"^{re.escape(told)}$"):
            model(*args)
    told = (
        "OnlyDomainAdaptionStrategy: enable_target_training_label=True needs labels of the target domain: "
        "loss(output, (source_label, target_label))"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(told)}$"):
        model.loss(model((x, target_batch(0))), y)


def test_an_unknown_adapter_and_an_unknown_layer_are_said() -> None:
    with pytest.raises(ConfigError, match=r"unknown adapter 'DAN'\n  Did you mean 'dann'\?"):
        adapting({"DAN": {"layer": "body"}})
    model = adapting({"DANN": {"layer": "body.9"}})
    with pytest.raises(ConfigError, match=r"student Classifier has no layer 'body.9'"):
        model((batches()[0][0], target_batch(0)))
