"""The arguments of the older toolkit's table that say where it runs and what is kept; see `test_arguments`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from kdhooks import KnowledgeDistillationTraining
from kdhooks.training import running
from tests.torch.training.setups import (
    BATCH,
    Accuracy,
    Recorder,
    classifier,
    linear,
    loader,
    same,
    trained,
    training,
    weights,
)

# ---- where it runs ---------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the Trainer is told, in place of training."""
    found: dict[str, Any] = {}

    class Told:
        def __init__(self, **arguments: Any) -> None:
            found.update(arguments)

        def fit(self, *args: Any, **kwargs: Any) -> None:
            return None

    monkeypatch.setattr(running, "Trainer", Told)
    return found


def cuda(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)


DDP = "ddp_find_unused_parameters_true"


@pytest.mark.parametrize(
    ("used", "expected"),
    [(0, ("cpu", 1, "auto")), (1, ("cuda", 1, "auto")), (3, ("cuda", 3, DDP)), (-1, ("cuda", 4, DDP))],
)
def test_num_gpu_used_is_how_many_the_trainer_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], used: int, expected: tuple[Any, ...]
) -> None:
    run = training_on(monkeypatch, tmp_path, 4, num_gpu_used=used)
    run.start_kd_training()
    assert (told["accelerator"], told["devices"], told["strategy"]) == expected


@pytest.mark.parametrize(
    ("accelerator", "there", "expected"),
    [
        (None, 2, ("cpu", 1, "auto")),
        ("cpu", 2, ("cpu", 1, "auto")),
        ("gpu", 2, ("cuda", 1, "auto")),
        ("cuda", 2, ("cuda", 1, "auto")),
        ("auto", 2, ("cuda", 1, "auto")),
        ("auto", 0, ("cpu", 1, "auto")),
        ("ddp", 2, ("cpu", 1, DDP)),
        ("ddp_cpu", 2, ("cpu", 1, DDP)),
    ],
)
def test_accelerator_is_the_kind_of_device_or_the_way_to_spread(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: dict[str, Any],
    accelerator: str | None,
    there: int,
    expected: tuple[Any, ...],
) -> None:
    training_on(monkeypatch, tmp_path, there, accelerator=accelerator).start_kd_training()
    assert (told["accelerator"], told["devices"], told["strategy"]) == expected


def test_num_nodes_is_how_many_machines_the_trainer_expects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any]
) -> None:
    training_on(monkeypatch, tmp_path, 0, num_nodes=3).start_kd_training()
    assert (told["num_nodes"], told["devices"], told["strategy"]) == (3, 1, DDP)


def training_on(
    monkeypatch: pytest.MonkeyPatch, folder: Path, devices: int, **changes: Any
) -> KnowledgeDistillationTraining:
    cuda(monkeypatch, devices)
    monkeypatch.setattr(running, "seed_everything", lambda *args, **kwargs: None)  # which would wake CUDA
    return training(folder, **changes)


def test_precision_is_what_the_student_computes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdhooks.training.hardware.low_precision", lambda device: "bf16")
    found = {}
    for precision in (32, 16, 64):
        seen: list[torch.dtype] = []
        student = linear(1)
        student.register_forward_hook(lambda module, given, output, seen=seen: seen.append(output.dtype))
        trained(tmp_path, student_model=student, train_data_loader=loader(rows=BATCH), precision=precision)
        found[precision] = seen
    assert found == {32: [torch.float32], 16: [torch.bfloat16], 64: [torch.float64]}


def test_deterministic_holds_while_it_trains_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)  # other trainers leave it
    for wanted in (True, False):
        seen: list[bool] = []
        student = linear(1)
        student.register_forward_hook(
            lambda module, given, output, seen=seen: seen.append(torch.are_deterministic_algorithms_enabled())
        )
        trained(tmp_path, student_model=student, deterministic=wanted)
        assert set(seen) == {wanted}
        assert not torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


# ---- what is kept ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "adamW_distilBert"])
def test_resume_from_checkpoint_goes_on_bit_for_bit(tmp_path: Path, name: str) -> None:
    def run(epochs: int, checkpoint: Any = "", seed: int = 32) -> KnowledgeDistillationTraining:
        return trained(
            tmp_path,
            student_model=classifier(seed),
            seed=seed,
            train_data_loader=loader(shuffle=True),
            val_data_loaders={"v": loader(7, shuffle=True)},
            inference_pipeline=Accuracy(),
            optimize_method=name,
            scheduler_method="cosine_anneal",
            max_epoch=epochs,
            resume_from_checkpoint=checkpoint,
        )

    whole, half = run(4), run(2)
    assert half.folder is not None and whole.folder is not None
    rest = run(4, half.folder / "last.ckpt", seed=5)  # all of it comes from the checkpoint
    assert rest.folder is not None
    states = [torch.load(one.folder / "last.ckpt", weights_only=True) for one in (whole, rest)]  # type: ignore[operator]
    assert same(states[0]["state_dict"], states[1]["state_dict"])
    assert [record["losses"] for record in whole.history] == [record["losses"] for record in rest.history]
    assert [record["metrics"] for record in whole.history] == [record["metrics"] for record in rest.history]
    assert [record["learning_rate"] for record in whole.history] == [record["learning_rate"] for record in rest.history]
    assert same(weights(whole.get_student_model()), weights(rest.get_student_model()))


def test_logging_param_is_saved_with_the_loggers(tmp_path: Path) -> None:
    log = Recorder()
    run = trained(tmp_path, logging_param={"width": 8, "note": "small"}, loggers=[log])
    assert log.parameters == {"width": 8, "note": "small"}
    assert run.folder is not None
    assert (run.folder / "hparams.yaml").read_text(encoding="utf-8") == "note: small\nwidth: 8\n"
