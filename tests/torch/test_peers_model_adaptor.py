"""What e2eAIOK's Model Adaptor gets wrong, a test for each mistake: the unified API of the same names is free of it."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from kdhooks import ReplayedAugmentation
from kdhooks.torch.adaptation import CDAN, DomainBatch
from kdhooks.transferrable import (
    KD,
    TransferrableModel,
    make_transferrable_with_domain_adaption,
    make_transferrable_with_knowledge_distillation,
)
from tests.torch.small_models import Classifier, Counting, batches, made

CE = nn.CrossEntropyLoss()


def distilled(guide: nn.Module, **more: Any) -> TransferrableModel:
    return make_transferrable_with_knowledge_distillation(made(1, Classifier), CE, KD(guide, **more))


def adapted(**more: Any) -> TransferrableModel:
    section = {"criterion": {"DANN": {"layer": "body", "hidden_size": 8}}, "reversal": {"steps": 10}}
    return make_transferrable_with_domain_adaption(made(1, lambda: Classifier(dropout=0.0)), CE, section, **more)


def step(model: TransferrableModel, pair: bool = False) -> Any:
    x, y = batches()[0]
    return model.loss(model((x, x[:5] + 1) if pair else x), y)


def test_the_teacher_is_in_eval_mode_and_its_statistics_stand_still() -> None:
    guide = made(2, Classifier)
    guide.train()
    before = copy.deepcopy(guide.state_dict())
    model = distilled(guide)
    model.train()
    losses = [step(model).distiller_loss.item() for _ in range(3)]
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())
    assert losses[0] != losses[1]  # the student's own dropout
    model.backbone.eval()
    assert step(model).distiller_loss.item() == step(model).distiller_loss.item()  # the teacher has none


def test_top_k_logits_are_softmaxed_once(tmp_path: Path) -> None:
    sure = nn.Linear(6, 10)
    with torch.no_grad():
        sure.weight.mul_(30)
    x = batches()[0][0]
    KD(sure, topk=3, logits_path=tmp_path).prepare_logits([(x, None)])
    kept = KD(None, use_saved_logits=True, logits_path=tmp_path)(x)
    entropy = torch.special.entr(kept.softmax(1)).sum(1)
    exact = torch.special.entr(sure(x).softmax(1)).sum(1)
    torch.testing.assert_close(entropy, exact, atol=0.02, rtol=0)
    assert entropy.max() < 1.5  # softmaxed twice it is 2.3025 of a possible 2.3026, for every image


class Noisy(Dataset[Any]):
    """Random augmentation that draws from torch's generator, as torchvision's transforms do."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> Any:
        return torch.full((6,), float(row)) + torch.randn(6), row % 4


def test_the_seed_of_the_augmentation_reaches_the_images_that_saved_logits_belong_to(tmp_path: Path) -> None:
    data = ReplayedAugmentation(Noisy(), replays=2, seed=5)
    loader, counting = DataLoader(data, batch_size=4, shuffle=True), Counting(made(2, Classifier))
    filled = KD(counting, logits_path=tmp_path).prepare_logits(loader, epochs=2)
    assert (filled.rows, filled.computed) == (24, 24)
    counting.calls = 0
    model = distilled(counting, use_saved_logits=True, logits_path=tmp_path)
    model.hooks.on_train_begin(loader)
    seen = []
    for _ in range(4):
        for x, y in loader:
            model.loss(model(x), y)
            seen.append(x)
            kept = KD(None, use_saved_logits=True, logits_path=tmp_path)(x)
            torch.testing.assert_close(kept, counting.model.eval()(x), atol=1e-5, rtol=1e-5)
        model.hooks.on_epoch_end()
    assert counting.calls == 0, "a saved row is that of the very pixels"
    epochs = [torch.cat(seen[at : at + 3]).sum(1).sort().values for at in range(0, 12, 3)]
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("weight", [0.0, 0.25, 4.0])
def test_adapter_loss_weight_is_applied(weight: float) -> None:
    loss = step(adapted(adapter_loss_weight=weight), pair=True)
    adapter = 0.0 if weight == 0 else loss.adapter_loss.item()
    assert loss.item() == pytest.approx(loss.backbone_loss.item() + weight * adapter)
    plain = step(adapted(), pair=True)
    assert (adapter == 0) is (weight == 0)
    assert weight == 0 or adapter == pytest.approx(plain.adapter_loss.item())


def test_entropy_weights_weigh_each_row_by_its_own_certainty() -> None:
    generator = torch.Generator().manual_seed(4)
    sides = [
        DomainBatch(
            (torch.randn(rows, 3, generator=generator, dtype=torch.float64),),
            4 * torch.randn(rows, 2, generator=generator, dtype=torch.float64),
        )
        for rows in (5, 7)
    ]
    adapter = CDAN(hidden_size=8)
    value = adapter(*sides)
    costs: list[list[float]] = []
    for side, sign in zip(sides, (1, -1), strict=True):
        rows = []
        for feature, logits in zip(side.features[0], side.logits, strict=True):
            prediction = logits.softmax(0)
            logit = adapter.discriminator((prediction[:, None] * feature[None]).flatten()[None]).squeeze()
            weight = 1 + torch.exp(-torch.special.entr(prediction).sum())
            rows.append((weight * F.softplus(-sign * logit)).item())
        costs.append(rows)
    assert value.item() == pytest.approx(sum(sum(rows) / len(rows) for rows in costs), abs=1e-8)


def test_the_gradients_reversal_does_not_advance_in_evaluation() -> None:
    model = adapted()
    criterion = model.hooks.criterion[-1]
    for _ in range(3):
        step(model, pair=True).backward()
    assert model.hooks.criterion[-1].steps == 3
    model.eval()
    x, y = batches()[0]
    for _ in range(5):
        model.loss(model(x), y)
    with torch.no_grad():
        model.train()
        model(x)
    assert criterion.steps == 3
    step(model, pair=True)
    assert criterion.steps == 4


def test_a_loss_module_does_not_become_a_part_of_a_sequential() -> None:
    backbone = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    model = make_transferrable_with_knowledge_distillation(backbone, CE, KD(nn.Linear(6, 4)))
    step(model).backward()
    assert len(backbone) == 3 and not hasattr(backbone, "loss")
    assert [name for name, _ in model.named_modules()] == ["", "backbone", *(f"backbone.{at}" for at in range(3))]
    assert list(model.state_dict()) == list(backbone.state_dict())


def test_grad_scaler_takes_the_loss() -> None:
    model, scaler = adapted(), torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = step(model, pair=True)
    scaled = scaler.scale(loss)
    assert isinstance(loss, Tensor) and scaled.item() == pytest.approx(4 * loss.item())
    scaled.backward()
    scaler.step(optimizer)
    scaler.update()


class Lit(lightning.LightningModule):
    def __init__(self, model: TransferrableModel) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y, other = batch
        return self.model.loss(self.model((x, other)), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_takes_the_loss(tmp_path: Path) -> None:
    x, y = batches()[0]
    model = Lit(adapted())
    before = copy.deepcopy(model.model.backbone.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about workers, and torch's own deprecations inside of it
        trainer = lightning.Trainer(
            max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
            enable_checkpointing=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(model, DataLoader(TensorDataset(x, y, x + 1), batch_size=4))
    assert trainer.global_step == 2
    assert not torch.equal(model.model.backbone.head.weight, before["head.weight"])
    assert set(model.model.hooks.losses) == {"backbone", "DANN", "DANN.domain_accuracy", "total"}
