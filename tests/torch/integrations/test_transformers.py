"""The callback of transformers' `Trainer`: nothing changes at weight 0, and what is learned is what the hooks say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Trainer

from kdhooks import Distillation
from kdhooks.integrations.transformers import DistillationCallback
from tests.torch.integrations.trainer_parts import (
    MODELS,
    callback,
    conf,
    llama,
    losses,
    padded,
    rows,
    same,
    trainer,
    weights,
)

every_task = pytest.mark.parametrize("task", MODELS)


def with_decoder(batch: list[Mapping[str, Tensor]]) -> dict[str, Any]:
    """As transformers' collator for sequence-to-sequence models does."""
    made = padded(batch)
    return {**made, "decoder_input_ids": MODELS["seq2seq"](1).prepare_decoder_input_ids_from_labels(made["labels"])}


def own_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
    """A user's `compute_loss_func`."""
    logits = outputs["logits"]
    loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")
    return 0.7 * loss / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


class Halved(Trainer):
    """A user's subclass with a loss of its own, a mean over each micro-batch."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        return (loss / 2, outputs) if return_outputs else loss / 2


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 2},
    "smoothed": {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2},
    "own loss": {"given": {"compute_loss_func": own_loss}, "gradient_accumulation_steps": 2},
    "subclass": {"kind": Halved, "gradient_accumulation_steps": 2},
    "tuples": {"tuples": True},
}


def trained(folder: Path, task: str, way: str, back: Any = None, **more: Any) -> Any:
    options = {**WAYS[way], **more}
    model = MODELS[task](1)
    if options.pop("tuples", False):
        model.config.return_dict = False
    given = dict(options.pop("given", {}))
    if task == "seq2seq" and ("label_smoothing_factor" in options or given):
        given["data_collator"] = with_decoder
    made = trainer(model, folder, task, back, given=given, **options)
    made.train()
    return made


@pytest.mark.parametrize(
    ("task", "way"),
    [("causal", way) for way in WAYS if way != "tuples"]
    + [("masked", "tuples")]
    + [(task, way) for task in list(MODELS)[1:] for way in ("accumulated", "smoothed")],
)
def test_weights_of_zero_leave_a_trainer_as_it_is(task: str, way: str, tmp_path: Path) -> None:
    alone = trained(tmp_path / "alone", task, way, eval_strategy="steps", eval_steps=2, **evaluated(task, way))
    back = callback(task, weights=(1.0, 0.0))
    both = trained(tmp_path / "both", task, way, back, eval_strategy="steps", eval_steps=2, **evaluated(task, way))
    assert same(weights(alone.model), weights(both.model))
    assert losses(alone) == losses(both) and losses(alone, "grad_norm") == losses(both, "grad_norm")
    assert losses(alone, "eval_loss") == losses(both, "eval_loss") and len(losses(both, "eval_loss")) == 2
    assert losses(both, "kd_CE") == pytest.approx(losses(both), rel=1e-6)
    assert not losses(both, "kd_KL")


def evaluated(task: str, way: str) -> dict[str, Any]:
    return {"given": {**WAYS[way].get("given", {}), "eval_dataset": rows(task, 5, seed=6)}}


@every_task
def test_terms_look_at_what_the_labels_count(task: str, tmp_path: Path) -> None:
    student, teacher = MODELS[task](1).eval(), MODELS[task](9, width=32).eval()
    batch = padded(rows(task)[:3])
    with torch.no_grad():
        ours, theirs = student(**batch).logits, teacher(**batch).logits
    labels = F.pad(batch["labels"], (0, 1), value=-100)[..., 1:] if task == "causal" else batch["labels"]
    counted = labels != -100
    divergence = F.kl_div((ours / 2).log_softmax(-1), (theirs / 2).log_softmax(-1), reduction="none", log_target=True)
    expected = 4 * float(divergence.sum(-1)[counted].mean())
    assert task == "sequences" or bool((~counted).any())

    model = MODELS[task](1, **({} if task == "causal" else {"dropout": 0.0}))
    made = trainer(model, tmp_path, task, callback(task), max_steps=1, train_sampling_strategy="sequential")
    made.train()
    assert losses(made, "kd_KL") == [pytest.approx(expected, rel=1e-5)]
    assert losses(made)[0] == pytest.approx(0.4 * losses(made, "kd_CE")[0] + 0.6 * expected, rel=1e-5)


PAIRS = [["model.layers.0", "model.layers.1"], ["model.norm"]]


def test_features_leave_out_padding(tmp_path: Path) -> None:
    back = callback("causal", pairs=[["model.norm"]])
    back.distiller.teacher_model = llama(9)  # as wide as the student, so that nothing has to match
    made = trainer(llama(1), tmp_path, "causal", back, max_steps=1, train_sampling_strategy="sequential")
    made.train()
    batch = padded(rows("causal")[:3])
    with torch.no_grad():
        ours, theirs = (llama(seed).model(batch["input_ids"], batch["attention_mask"])[0] for seed in (1, 9))
    kept = batch["attention_mask"].bool()
    assert int((~kept).sum()) > 0
    expected = float((ours - theirs).square()[kept].mean())
    assert losses(made, "kd_MSE[model.norm]") == [pytest.approx(expected, rel=1e-5)]


def test_the_losses_and_weights_are_those_of_the_bare_hooks(tmp_path: Path) -> None:
    configuration = conf(pairs=PAIRS, feature_mask="attention_mask")
    student, found = llama(1), []
    distiller = Distillation(configuration, student_model=student, teacher_model=llama(9, width=32))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    data = rows("causal")
    with distiller:
        for start in range(0, 12, 3):
            batch = padded(data[start : start + 3])
            output = student(**batch)
            given = {name: batch[name] for name in ("input_ids", "attention_mask")}
            target = F.pad(batch["labels"], (0, 1), value=-100)[..., 1:]
            loss = distiller.on_after_compute_loss(given, output, output.loss, target=target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(distiller.losses)

    other = llama(1)
    back = DistillationCallback(Distillation(conf(pairs=PAIRS), teacher_model=llama(9, width=32)))
    options = {"train_sampling_strategy": "sequential", "max_grad_norm": 0.0}
    made = trainer(other, tmp_path, "causal", back, **options)
    made.train()
    for name in ("CE", "KL", "MSE[model.layers.0]", "MSE[model.norm]"):
        assert losses(made, f"kd_{name}") == [pytest.approx(step[name], rel=1e-6) for step in found]
    assert losses(made) == [pytest.approx(step["total"], rel=1e-6) for step in found]
    for name, value in weights(other).items():
        assert torch.allclose(value, student.state_dict()[name], rtol=0, atol=1e-6), name


class Gradients(Trainer):
    """Keeps the gradients that the optimizer gets at the first step."""

    kept: dict[str, Tensor]

    def create_optimizer(self, model: Any = None) -> Any:
        made = super().create_optimizer(model)
        self.kept = {}

        def keep(optimizer: Any, args: Any, kwargs: Any) -> None:
            theirs = {id(one): name for name, one in self.model.named_parameters()}
            every = [one for group in optimizer.param_groups for one in group["params"]]
            own = iter(range(len(every)))
            named = {theirs.get(id(one)) or f"matcher{next(own)}": one.grad.clone() for one in every}
            self.kept = self.kept or named

        made.register_step_pre_hook(keep)
        return made


@pytest.mark.parametrize("pairs", [None, [["model.norm"], ["model.layers.0"]]], ids=["logits", "features"])
def test_accumulation_over_unequal_micro_batches_is_the_one_big_batch(pairs: Any, tmp_path: Path) -> None:
    grads = {}
    for parts in (1, 2, 6):
        made = trainer(
            *(llama(1), tmp_path / str(parts), "causal", callback("causal", pairs=pairs), Gradients),
            per_device_train_batch_size=6 // parts,
            gradient_accumulation_steps=parts,
            max_steps=1,
            train_sampling_strategy="sequential",
        )
        made.train()
        grads[parts] = made.kept, losses(made, "loss"), losses(made, "kd_KL")
    assert len(grads[1][0]) == len(list(llama(1).parameters())) + (0 if pairs is None else 4)
    for parts in (2, 6):
        for name, gradient in grads[1][0].items():
            assert torch.allclose(grads[parts][0][name], gradient, rtol=0, atol=1e-6), name
        assert grads[parts][1] == pytest.approx(grads[1][1], rel=1e-6)
        assert grads[parts][2] == pytest.approx(grads[1][2], rel=1e-6)
    counts = {int((row["labels"][1:] != -100).sum()) for row in rows("causal")[:6]}
    assert len(counts) > 1  # or the test would show nothing


@pytest.mark.parametrize("way", ["smoothed", "own loss", "subclass"])
def test_the_teachers_share_is_the_same_however_the_loss_is_made(way: str, tmp_path: Path) -> None:
    options = {"per_device_train_batch_size": 3, "max_steps": 1, "train_sampling_strategy": "sequential"}
    made = trained(tmp_path, "causal", way, callback("causal"), **options)
    student, teacher = llama(1).eval(), llama(9, width=32).eval()
    sums, counts = [], []
    for at in (0, 3):
        batch = padded(rows("causal")[at : at + 3])
        with torch.no_grad():
            ours, theirs = (
                model(batch["input_ids"], batch["attention_mask"]).logits / 2 for model in (student, teacher)
            )
        counted = F.pad(batch["labels"], (0, 1), value=-100)[..., 1:] != -100
        each = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        sums.append(4 * float(each[counted].sum()))
        counts.append(int(counted.sum()))
    means = [one / count for one, count in zip(sums, counts, strict=True)]
    expected = sum(means) / 2 if way == "subclass" else sum(sums) / sum(counts)
    assert losses(made, "kd_KL") == [pytest.approx(expected, rel=1e-5)]
    assert losses(made)[0] == pytest.approx(0.4 * losses(made, "kd_CE")[0] + 0.6 * expected, rel=1e-5)


def test_logs_hold_means_since_the_last_log(tmp_path: Path) -> None:
    each = trainer(llama(1), tmp_path / "each", "causal", callback("causal"), max_steps=6)
    third = trainer(llama(1), tmp_path / "third", "causal", callback("causal"), max_steps=6, logging_steps=3)
    each.train()
    third.train()
    for name in ("loss", "kd_CE", "kd_KL"):
        singles = losses(each, name)
        expected = [math.fsum(singles[at : at + 3]) / 3 for at in (0, 3)]
        assert losses(third, name) == pytest.approx(expected, rel=1e-6)
    assert [entry["step"] for entry in third.state.log_history if "kd_KL" in entry] == [3, 6]


def test_schedules_count_the_optimizers_steps(tmp_path: Path) -> None:
    schedule = {"linear": {"from": 1.0, "to": 0.0, "steps": 4}}
    made = trainer(
        *(llama(1), tmp_path, "causal", callback("causal", weights=(0.0, schedule))), gradient_accumulation_steps=2
    )
    made.train()
    factors = [total / value for total, value in zip(losses(made), losses(made, "kd_KL"), strict=True)]
    assert factors == pytest.approx([1.0, 0.75, 0.5, 0.25], rel=1e-5)


def test_an_evaluation_is_the_students_alone(tmp_path: Path) -> None:
    back = callback("causal", pairs=[["model.norm"]])
    calls: list[bool] = []
    back.distiller.teacher_model.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    made = trainer(
        *(llama(1), tmp_path, "causal", back),
        given={"eval_dataset": rows("causal", 4, seed=8)},
        eval_strategy="steps",
        eval_steps=2,
        eval_on_start=True,
    )
    made.train()
    assert len(calls) == 4 and len(losses(made, "eval_loss")) == 3
    student = llama(1)
    batch = padded(rows("causal", 4, seed=8))
    assert losses(made, "eval_loss")[0] == pytest.approx(student(**batch).loss.item(), rel=1e-5)
