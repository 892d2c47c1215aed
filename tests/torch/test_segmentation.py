"""UNets: their levels by name, CAC at them in a user's loop, and the Dice score."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdhooks import Distillation
from kdhooks.config.model import MetricSettings, Named
from kdhooks.errors import MissingPackageError, ModelError, UsageError
from kdhooks.torch.metrics import MetricSet
from kdhooks.torch.segmentation import make_unet, unet_levels


def test_the_levels_of_a_unet_are_named_from_the_finest_down_and_up_again() -> None:
    levels = unet_levels(make_unet(2, (4, 8, 16, 32)))
    inner = "model.1.submodule.1.submodule"
    assert levels.encoder == ("model.0", "model.1.submodule.0", f"{inner}.0", f"{inner}.1.submodule")
    assert levels.decoder == (f"{inner}.2", "model.1.submodule.2")
    assert levels.all == [*levels.encoder, *levels.decoder]


def test_the_levels_of_a_basic_unet() -> None:
    class BasicUNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("conv_0", "down_1", "down_2", "upcat_2", "upcat_1", "final_conv"):
                self.add_module(name, nn.Identity())

    levels = unet_levels(BasicUNet())
    assert (levels.encoder, levels.decoder) == (("conv_0", "down_1", "down_2"), ("upcat_2", "upcat_1"))


def test_another_model_is_not_guessed_at() -> None:
    with pytest.raises(ModelError) as caught:
        unet_levels(nn.Linear(2, 2))
    assert str(caught.value) == "unet_levels knows MONAI's UNet and BasicUNet, and not Linear; name its layers yourself"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), "a UNet has 2 or 3 dimensions, not 1"),
        ((2, (8,)), "a UNet needs the channels of two levels or more, not [8]"),
    ],
)
def test_what_is_no_unet_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_unet(*arguments)
    assert str(caught.value) == message


def test_without_monai_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[union-attr]
    with pytest.raises(MissingPackageError) as caught:
        make_unet()
    assert str(caught.value) == "a UNet needs the package 'monai': pip install 'kdhooks[segmentation]'"
    assert states[:2] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[union-attr]
    assert torch.equal(states[2], torch.get_rng_state())


@pytest.mark.parametrize(("dimensions", "residual_units"), [(2, 0), (3, 2)])
def test_cac_trains_at_all_levels_of_a_unet_in_a_users_loop(dimensions: int, residual_units: int) -> None:
    model = make_unet(dimensions, (2, 4, 8), classes=3, norm="instance", residual_units=residual_units)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    levels = unet_levels(model)
    cac = {"layers": levels.all, "encoder_levels": len(levels.encoder), "hidden_size": 2, "weight": 0.5}
    distiller = Distillation({"domain_adaptation": {"criterion": {"CAC": cac}}}, student_model=model)
    distiller.on_train_begin(optimizer=optimizer)
    x, there = torch.randn(2, 1, *[8] * dimensions), torch.randn(3, 1, *[8] * dimensions)
    masks = torch.randint(0, 3, (2, *[8] * dimensions))
    begun: list[torch.Tensor] = []
    for _ in range(2):
        output = model(x)
        loss = distiller.on_after_compute_loss(
            x, output, F.cross_entropy(output, masks), target=masks, target_input=there
        )
        optimizer.zero_grad()
        loss.backward()
        begun = begun or [parameter.detach().clone() for parameter in distiller.parameters()]
        optimizer.step()
    assert len(begun) == 2 * (3 + 1 + 1 + 1 + 3 + 1)
    assert all(not torch.equal(old, new) for old, new in zip(begun, distiller.parameters(), strict=True))
    assert {
        f"CAC.{name}_accuracy" for name in ("encoder", "decoder", "segmentation", "domain")
    } <= distiller.losses.keys()
    distiller.on_train_end()


def dice(options: dict[str, Any]) -> MetricSet:
    return MetricSet([MetricSettings(Named("Dice", options))])


def test_dice_is_that_of_every_class_but_the_background() -> None:
    truth = torch.tensor([[[0, 0, 1], [2, 1, 1]]])
    said = torch.tensor([[[0, 1, 1], [2, 2, 1]]])
    logits = F.one_hot(said, 3).movedim(-1, 1).float()
    for options, expected in (({}, (4 / 6 + 2 / 3) / 2), ({"background": None}, (2 / 3 + 4 / 6 + 2 / 3) / 3)):
        metric = dice(options)
        metric.update(logits, truth)
        assert metric.compute()["Dice"] == pytest.approx(expected)


def test_a_background_that_is_no_class_is_refused() -> None:
    metric = dice({"background": 3})
    with pytest.raises(UsageError) as caught:
        metric.update(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert str(caught.value) == "Dice: background must be a class from 0 to 2, or null, not 3"
