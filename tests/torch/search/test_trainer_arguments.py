"""What TrainingArguments of transformers become in the configuration of a search."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainingArguments

from kdhooks.config import DistillationConf
from kdhooks.config.model import Named
from kdhooks.errors import UsageError
from kdhooks.search.trainers.arguments import DefaultArguments, fill_in

BARE = {"auto_distillation": {"search": {"search_space": {"width": [1, 2]}}}}


def filled(args: Any, conf: dict[str, Any] | None = None, batches: int | None = 10, seed: int = 3) -> DistillationConf:
    made = DistillationConf(BARE if conf is None else conf)
    fill_in(made, args, batches, seed=seed)
    return made


def train_of(args: Any, batches: int | None = 10) -> Any:
    own = filled(args, batches=batches).settings.auto_distillation
    assert own is not None
    return own.train


def test_without_arguments_small_students_are_trained_from_random_weights() -> None:
    train = train_of(DefaultArguments())
    assert (train.optimizer.name, train.optimizer.options) == ("AdamW", {"learning_rate": 5e-4, "weight_decay": 0.01})
    assert train.scheduler.name == "Linear"
    assert (train.end_epoch, train.steps, train.gradient_clipping, train.precision) == (3, None, 1.0, None)


def test_arguments_of_transformers_are_read(tmp_path: Path) -> None:
    args = TrainingArguments(
        output_dir=str(tmp_path),
        learning_rate=3e-4,
        weight_decay=0.1,
        adam_beta2=0.98,
        num_train_epochs=2,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        gradient_accumulation_steps=2,
        max_grad_norm=0.5,
        use_cpu=True,
        report_to=[],
    )
    conf = filled(args)
    train = conf.settings.auto_distillation.train  # type: ignore[union-attr]
    assert train is not None and train.scheduler is not None
    assert train.optimizer.options == {"learning_rate": 3e-4, "weight_decay": 0.1, "betas": [0.9, 0.98], "eps": 1e-8}
    assert (train.scheduler.name, train.scheduler.options) == ("CosineAnnealing", {"warmup_steps": 5})
    assert (train.end_epoch, train.gradient_accumulation, train.gradient_clipping) == (2, 2, 0.5)
    assert conf.settings.device == "cpu"
    assert conf.workspace == tmp_path
    assert conf.settings.auto_distillation.search.seed == 3  # type: ignore[union-attr]


def test_steps_and_parts_of_epochs_are_steps() -> None:
    assert train_of(SimpleNamespace(max_steps=25, gradient_accumulation_steps=2)).steps == 50
    assert train_of(SimpleNamespace(num_train_epochs=0.25)).steps == 3
    assert train_of(SimpleNamespace(num_train_epochs=2.0)).steps is None
    assert train_of(SimpleNamespace(num_train_epochs=1.5), batches=None).end_epoch == 2


def test_a_share_of_warm_up_is_a_number_of_steps() -> None:
    args = SimpleNamespace(warmup_ratio=0.1, num_train_epochs=4, gradient_accumulation_steps=2)
    assert train_of(args).scheduler.options == {"warmup_steps": 2}
    assert train_of(args, batches=None).scheduler.options == {}


def test_a_constant_rate_needs_no_scheduler() -> None:
    assert train_of(SimpleNamespace(lr_scheduler_type="constant", warmup_steps=5)).scheduler is None
    warmed = train_of(SimpleNamespace(lr_scheduler_type="constant_with_warmup", warmup_steps=5)).scheduler
    assert (warmed.name, warmed.options) == ("Constant", {"warmup_steps": 5})


def test_half_precision_is_the_students() -> None:
    assert train_of(SimpleNamespace(bf16=True)).precision == "bf16"
    assert train_of(SimpleNamespace(fp16=True)).precision == "fp16"


@pytest.mark.parametrize("section", ["auto_distillation", "distillation"])
def test_the_configuration_comes_first(section: str) -> None:
    train = {"optimizer": {"SGD": {"learning_rate": 0.1}}, "epoch": 7}
    content: dict[str, Any] = {"auto_distillation": {"search": {**BARE["auto_distillation"]["search"], "seed": 9}}}
    content.setdefault(section, {})["train"] = train
    conf = filled(SimpleNamespace(max_steps=5, output_dir="here"), content)
    whole = conf.settings
    assert whole.auto_distillation is not None
    own = whole.auto_distillation.train if section == "auto_distillation" else whole.distillation.train
    assert own is not None and own.scheduler is not None
    assert isinstance(own.optimizer, Named) and own.optimizer.name == "SGD"
    assert (own.end_epoch, own.steps, own.scheduler.name) == (7, None, "Linear")
    assert whole.auto_distillation.search.seed == 9
    assert (section == "distillation") is (whole.auto_distillation.train is None)


def test_what_has_no_counterpart_is_told() -> None:
    with pytest.raises(UsageError) as caught:
        filled(SimpleNamespace(optim="lion_8bit"))
    assert str(caught.value) == (
        "args.optim is 'lion_8bit', which has no counterpart in the built-in training of candidates: name one in "
        "auto_distillation.train.optimizer. Those of args that have: adafactor, adagrad, adamw_hf, adamw_torch, "
        "adamw_torch_fused, rmsprop, sgd"
    )
    with pytest.raises(UsageError, match=r"^args.lr_scheduler_type is 'cosine_with_restarts', which has no"):
        filled(SimpleNamespace(lr_scheduler_type="cosine_with_restarts"))


def test_what_is_not_used_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="kdhooks"):
        filled(SimpleNamespace(label_smoothing_factor=0.1, gradient_checkpointing=True))
    assert caplog.messages == [
        "the built-in training of candidates does not use args.label_smoothing_factor, args.gradient_checkpointing"
    ]
