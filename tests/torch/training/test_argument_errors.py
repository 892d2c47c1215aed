"""What is wrong with the arguments is said at once, in whole, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdhooks import KnowledgeDistillationTraining
from kdhooks.errors import MissingPackageError, UsageError
from kdhooks.training.hardware import find_hardware, nearest_precision
from tests.torch.training.setups import Accuracy, Scores, linear, loader, training


def message(folder: Path, **changes: Any) -> str:
    with pytest.raises(UsageError) as caught:
        training(folder, **changes)
    assert not list(folder.iterdir())
    return str(caught.value)


LOADER = loader(7)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"student_model": None}, "student_model is missing: the model that learns, a torch.nn.Module"),
        ({"teacher_model": None}, "teacher_model is missing: the model that it learns from, a torch.nn.Module"),
        ({"teacher_model": "resnet"}, "teacher_model must be a torch.nn.Module, not 'resnet'"),
        ({"teacher_model": [linear(1), 3]}, "teacher_model must be a torch.nn.Module, not a list"),
        (
            {"student_model": linear(1).requires_grad_(False)},
            "student_model has no parameter that requires a gradient: there is nothing to train",
        ),
        (
            {"train_data_loader": None},
            "train_data_loader is missing: a torch.utils.data.DataLoader of the training data",
        ),
        ({"train_data_loader": 3}, "train_data_loader must be a torch.utils.data.DataLoader, not 3"),
        ({"max_epoch": 0}, "max_epoch must be a whole number from 1 on, not 0"),
        ({"accumulate_grad_batches": 1.5}, "accumulate_grad_batches must be a whole number from 1 on, not 1.5"),
        ({"num_nodes": True}, "num_nodes must be a whole number from 1 on, not true"),
        ({"num_lr_warm_up_epoch": -1}, "num_lr_warm_up_epoch must be a whole number from 0 on, not -1"),
        (
            {"scheduler_method": "linear_decay_with_warm_up", "num_lr_warm_up_epoch": 3, "max_epoch": 2},
            "num_lr_warm_up_epoch is 3, and max_epoch only 2: the rate would never be reached",
        ),
        ({"optimize_method": "Adam"}, "optimize_method: there is no 'Adam'. Did you mean 'adam'?"),
        ({"scheduler_method": "cosine"}, "scheduler_method: there is no 'cosine'. Did you mean 'cosine_anneal'?"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0, not 0"),
        ({"temperature": "4"}, "temperature must be a number above 0, not '4'"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, or None, not -1"),
        (
            {"track_grad_norm": 0},
            "track_grad_norm must be the order of a norm, a number above 0 or 'inf', or -1 for none, not 0",
        ),
        (
            {"track_grad_norm": "two"},
            "track_grad_norm must be the order of a norm, a number above 0 or 'inf', or -1 for none, not 'two'",
        ),
        ({"final_loss_coeff_dict": [1]}, "final_loss_coeff_dict must be a mapping of names to numbers, not a list"),
        (
            {"final_loss_coeff_dict": {"student_loss": 1}},
            "final_loss_coeff_dict has no coefficient for 'kd_loss', which is always a component: write {'kd_loss': 0, "
            "...} to leave it out",
        ),
        (
            {"final_loss_coeff_dict": {"kd_loss": "1"}},
            "final_loss_coeff_dict: the coefficient of 'kd_loss' must be a number, not '1'",
        ),
        (
            {"final_loss_coeff_dict": {"kd_loss": 0}},
            "final_loss_coeff_dict has only coefficients of 0: nothing would be learned",
        ),
        (
            {"final_loss_coeff_dict": {"kd_loss": 1, "total": 1}},
            "final_loss_coeff_dict: 'total' can't be the name of a component",
        ),
        ({"logging_param": [1]}, "logging_param must be a mapping of names to values, not a list"),
        (
            {"student_loss": "CE"},
            "student_loss must be a function of the student's output and the labels, not 'CE'",
        ),
        (
            {"val_data_loaders": {"v": LOADER}},
            "val_data_loaders are given and no inference_pipeline that tests the student on them",
        ),
        (
            {"inference_pipeline": Accuracy()},
            "inference_pipeline is given and no val_data_loaders to test the student on",
        ),
        (
            {"val_data_loaders": {"v": LOADER}, "inference_pipeline": 3},
            "inference_pipeline, an object of type int, has no method run_inference_pipeline(model, data_loader)",
        ),
    ],
)
def test_an_argument_that_is_wrong(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert message(tmp_path, **changes) == expected


def test_a_loader_named_twice(tmp_path: Path) -> None:
    other, pipeline = loader(8), Accuracy()
    cases: list[tuple[Any, str]] = [
        ([("v", LOADER), ("v", other)], "val_data_loaders names 'v' twice: its results could not be told apart"),
        ({"v": LOADER, "w": LOADER}, "val_data_loaders holds one loader twice, as 'v' and as 'w'"),
        (
            {"kd_loss": LOADER},
            "val_data_loaders: the name 'kd_loss' is that of a value of the training: call the loader otherwise",
        ),
        ({"v": 3}, "val_data_loaders: 'v' must be a torch.utils.data.DataLoader, not 3"),
        ({1: LOADER}, "val_data_loaders: the name of a loader must be a text, not 1"),
        (LOADER, "val_data_loaders must be a dict of loaders by name, not an object of type DataLoader"),
    ]
    for loaders, expected in cases:
        assert message(tmp_path, val_data_loaders=loaders, inference_pipeline=pipeline) == expected
    twice = training(tmp_path, val_data_loaders=[("v", LOADER), ("w", other)], inference_pipeline=Scores(1, 2))
    twice.start_kd_training()
    assert twice.history[0]["metrics"] == {"v": 1.0, "w": 2.0}


def test_all_mistakes_are_said_together(tmp_path: Path) -> None:
    model = linear(1)
    assert message(tmp_path, student_model=model, teacher_model=model, max_epoch=-1, optimize_method="adagrad") == (
        "student_model and teacher_model are one object: the student would learn from itself\n"
        "max_epoch must be a whole number from 1 on, not -1\n"
        "optimize_method: there is no 'adagrad'. Known: adam, adam_distilBert, adam_wav2vec2.0, adamW_distilBert, sgd"
    )


def test_a_warm_up_without_its_schedule_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training(tmp_path, num_lr_warm_up_epoch=2)
    assert caplog.messages == ["num_lr_warm_up_epoch has no effect: scheduler_method is ''"]


def test_lightning_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdhooks.training.kd_training.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError) as caught:
        training(tmp_path)
    assert str(caught.value) == (
        "KnowledgeDistillationTraining needs the package 'lightning': pip install 'kdhooks[lightning]'"
    )


def test_arguments_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        KnowledgeDistillationTraining(linear(1), linear(2))  # type: ignore[misc]


# ---- devices ---------------------------------------------------------------------------------------


def hardware_error(**changes: Any) -> str:
    arguments: dict[str, Any] = {
        "num_gpu_used": 0,
        "num_processes": 1,
        "accelerator": None,
        "num_nodes": 1,
        "precision": 32,
    }
    with pytest.raises(UsageError) as caught:
        find_hardware(**{**arguments, **changes})
    return str(caught.value)


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    none = "and torch finds no GPU on this machine: num_gpu_used=0 trains on the CPU"
    assert hardware_error(num_gpu_used=1) == f"num_gpu_used is 1, {none}"
    assert hardware_error(accelerator="gpu") == f"accelerator is 'gpu', {none}"
    assert hardware_error(accelerator="cuda") == "accelerator='cuda': torch finds no such device on this machine"
    for count, devices in ((1, "1 cuda device"), (2, "2 cuda devices")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert hardware_error(num_gpu_used=3) == f"num_gpu_used is 3, and torch finds {devices} on this machine"
    assert hardware_error(num_gpu_used=1, num_processes=2) == (
        "num_processes counts processes on the CPU; with GPUs num_gpu_used is what counts"
    )


def test_names_of_accelerators_that_are_gone_or_unknown() -> None:
    assert hardware_error(accelerator="dp") == (
        "accelerator: 'dp' can't be had: DataParallel is gone from Lightning 2. Write accelerator='ddp', which trains "
        "the same with a process a GPU"
    )
    assert hardware_error(accelerator="ddp_spawn") == (
        "accelerator: 'ddp_spawn' can't be had: its processes would keep the trained student to themselves. Write "
        "accelerator='ddp'"
    )
    assert hardware_error(accelerator="gppu") == "accelerator: there is no 'gppu'. Did you mean 'gpu'?"
    assert hardware_error(accelerator=3) == "accelerator: there is no 3. Known: cpu, gpu, cuda, mps, auto, ddp, ddp_cpu"
    assert hardware_error(accelerator="cpu", num_gpu_used=2) == (
        "accelerator='cpu' trains on the CPU, and num_gpu_used is 2"
    )
    assert hardware_error(num_gpu_used=-2) == "num_gpu_used must be a whole number from 0 on, or -1 for all, not -2"


def test_a_precision_that_is_none() -> None:
    assert hardware_error(precision=8) == (
        "precision must be 16 or 32, or one of Lightning's words, not 8. Known: 16, 16-mixed, bf16, bf16-mixed, 32, "
        "32-true, 64, 64-true"
    )


@pytest.mark.parametrize(
    ("wanted", "kind", "low", "chosen", "said"),
    [
        ("16-mixed", "cuda", "bf16", "16-mixed", ""),
        ("bf16-mixed", "cuda", "bf16", "bf16-mixed", ""),
        ("bf16-mixed", "cuda", "fp16", "16-mixed", "this GPU does not train in bf16, so it trains in 16 bit"),
        ("16-mixed", "cpu", "bf16", "bf16-mixed", "this processor does not train in 16 bit, so it trains in bf16"),
        ("16-mixed", "cpu", None, "32-true", "this processor does not train in 16 bit, so it trains in 32 bit"),
        ("bf16-mixed", "cpu", None, "32-true", "this processor does not train in bf16, so it trains in 32 bit"),
        ("16-mixed", "mps", None, "32-true", "this GPU does not train in 16 bit, so it trains in 32 bit"),
        ("32-true", "cpu", "bf16", "32-true", ""),
        ("64-true", "cpu", "bf16", "64-true", ""),
    ],
)
def test_the_nearest_precision_is_taken_and_said(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wanted: str,
    kind: str,
    low: str | None,
    chosen: str,
    said: str,
) -> None:
    caplog.set_level("INFO", logger="kdhooks")
    monkeypatch.setattr("kdhooks.training.hardware.low_precision", lambda device: low)
    assert nearest_precision(wanted, kind) == chosen
    assert caplog.messages == ([f"precision: {said}"] if said else [])
