"""What a run keeps: best weights, checkpoints, event files; and what it leaves behind."""

from __future__ import annotations

import copy
import os
import pickle
import signal
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdhooks.errors import CheckpointError, UsageError
from kdhooks.training.checkpoints import TrainingCheckpoint
from kdhooks.training.running import free_folder
from tests.torch.training.setups import Accuracy, Recorder, Scores, classifier, linear, loader, same, trained, weights


def scored(folder: Path, *values: Any, **changes: Any) -> Any:
    arguments = {"val_data_loaders": {"v": loader(7)}, "inference_pipeline": Scores(*values), "max_epoch": len(values)}
    return trained(folder, **{**arguments, **changes})


def kept(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The student's weights in a checkpoint, read as data."""
    state = torch.load(folder / name, weights_only=True)["state_dict"]
    assert all(key.startswith("student_model.") for key in state)
    return {key.removeprefix("student_model."): value for key, value in state.items()}


def test_the_best_weights_come_back_and_stand_in_a_file_with_the_loaders_name(tmp_path: Path) -> None:
    run = scored(tmp_path, 0.25, 0.75, 0.5)
    assert sorted(path.name for path in run.folder.glob("*.ckpt")) == ["best-epoch=001-v=0.75.ckpt", "last.ckpt"]
    assert same(weights(run.get_student_model()), kept(run.folder, "best-epoch=001-v=0.75.ckpt"))
    assert not same(weights(run.get_student_model()), kept(run.folder, "last.ckpt"))
    assert run.best_score == 0.75
    assert [record["best"] for record in run.history] == [True, True, False]


def test_the_first_loader_decides_and_a_lower_result_may_be_better(tmp_path: Path) -> None:
    loaders = {"word error/rate": loader(7), "score": loader(8)}
    run = scored(
        tmp_path, 0.5, 1, 0.25, 0, 0.75, 2, val_data_loaders=loaders, max_epoch=3, higher_is_better=False
    )  # fmt: skip
    assert [record["score"] for record in run.history] == [0.5, 0.25, 0.75]
    assert [record["metrics"]["score"] for record in run.history] == [1.0, 0.0, 2.0]
    assert (run.folder / "best-epoch=001-word_error_rate=0.25.ckpt").exists()
    assert run.best_score == 0.25


def test_a_result_of_nan_is_never_the_best_and_a_tensor_is_a_number(tmp_path: Path) -> None:
    run = scored(tmp_path, torch.tensor(0.5), nan, torch.tensor([0.25]))
    assert [record["best"] for record in run.history] == [True, False, False]
    assert run.best_score == 0.5


def test_without_validation_the_last_weights_stay(tmp_path: Path) -> None:
    run = trained(tmp_path, max_epoch=2)
    assert [path.name for path in run.folder.glob("*.ckpt")] == ["last.ckpt"]
    assert same(weights(run.get_student_model()), kept(run.folder, "last.ckpt"))
    assert run.best_score is None and run.history[0]["metrics"] == {}


def test_validation_does_not_move_the_training(tmp_path: Path) -> None:
    found = []
    for changes in (
        {},
        {"val_data_loaders": {"v": loader(7, shuffle=True)}, "inference_pipeline": Accuracy(), "max_epoch": 3},
    ):
        run = trained(
            tmp_path,
            **{"student_model": classifier(), "train_data_loader": loader(shuffle=True), "max_epoch": 3, **changes},
        )
        found.append(kept(run.folder, "last.ckpt"))  # type: ignore[arg-type]
    assert same(*found)


def test_the_student_is_left_clean(tmp_path: Path) -> None:
    student = classifier()
    student.body[1].eval()
    before = ({name: set(vars(module)) for name, module in student.named_modules()}, len(pickle.dumps(student)))
    modes = [module.training for module in student.modules()]
    handler = signal.getsignal(signal.SIGINT)
    scored(tmp_path, 1, 0, student_model=student)
    after = ({name: set(vars(module)) for name, module in student.named_modules()}, len(pickle.dumps(student)))
    assert before[0] == after[0] and abs(before[1] - after[1]) < 64
    assert [module.training for module in student.modules()] == modes
    assert all(one.grad is None for one in student.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())
    assert same(weights(copy.deepcopy(student)), weights(student))
    assert signal.getsignal(signal.SIGINT) is handler


def test_weights_are_afterwards_of_the_kind_that_they_were(tmp_path: Path) -> None:
    student, teacher = classifier(), classifier(2)
    trained(tmp_path, student_model=student, teacher_model=teacher, precision=64)
    kinds = {value.dtype for model in (student, teacher) for value in model.state_dict().values()}
    assert kinds == {torch.float32, torch.int64}


def test_every_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    run = trained(tmp_path)
    first = weights(run.get_student_model())
    assert run.folder == tmp_path / "version_0"
    run.start_kd_training()
    assert run.folder == tmp_path / "version_1"
    assert not same(first, weights(run.get_student_model()))
    assert same(first, kept(tmp_path / "version_0", "last.ckpt"))
    assert len(run.history) == 1
    assert free_folder(tmp_path) == tmp_path / "version_2"


def test_event_files_are_there_by_default_without_tensorflow(tmp_path: Path) -> None:
    log = Recorder()
    run = scored(tmp_path, 0.5, 0.25, loggers=[log])
    events = EventAccumulator(str(run.folder))
    events.Reload()
    names = ["epoch", "grad_2.0_norm_total", "kd_loss", "learning_rate", "train_final_loss", "v"]
    assert sorted(events.Tags()["scalars"]) == names
    for name in names:
        assert [event.value for event in events.Scalars(name)] == pytest.approx(list(log.of(name).values()), rel=1e-6)
        assert [event.step for event in events.Scalars(name)] == list(log.of(name))
    assert list(log.of("kd_loss")) == [*range(8)] and list(log.of("v")) == [3, 7]


def test_only_every_so_many_steps_are_logged(tmp_path: Path) -> None:
    log = Recorder()
    trained(tmp_path, loggers=[log], log_every_n_steps=3, max_epoch=2)
    assert list(log.of("kd_loss")) == list(log.of("grad_2.0_norm_total")) == [0, 3, 6]


# ---- what goes wrong -------------------------------------------------------------------------------


class WithoutKey:
    def run_inference_pipeline(self, model: Any, data_loader: Any) -> Any:
        return {"accuracy": 0.5}


def test_a_pipeline_without_its_key_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes: dict[str, Any] = {"val_data_loaders": {"v": loader(7)}, "student_model": classifier(), "max_epoch": 2}
    with pytest.raises(UsageError) as caught:
        trained(tmp_path, inference_pipeline=WithoutKey(), **changes)
    assert str(caught.value) == (
        "inference_pipeline.run_inference_pipeline must return {'inference_result': number}, and for the loader 'v' it "
        "returned a mapping with the keys 'accuracy'"
    )
    saved = tmp_path / "version_0" / "last.ckpt"
    assert caplog.messages[-1] == (
        f"the validation failed; the epoch is saved: resume_from_checkpoint={str(saved)!r} goes on from it"
    )
    run = trained(
        tmp_path,
        **{**changes, "student_model": classifier()},
        inference_pipeline=Scores(0.5),
        resume_from_checkpoint=saved,
    )
    whole = trained(tmp_path, **{**changes, "student_model": classifier()}, inference_pipeline=Scores(0.25, 0.5))
    assert [record["metrics"] for record in run.history] == [{}, {"v": 0.5}]
    assert same(kept(run.folder, "last.ckpt"), kept(whole.folder, "last.ckpt"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (0.5, "must return {'inference_result': number}, and for the loader 'v' it returned a float"),
        ({"inference_result": "good"}, "'inference_result' must be a number, and for the loader 'v' it is a str"),
        ({"inference_result": torch.zeros(2)}, "must be a number, and for the loader 'v' it is a tensor of shape [2]"),
    ],
)
def test_a_result_that_is_no_number(tmp_path: Path, returned: Any, expected: str) -> None:
    class Pipeline:
        def run_inference_pipeline(self, model: Any, data_loader: Any) -> Any:
            return returned

    with pytest.raises(UsageError) as caught:
        trained(tmp_path, val_data_loaders={"v": loader(7)}, inference_pipeline=Pipeline())
    assert str(caught.value).endswith(expected)


def resumed(folder: Path, checkpoint: Path, **changes: Any) -> str:
    changes = {"max_epoch": 2, **changes}
    student = changes.pop("student_model", linear(1))
    before = weights(student)
    with pytest.raises(CheckpointError) as caught:
        trained(folder, student_model=student, resume_from_checkpoint=checkpoint, **changes)
    assert same(before, weights(student))
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["version_0"]
    return str(caught.value)


def test_checkpoints_that_this_run_can_not_go_on_from(tmp_path: Path) -> None:
    trained(tmp_path)
    good = tmp_path / "version_0" / "last.ckpt"
    content = TrainingCheckpoint(good).read()

    def changed(name: str, **entries: Any) -> Path:
        torch.save({**content, "kdhooks": {**content["kdhooks"], **entries}}, tmp_path / name)
        return tmp_path / name

    newer = changed("newer.ckpt", version=2)
    assert resumed(tmp_path, newer) == (
        f"the checkpoint {newer} is of version 2, and this kdhooks reads up to version 1: update kdhooks"
    )
    assert resumed(tmp_path, good, student_model=torch.nn.Linear(6, 3)) == (
        f"the checkpoint {good} belongs to another student: 'weight' is of shape [4, 6] there and [3, 6] here"
    )
    assert resumed(tmp_path, good, student_model=classifier(), teacher_model=classifier(2)) == (
        f"the checkpoint {good} belongs to another student: it has no 'body.0.weight' and 8 more; it has 'weight' and "
        "1 more, which the student has not"
    )
    assert resumed(tmp_path, good, optimize_method="adam") == (
        f"the checkpoint {good} belongs to a run with optimize_method='sgd', and this one has 'adam'"
    )
    assert resumed(tmp_path, tmp_path / "none.ckpt") == f"there is no checkpoint at {tmp_path / 'none.ckpt'}"
    assert resumed(tmp_path, good, max_epoch=1) == (
        f"the checkpoint {good} is of epoch 1, and max_epoch is 1: nothing is left"
    )
    other = changed("other.ckpt", format="something")
    assert resumed(tmp_path, other) == f"{other} is no checkpoint of KnowledgeDistillationTraining"
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(good.read_bytes()[:-300])
    assert resumed(tmp_path, damaged) == f"{damaged} is damaged, or no checkpoint of kdhooks"


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    trained(tmp_path)
    path = tmp_path / "evil.ckpt"
    torch.save({"kdhooks": Evil()}, path)
    assert resumed(tmp_path, path) == f"{path} is damaged, or no checkpoint of kdhooks"
    assert not (tmp_path / "made").exists()


def test_ctrl_c_is_a_keyboard_interrupt_and_leaves_the_last_epoch(tmp_path: Path) -> None:
    student, steps = linear(1), []

    def interrupt(module: Any, given: Any, output: Any) -> None:
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt

    handle = student.register_forward_hook(interrupt)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, student_model=student, max_epoch=3)
    handle.remove()
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "version_0" / "last.ckpt").exists()
    assert not torch.are_deterministic_algorithms_enabled()
    assert student.training and not student._forward_hooks
