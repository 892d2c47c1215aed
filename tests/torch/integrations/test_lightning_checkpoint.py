"""Checkpoints of the trainer hold ours: exact resume, clean students, refused states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from kdhooks import Distillation
from kdhooks.errors import CheckpointError
from kdhooks.integrations.lightning import DistillationCallback
from tests.torch.hidden_models import weights
from tests.torch.integrations.lightning_parts import Hidden, Module, layers, loader, logits, quiet, teacher, trainer
from tests.torch.small_models import Classifier, made, same_weights

pytestmark = [
    *quiet,
    pytest.mark.filterwarnings("ignore:.*fit.ckpt_path="),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


class Validated(Module):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.model(batch[0]).mean())


class Adversaries:
    """A distiller with a discriminator, whose weights and reversal go on where they stood."""

    def __call__(self) -> Distillation:
        conf = {
            "distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": {"loss_weights": [0.5, 0.5]}}}},
            "domain_adaptation": {"criterion": {"DANN": {"layer": "body", "hidden_size": 4}}},
        }
        return Distillation(conf, teacher_model=teacher())


def run(
    make: Any,
    module: Any,
    folder: Path,
    *,
    epochs: int,
    ckpt: Any = None,
    val: bool = False,
    saves: Any = None,
    **options: Any,
) -> tuple[Any, Distillation, list[torch.Tensor]]:
    """A seeded fit with shuffled data; what was saved is in the folder."""
    torch.manual_seed(5 if ckpt is None else 77)  # a resumed run finds its generators in the checkpoint
    distiller, found = make(), []
    distiller.register_hook("on_train_end", lambda ended: found.extend(weights(ended)))
    given = {"arguments": lambda batch: {"target_input": batch[0] + 1}} if isinstance(make, Adversaries) else {}
    callbacks = [DistillationCallback(distiller, **given), ModelCheckpoint(folder, **(saves or {}))]
    fit = trainer(*callbacks, folder=folder, epochs=epochs, enable_checkpointing=True, **options)
    fit.fit(module, loader(shuffle=True), loader() if val else None, ckpt_path=ckpt)
    return module, distiller, found


SAVES: dict[str, dict[str, Any]] = {
    "at the epoch's end": {"filename": "{epoch}", "save_top_k": -1},
    "after training": {"filename": "{epoch}", "save_top_k": -1, "save_on_train_epoch_end": True},
    "at its last step": {"filename": "{epoch}", "save_top_k": -1, "every_n_train_steps": 5},
}


@pytest.mark.parametrize("how", SAVES)
@pytest.mark.parametrize("val", [False, True])
def test_a_resumed_run_has_bit_for_bit_the_weights_of_one_that_went_on(how: str, val: bool, tmp_path: Path) -> None:
    kind = Validated if val else Module
    whole, distiller, _ = run(logits, kind(), tmp_path / "whole", epochs=4, val=val, saves=SAVES[how])
    run(logits, kind(), tmp_path / "part", epochs=2, val=val, saves=SAVES[how])
    part, resumed, _ = run(
        logits, kind(), tmp_path / "on", epochs=4, val=val, ckpt=tmp_path / "part" / "epoch=1.ckpt", saves=SAVES[how]
    )
    assert same_weights(whole, part)
    assert [record["losses"] for record in resumed.history] == [record["losses"] for record in distiller.history]
    assert [record["epoch"] for record in resumed.history] == [0, 1, 2, 3]
    assert [record["steps"] for record in resumed.history] == [5] * 4
    assert resumed.step == 20


@pytest.mark.parametrize("make", [layers, Adversaries()], ids=["matchers", "discriminators"])
def test_what_trains_of_ours_goes_on_as_well(make: Any, tmp_path: Path) -> None:
    kind = Hidden if make is layers else Module
    whole, _, ours = run(make, kind(), tmp_path / "whole", epochs=4)
    run(make, kind(), tmp_path / "part", epochs=2, saves={"filename": "{epoch}"})
    path = tmp_path / "part" / "epoch=1.ckpt"
    part, _, theirs = run(make, kind(), tmp_path / "on", epochs=4, ckpt=path)
    assert same_weights(whole, part)
    assert ours and len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def test_a_checkpoint_holds_plain_data_and_its_student_is_the_users_own(tmp_path: Path) -> None:
    module, _, _ = run(layers, Hidden(), tmp_path, epochs=1, saves={"filename": "{epoch}"})
    content = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert list(content["state_dict"]) == list(Hidden().state_dict())
    assert [len(group["params"]) for group in content["optimizer_states"][0]["param_groups"]] == [6]
    ours = content["callbacks"]["DistillationCallback"]
    assert sorted(ours) == ["components", "distiller", "format", "generators", "steps", "student", "version"]
    assert ours["components"] == ["CE", "MSE[first]", "MSE[head]"] and ours["student"] == "model"
    fresh = Hidden()
    fresh.load_state_dict(content["state_dict"])
    optimizer = fresh.configure_optimizers()
    optimizer.load_state_dict(content["optimizer_states"][0])
    assert same_weights(fresh, module)


def test_resume_loads_weights_only(tmp_path: Path) -> None:
    run(layers, Hidden(), tmp_path, epochs=1, saves={"filename": "{epoch}"})
    distiller = layers()
    fit = trainer(DistillationCallback(distiller), epochs=2)
    fit.fit(Hidden(), loader(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert len(distiller.history) == 2


def test_a_resumed_run_in_the_middle_of_an_epoch_goes_on_counting(tmp_path: Path) -> None:
    run(logits, Module(), tmp_path, epochs=1, max_steps=3, saves={"filename": "{step}", "every_n_train_steps": 3})
    _, distiller, _ = run(logits, Module(), tmp_path, epochs=2, ckpt=tmp_path / "step=3.ckpt")
    assert distiller.step == 10
    assert [record["steps"] for record in distiller.history] == [5, 5]


def test_a_trainer_that_saves_after_its_fit_saves_the_last_state(tmp_path: Path) -> None:
    distiller = layers()
    fit = trainer(DistillationCallback(distiller), epochs=1)
    fit.fit(Hidden(), loader())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    ours = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["DistillationCallback"]
    assert ours["distiller"]["step"] == 5 and len(ours["distiller"]["criteria"]) == 1
    again = layers()
    trainer(DistillationCallback(again), epochs=2).fit(Hidden(), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert again.step == 10 and len(again.history) == 2


def test_a_checkpoint_at_an_exception_holds_what_was_there(tmp_path: Path) -> None:
    class Failing(Hidden):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                raise KeyError("the third")

    for before in (False, True):
        callbacks = [DistillationCallback(layers()), OnExceptionCheckpoint(tmp_path, f"failed-{before}")]
        with pytest.raises(KeyError, match="the third"):
            trainer(*(callbacks[::-1] if before else callbacks), enable_checkpointing=True).fit(Failing(), loader())
        content = torch.load(tmp_path / f"failed-{before}.ckpt", weights_only=True)
        state = content["callbacks"]["DistillationCallback"]["distiller"]
        assert state["step"] == 3 and state["steps_in_epoch"] == 3
        assert any(isinstance(one, torch.Tensor) for one in _leaves(state["criteria"]))


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in _leaves(one)]
    return [leaf for one in value for leaf in _leaves(one)] if isinstance(value, (list, tuple)) else [value]


def changed(tmp_path: Path, change: Any, make: Any = logits) -> str:
    """The error of a resumed run whose checkpoint was changed, with nothing of ours left behind."""
    run(make, Module(), tmp_path, epochs=1, saves={"filename": "{epoch}"})
    path = tmp_path / "epoch=0.ckpt"
    content = torch.load(path, weights_only=True)
    change(content["callbacks"]["DistillationCallback"])
    torch.save(content, path)
    module = Module()
    with pytest.raises(CheckpointError) as error:
        trainer(DistillationCallback(logits()), epochs=2).fit(module, loader(), ckpt_path=path)
    assert not module.model._forward_hooks and "training_step" not in vars(module)
    return str(error.value)


def test_a_newer_checkpoint_is_refused(tmp_path: Path) -> None:
    assert changed(tmp_path, lambda state: state.update(version=2)) == (
        "the distillation in this checkpoint is of version 2, and this kdhooks reads up to version 1: update kdhooks"
    )


def test_a_newer_state_of_the_distiller_is_refused(tmp_path: Path) -> None:
    assert changed(tmp_path, lambda state: state["distiller"].update(version=99)) == (
        "this state is of version 99, and this kdhooks reads up to version 1: update kdhooks"
    )


def test_a_state_of_another_callback_is_refused(tmp_path: Path) -> None:
    assert changed(tmp_path, lambda state: (state.clear(), state.update(other=1))) == (
        "what this checkpoint holds for DistillationCallback is not of kdhooks"
    )


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    assert changed(tmp_path, lambda state: state.pop("generators")) == (
        "the distillation in this checkpoint is damaged: it has no generators"
    )


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    def alone() -> Distillation:
        distiller = logits()
        distiller.criterion = [
            Distillation(
                {
                    "distillation": {
                        "train": {"criterion": {"KnowledgeDistillationLoss": {"loss_types": ["CE", "MSE"]}}}
                    }
                },
                student_model=made(1, Classifier),
            ).summed()[0]
        ]
        return distiller

    assert changed(tmp_path, lambda state: None, alone) == (
        "this checkpoint is of another configuration: it distilled CE, MSE, and this run distils CE, KL"
    )


def test_a_checkpoint_without_distillation_begins_one(tmp_path: Path) -> None:
    plain = trainer(epochs=1)
    plain.fit(Module(), loader())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    distiller = logits()
    trainer(DistillationCallback(distiller), epochs=3).fit(Module(), loader(), ckpt_path=tmp_path / "plain.ckpt")
    assert [record["epoch"] for record in distiller.history] == [1, 2]


def test_a_checkpoint_with_distillation_goes_on_without_it(tmp_path: Path) -> None:
    run(layers, Hidden(), tmp_path, epochs=1, saves={"filename": "{epoch}"})
    fit = trainer(epochs=2)
    fit.fit(Hidden(), loader(), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert fit.current_epoch == 2


def test_a_state_that_was_loaded_for_a_validation_is_not_used_by_a_later_fit(tmp_path: Path) -> None:
    run(logits, Validated(), tmp_path, epochs=1, saves={"filename": "{epoch}"})
    distiller = logits()
    fit = trainer(DistillationCallback(distiller), epochs=1)
    fit.validate(Validated(), loader(), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert len(distiller.history) == 0
    fit.fit(Validated(), loader())
    assert distiller.step == 5 and len(distiller.history) == 1
