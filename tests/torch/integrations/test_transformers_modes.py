"""The callback beside what a `Trainer` can be told: precision, checkpointing, compilation, other outputs and inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.integrations.transformers import DistillationCallback
from kdhooks.integrations.transformers.batches import TeacherInputs, size_of, student_input, target_of
from tests.torch.integrations.trainer_parts import MODELS, callback, conf, llama, losses, rows, same, trainer, weights

PAIRS = [["model.layers.0", "model.layers.1"], ["model.norm"]]


def test_checkpointed_activations_change_nothing(tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        back = callback("causal", pairs=PAIRS)
        made = trainer(llama(1), tmp_path / str(checkpointing), "causal", back, activation_checkpointing=checkpointing)
        made.train()
        found.append((losses(made), losses(made, "kd_MSE[model.layers.0]"), weights(made.model)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)
    assert all(torch.allclose(found[0][2][name], value, atol=1e-6) for name, value in found[1][2].items())


def test_the_teacher_computes_in_the_trainers_precision(tmp_path: Path) -> None:
    back = callback("causal", pairs=PAIRS)
    dtypes: list[torch.dtype] = []
    layer = back.distiller.teacher_model.model.layers[0].mlp.up_proj
    handle = layer.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    made = trainer(llama(1), tmp_path, "causal", back, bf16=True)
    made.train()
    handle.remove()
    assert dtypes == [torch.bfloat16] * 4
    exact = trainer(llama(1), tmp_path / "fp32", "causal", callback("causal", pairs=PAIRS))
    exact.train()
    assert losses(made) == pytest.approx(losses(exact), rel=0.05) and losses(made) != losses(exact)
    alone = trainer(llama(1), tmp_path / "alone", "causal", bf16=True)
    alone.train()
    zero = trainer(llama(1), tmp_path / "zero", "causal", callback("causal", weights=(1.0, 0.0)), bf16=True)
    zero.train()
    assert same(weights(alone.model), weights(zero.model))


def test_a_compiled_student_is_distilled_alike(tmp_path: Path) -> None:
    found = []
    for compiled in (False, True):
        back = callback("causal", pairs=PAIRS)
        options = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
        made = trainer(llama(1), tmp_path / str(compiled), "causal", back, max_steps=2, **options)
        made.train()
        found.append((losses(made), losses(made, "kd_MSE[model.norm]"), losses(made, "kd_KL")))
        assert not any(module._forward_hooks for module in made.model.modules())
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


class TwoNames(nn.Module):
    """A student with a loss of its own kind: logits are called ``scores``, the input stands first."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table, self.head = nn.Embedding(23, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        scores = self.head(self.table(input_ids).mean(1))
        found = {"scores": scores}
        return found if labels is None else {"loss": nn.functional.cross_entropy(scores, labels), **found}


def test_models_that_are_none_of_transformers(tmp_path: Path) -> None:
    configuration = {**conf(), "model": {"outputs": ["scores"]}}
    back = DistillationCallback(Distillation(configuration, teacher_model=TwoNames(9)))
    made = trainer(TwoNames(1), tmp_path / "both", "sequences", back, gradient_accumulation_steps=2)
    made.train()
    assert len(losses(made, "kd_KL")) == 4
    zero = {**conf(weights=(1.0, 0.0)), "model": {"outputs": ["scores"]}}
    back = DistillationCallback(Distillation(zero, teacher_model=TwoNames(9)))
    both = trainer(TwoNames(1), tmp_path / "zero", "sequences", back, gradient_accumulation_steps=2)
    alone = trainer(TwoNames(1), tmp_path / "alone", "sequences", gradient_accumulation_steps=2)
    both.train()
    alone.train()
    assert same(weights(both.model), weights(alone.model)) and losses(both) == losses(alone)
    assert losses(both, "kd_CE") == pytest.approx(losses(alone), rel=1e-6)


def test_a_teacher_may_get_another_input(tmp_path: Path) -> None:
    seen: list[Mapping[str, Tensor]] = []

    def other(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen.append(batch)
        return {"input_ids": batch["input_ids"].flip(1), "attention_mask": batch["attention_mask"].flip(1)}

    given: list[Tensor] = []
    teacher = MODELS["sequences"](9)
    hook = lambda module, args, kwargs: given.append(kwargs["input_ids"])  # noqa: E731
    teacher.register_forward_pre_hook(hook, with_kwargs=True)
    back = DistillationCallback(Distillation(conf(), teacher_model=teacher), teacher_inputs=other)
    trainer(MODELS["sequences"](1), tmp_path, "sequences", back, max_steps=2).train()
    assert all(set(batch) == {"input_ids", "attention_mask", "labels"} for batch in seen)
    assert len(given) == 2 and all(map(torch.equal, given, [batch["input_ids"].flip(1) for batch in seen]))


class Narrow(nn.Module):
    """A teacher that takes tokens alone."""

    def forward(self, input_ids: Tensor, use_cache: bool = True) -> Tensor:
        return input_ids


def test_what_a_teacher_gets() -> None:
    batch = {"input_ids": torch.ones(2, 3), "attention_mask": torch.ones(2, 3)}
    narrow = TeacherInputs(Narrow(), [Narrow()], caches=False)
    assert set(narrow(batch, None)) == {"input_ids", "use_cache"} and narrow(batch, None)["use_cache"] is False
    assert set(TeacherInputs(Narrow(), [Narrow()], caches=True)(batch, None)) == {"input_ids"}  # the store's key
    tensor = torch.ones(2)
    assert narrow(tensor, None) is tensor
    decoder = TeacherInputs(MODELS["seq2seq"](1), [MODELS["seq2seq"](2)], caches=True)
    labels = torch.tensor([[4, 5, -100]])
    assert decoder(batch, labels)["decoder_input_ids"].tolist() == [[0, 4, 5]]
    there = {**batch, "decoder_input_ids": labels}
    assert decoder(there, labels)["decoder_input_ids"] is labels


def test_what_the_student_got() -> None:
    model, tokens, mask = Narrow(), torch.ones(2, 3), torch.ones(2)
    assert student_input(model, (tokens,), {"labels": mask}, ["labels"]) is tokens
    assert student_input(model, (tokens, mask), {}, []) == (tokens, mask)
    assert student_input(model, (tokens,), {"use_cache": False, "num_items_in_batch": 3}, []) == {
        "input_ids": tokens,
        "use_cache": False,
    }


def test_labels_in_the_places_of_logits() -> None:
    logits, labels = torch.zeros(2, 3, 5), torch.tensor([[1, 2, 3], [4, -100, 0]])
    shifted = target_of({"labels": labels}, logits, (), True)
    assert shifted is not None and shifted.tolist() == [[2, 3, -100], [-100, 0, -100]]
    assert target_of({"labels": labels, "shift_labels": labels}, logits, (), True) is labels
    assert target_of({"labels": labels}, logits, (), False) is labels
    assert target_of({"labels": labels}, torch.zeros(2, 4, 5), (), False) is None  # a transcription, of frames
    assert target_of({"labels": labels.float()}, logits, (), False) is None
    assert target_of({}, logits, (), True) is None
    assert target_of({"labels": labels}, {"loss": None}, (), False) is labels  # a head that was skipped


def test_the_size_of_a_batch() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert int(size_of({"input_ids": torch.zeros(2, 3), "attention_mask": mask}, "input_ids")) == 3
    assert size_of({"labels": torch.zeros(2), "pixel_values": torch.zeros(2, 3, 4, 4)}, "pixel_values") == 96
    assert size_of({"rows": torch.zeros(2, 5)}, "input_ids") == 10


def test_without_labels_padding_is_left_out(tmp_path: Path) -> None:
    from transformers import Trainer

    class Unlabelled(Trainer):
        """The student only follows the teacher."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            outputs = model(**inputs)
            loss = outputs.logits.sum() * 0
            return (loss, outputs) if return_outputs else loss

    data = [{key: value for key, value in row.items() if key != "labels"} for row in rows("causal")]
    options: dict[str, Any] = {"given": {"train_dataset": data}, "train_sampling_strategy": "sequential"}
    made = trainer(llama(1), tmp_path, "causal", callback("causal"), Unlabelled, max_steps=1, **options)
    made.train()
    from tests.torch.integrations.trainer_parts import padded

    batch = padded(data[:3])
    with torch.no_grad():
        ours, theirs = (model(**batch).logits / 2 for model in (llama(1), llama(9, width=32)))
    each = nn.functional.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    expected = 4 * float(each[batch["attention_mask"].bool()].mean())
    assert losses(made, "kd_KL") == [pytest.approx(expected, rel=1e-5)]
