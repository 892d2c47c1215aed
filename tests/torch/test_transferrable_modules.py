"""A `TransferrableModel` is a module like any other: saved, copied, scaled, and trained by other people's trainers."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from kdhooks.torch.rank_groups import process_group
from kdhooks.transferrable import KD, TransferrableModel, make_transferrable_with_knowledge_distillation
from tests.torch.small_models import Classifier, batches, made, same_weights

CE = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 1.0, 1.0]))


def transferrable() -> TransferrableModel:
    guide = made(2, lambda: Classifier(width=12))
    return make_transferrable_with_knowledge_distillation(made(1, lambda: Classifier(dropout=0.0)), CE, KD(guide))


def step(model: Any, optimizer: torch.optim.Optimizer, index: int = 0) -> float:
    x, y = batches()[index]
    optimizer.zero_grad()
    loss = model.loss(model(x), y)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


# ---- states ------------------------------------------------------------------------------------------


def test_its_state_is_the_backbones_and_loads_without_kdhooks() -> None:
    model = transferrable()
    step(model, sgd(model))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    plain = Classifier(dropout=0.0)
    assert list(state) == list(plain.state_dict()) and state._metadata == plain.state_dict()._metadata
    plain.load_state_dict(state)
    assert same_weights(plain, model.backbone)


def test_it_loads_the_backbones_state_and_one_of_model_adaptor() -> None:
    plain = made(5, Classifier)
    for prefix in ("", "backbone."):
        model = transferrable()
        model.load_state_dict({f"{prefix}{name}": value for name, value in plain.state_dict().items()})
        assert same_weights(model.backbone, plain)
    found = transferrable().load_state_dict({"head.bias": plain.head.bias}, strict=False)
    assert "head.weight" in found.missing_keys and not found.unexpected_keys


def test_its_state_is_the_backbones_inside_of_another_module_too() -> None:
    outer = nn.ModuleDict({"model": transferrable(), "other": nn.Linear(2, 2)})
    state = outer.state_dict()
    names = [f"model.{name}" for name in Classifier().state_dict()]
    assert list(state) == [*names, "other.weight", "other.bias"]
    twin = nn.ModuleDict({"model": transferrable(), "other": nn.Linear(2, 2)})
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    assert not any(twin.load_state_dict(state))
    assert same_weights(twin["model"].backbone, outer["model"].backbone)  # type: ignore[union-attr,arg-type]


def test_what_the_hooks_hold_is_in_a_state_of_its_own() -> None:
    model = transferrable()
    optimizer = sgd(model)
    for index in range(3):
        step(model, optimizer, index)
    resumed = transferrable()
    resumed.load_state_dict(model.state_dict())
    resumed.hooks.load_state_dict(model.hooks.state_dict())
    again = sgd(resumed)
    assert step(resumed, again, 3) == step(model, optimizer, 3)
    assert resumed.hooks.step == model.hooks.step == 4


# ---- what is no part of it ------------------------------------------------------------------------------


def test_teacher_and_loss_are_in_no_optimizer_and_move_with_it() -> None:
    model = transferrable()
    assert [name for name, _ in model.named_parameters()] == [
        f"backbone.{name}" for name, _ in model.backbone.named_parameters()
    ]
    model.double()
    guide: Any = model.distiller
    assert guide.pretrained_model.head.weight.dtype is torch.float64
    assert model.loss_function.weight.dtype is torch.float64  # type: ignore[attr-defined]
    x, y = batches()[0]
    assert model.loss(model(x.double()), y).dtype is torch.float64
    CE.float()


def test_nothing_is_left_on_the_backbone() -> None:
    plain = made(1, lambda: Classifier(dropout=0.0))
    attributes = {name: set(vars(module)) for name, module in plain.named_modules()}
    model = make_transferrable_with_knowledge_distillation(plain, CE, KD(made(2, Classifier)))
    step(model, sgd(model))
    model.hooks.on_train_end()
    assert not model.attached
    assert {name: set(vars(module)) for name, module in plain.named_modules()} == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in plain.modules())
    step(model, sgd(model))  # begins anew
    assert model.attached


def test_ranks_average_what_trains_beside_a_backbone_that_is_a_part_of_what_they_wrap() -> None:
    model = transferrable()
    wrapper: Any = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module, group = model, SimpleNamespace(size=lambda: 2)
    wrapper.process_group = group
    assert process_group(model.backbone, [wrapper]) is group
    assert process_group(Classifier(), [wrapper]) is None


# ---- copies --------------------------------------------------------------------------------------------


def test_copies_and_pickles_train_on_by_themselves() -> None:
    model = transferrable()
    optimizer = sgd(model)
    step(model, optimizer)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.backbone is not model.backbone and same_weights(twin.backbone, model.backbone)
        before = copy.deepcopy(model.backbone.state_dict())
        step(twin, sgd(twin), 1)
        assert all(torch.equal(model.backbone.state_dict()[name], value) for name, value in before.items())
        assert not same_weights(twin.backbone, model.backbone)
    assert copy.deepcopy(model).distiller.pretrained_model is model.distiller.pretrained_model  # type: ignore[union-attr]


def test_an_average_of_it_is_an_average_of_the_backbone() -> None:
    model = transferrable()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = sgd(model)
    average.update_parameters(model)
    step(model, optimizer)
    average.update_parameters(model)
    average.eval()
    x, _ = batches()[0]
    assert not torch.equal(average(x), model.eval()(x))


def test_a_copy_keeps_the_backbones_own_loss_with_its_own_backbone() -> None:
    class Own(Classifier):
        def loss(self, output: Tensor, label: Tensor) -> Tensor:
            return nn.functional.cross_entropy(output, label) + 0 * self.head.weight.sum()

    model = make_transferrable_with_knowledge_distillation(Own(), None, KD(made(2, Classifier)))
    twin = copy.deepcopy(model)
    x, y = batches()[0]
    twin.loss(twin(x), y).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in twin.parameters())


# ---- other people's loops --------------------------------------------------------------------------------


def test_grad_scaler_and_autocast_take_its_loss() -> None:
    model, scaler = transferrable(), torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer, (x, y) = sgd(model), batches()[0]
    before = model.backbone.head.weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(model(x), y)
    scaler.scale(loss).backward()
    unscaled = transferrable()
    with torch.autocast("cpu", torch.bfloat16):
        unscaled.loss(unscaled(x), y).backward()
    torch.testing.assert_close(model.backbone.head.weight.grad, 8 * unscaled.backbone.head.weight.grad)
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(model.backbone.head.weight, before)


class Lit(lightning.LightningModule):
    """Somebody's module."""

    def __init__(self, model: TransferrableModel) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        loss = self.model.loss(self.model(x), y)
        self.log_dict({"backbone": loss.backbone_loss, "distiller": loss.distiller_loss})
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        x, y = batch
        self.log("accuracy", (self.model(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_trains_it_as_a_loop_does(tmp_path: Path) -> None:
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    model = Lit(transferrable())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about workers, and torch's own deprecations inside of it
        trainer = lightning.Trainer(
            max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(model, loader, loader)
    plain = transferrable()
    optimizer = sgd(plain)
    for _ in range(2):
        for index in range(5):
            step(plain, optimizer, index)
    assert same_weights(model.model.backbone, plain.backbone)
    assert trainer.callback_metrics["distiller"].item() > 0
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    backbone = Classifier()
    backbone.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    assert same_weights(backbone, plain.backbone)


def test_with_a_compiled_backbone_it_trains_the_same() -> None:
    model, plain = transferrable(), transferrable()
    model.backbone.compile(backend="eager")
    ours, theirs = sgd(model), sgd(plain)
    for index in range(3):
        assert step(model, ours, index) == step(plain, theirs, index)
    torch.compiler.reset()
