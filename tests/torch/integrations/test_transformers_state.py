"""Checkpoints of transformers' `Trainer` with our state beside them: resumed bit by bit, and models without us."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from kdhooks.errors import CheckpointError
from tests.torch.integrations.trainer_parts import callback, llama, losses, rows, same, trainer, weights

PAIRS = [["model.layers.0", "model.layers.1"], ["model.norm"]]
EVERY_STEP = {"save_strategy": "steps", "save_steps": 1}


def run(folder: Path, resume: Any = None, **options: Any) -> Any:
    back = callback("causal", pairs=PAIRS, weights=(0.4, {"linear": {"from": 0.9, "to": 0.1, "steps": 8}}))
    options = {"max_steps": 8, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, **options}
    made = trainer(llama(1), folder, "causal", back, **options)
    made.train(resume_from_checkpoint=resume)
    return made


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in items for tensor in tensors(item)]


def state_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "kdhooks.pt", weights_only=True)
    return found


def without_times(history: Any) -> list[Any]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Eight steps without a break, three in each epoch, a checkpoint after each."""
    return run(tmp_path_factory.mktemp("whole"), **EVERY_STEP)


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_resumed_training_ends_in_the_same_bits(whole: Any, step: int, tmp_path: Path) -> None:
    resumed = run(tmp_path, Path(whole.args.output_dir, f"checkpoint-{step}"), **EVERY_STEP)
    assert same(weights(resumed.model), weights(whole.model))
    for name in ("loss", "kd_CE", "kd_KL", "kd_MSE[model.layers.0]", "kd_MSE[model.norm]"):
        assert losses(resumed, name) == losses(whole, name), name
    mine, theirs = (state_of(Path(one.args.output_dir, "checkpoint-8"))["distiller"] for one in (resumed, whole))
    assert without_times(mine["history"]) == without_times(theirs["history"]) and len(mine["history"]) == 2
    assert [record["steps"] for record in mine["history"]] == [3, 3]
    for record, at in zip(mine["history"], (0, 3), strict=True):  # means over the optimizer's steps, not their parts
        assert record["losses"]["CE"] == pytest.approx(sum(losses(whole, "kd_CE")[at : at + 3]) / 3, rel=1e-6)
    assert len(tensors(mine["criteria"])) >= 4
    assert all(map(torch.equal, tensors(mine["criteria"]), tensors(theirs["criteria"])))
    assert mine["step"] == 8


def test_true_resumes_the_last_checkpoint_of_the_folder(whole: Any, tmp_path: Path) -> None:
    first = run(tmp_path, max_steps=8, **{**EVERY_STEP, "save_total_limit": 1})
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*/kdhooks.pt")) == ["kdhooks.pt"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-8"]  # ours went with the rest
    more = run(tmp_path, True, max_steps=10)
    assert same(weights(first.model), weights(whole.model))
    assert [entry["step"] for entry in more.state.log_history if "kd_KL" in entry] == list(range(1, 11))


def test_what_is_saved_is_the_students_alone(tmp_path: Path) -> None:
    alone = trainer(llama(1), tmp_path / "alone", "causal", save_strategy="steps", save_steps=4)
    alone.train()
    both = run(tmp_path / "both", max_steps=4, save_strategy="steps", save_steps=4)
    for folder in ("alone", "both"):
        assert (tmp_path / folder / "checkpoint-4").is_dir()
    names = [{path.name for path in (tmp_path / folder / "checkpoint-4").iterdir()} for folder in ("alone", "both")]
    assert names[1] - names[0] == {"kdhooks.pt"} and not names[0] - names[1]
    saved = [load_file(tmp_path / folder / "checkpoint-4" / "model.safetensors") for folder in ("alone", "both")]
    assert saved[0].keys() == saved[1].keys()
    configs = [json.loads((tmp_path / one / "checkpoint-4" / "config.json").read_text()) for one in ("alone", "both")]
    assert configs[0] == configs[1]
    optimizer = torch.load(tmp_path / "both" / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert sum(len(group["params"]) for group in optimizer["param_groups"]) == len(list(llama(1).parameters()))
    both.save_model(str(tmp_path / "final"))
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "final")
    assert same(weights(loaded), weights(both.model))


def test_the_best_student_is_loaded_at_the_end(tmp_path: Path) -> None:
    made = run(
        tmp_path,
        max_steps=4,
        **{**EVERY_STEP, "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True},
        given={"eval_dataset": rows("causal", 5, seed=6)},
        save_total_limit=2,
        learning_rate=0.5,
    )
    best = made.state.best_model_checkpoint
    assert best is not None
    assert same(weights(made.model), weights(LlamaForCausalLM.from_pretrained(best)))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.model.modules())
    assert len(list(tmp_path.glob("checkpoint-*/kdhooks.pt"))) == len(list(tmp_path.glob("checkpoint-*"))) == 2


def test_models_alone_are_saved_without_our_state(tmp_path: Path) -> None:
    run(tmp_path, max_steps=1, **EVERY_STEP, save_only_model=True)
    assert not (tmp_path / "checkpoint-1" / "kdhooks.pt").exists()


def test_a_checkpoint_without_distillation_is_gone_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(llama(1), tmp_path, "causal", max_steps=2, save_strategy="steps", save_steps=2).train()
    monkeypatch.setattr(logging.getLogger("kdhooks"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="kdhooks"):
        made = run(tmp_path, True, max_steps=3, gradient_accumulation_steps=1, per_device_train_batch_size=3)
    folder = tmp_path / "checkpoint-2"
    assert [record.getMessage() for record in caplog.records if record.name.startswith("kdhooks")] == [
        f"{folder} has no kdhooks.pt: it was saved without distillation, so matchers, schedules and history begin anew "
        "at step 2"
    ]
    assert [entry["step"] for entry in made.state.log_history if "kd_KL" in entry] == [3]


BAD = {
    "another step": (
        lambda content: {**content, "step": 7},
        "{path} is of step 7, and the checkpoint beside it of step 2: one of them was copied from elsewhere",
    ),
    "newer": (
        lambda content: {**content, "version": 99},
        "the checkpoint {path} is of version 99, and this kdhooks reads up to version 1: update kdhooks",
    ),
    "another configuration": (
        lambda content: {**content, "distiller": {**content["distiller"], "criteria": []}},
        "this state holds 0 criteria with parameters, and this run has 1: it belongs to another configuration",
    ),
    "damaged": (None, "{path} is damaged, or no checkpoint of kdhooks"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_state_is_refused_and_nothing_is_lost(case: str, whole: Any, tmp_path: Path) -> None:
    change, message = BAD[case]
    source, folder = Path(whole.args.output_dir, "checkpoint-2"), tmp_path / "checkpoint-2"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / "kdhooks.pt"
    if change is None:
        path.write_bytes(path.read_bytes()[:900])
    else:
        torch.save(change(torch.load(path, weights_only=True)), path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError) as caught:
        run(tmp_path, folder)
    assert str(caught.value) == message.format(path=path)
    assert path.read_bytes() == before
