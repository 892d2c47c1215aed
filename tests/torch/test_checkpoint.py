"""The checkpoint file, and what a run says that can't continue one."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdhooks import Distillation
from kdhooks.errors import CheckpointError
from kdhooks.torch.checkpoint import VERSION, CheckpointFile
from tests.torch.training_runs import batches, distillation, settings, teacher_model

CONTENT: dict[str, Any] = {
    "student": {"weight": torch.arange(64.0)},
    "optimizer": {"kind": "SGD", "state": {}},
    "rate": {},
    "scaler": {},
    "distiller": {"text": "x" * 100},
    "position": {"epoch": 1, "batch": 2, "step": 3},
    "ranks": [{}],
}


@pytest.fixture
def file(tmp_path: Path) -> CheckpointFile:
    written = CheckpointFile(tmp_path / "run" / "checkpoint.pt")
    written.write(CONTENT)
    return written


def test_what_was_written_is_read(file: CheckpointFile) -> None:
    content = file.read()
    assert torch.equal(content.pop("student")["weight"], CONTENT["student"]["weight"])
    assert content == {"format": "kdhooks checkpoint", "version": VERSION} | {
        key: value for key, value in CONTENT.items() if key != "student"
    }
    assert [path.name for path in file.path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_write_that_fails_leaves_the_former_one(file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError) as caught:
        file.write(CONTENT | {"rate": {"steps": 9}})
    assert str(caught.value) == f"the checkpoint {file.path} can't be written: No space left on device"
    assert file.read()["rate"] == {}
    assert [path.name for path in file.path.parent.iterdir()] == ["checkpoint.pt"]


def test_the_file_and_its_folder_are_forced_to_the_disk(file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append("fsync"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda source, target: (calls.append("replace"), replace(source, target)))
    file.write(CONTENT)
    assert calls == ["fsync", "replace", "fsync"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        CheckpointFile(tmp_path / "checkpoint.pt").read()
    assert str(caught.value) == f"there is no checkpoint at {tmp_path}/checkpoint.pt"


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        CheckpointFile(tmp_path).read()
    assert str(caught.value) == f"the checkpoint {tmp_path} can't be read: Is a directory"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file(share: float, file: CheckpointFile) -> None:
    content = file.path.read_bytes()
    file.path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError) as caught:
        file.read()
    assert str(caught.value) == f"{file.path} is damaged, or no checkpoint of kdhooks"


def test_a_flipped_bit_is_found_or_changes_nothing(file: CheckpointFile) -> None:
    whole, found = file.path.read_bytes(), 0
    chance = random.Random(0)
    for _ in range(300):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.path.write_bytes(content)
        try:
            read = file.read()
        except CheckpointError:
            found += 1
        else:
            assert torch.equal(read["student"]["weight"], CONTENT["student"]["weight"])
            assert read["distiller"] == CONTENT["distiller"]
            assert read["position"] == CONTENT["position"]
    assert found > 100  # the others hit what fills the file up


def test_a_flipped_bit_of_a_weight_is_named(file: CheckpointFile) -> None:
    content = bytearray(file.path.read_bytes())
    content[content.index(torch.arange(64.0).numpy().tobytes()) + 10] ^= 1
    file.path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        file.read()
    assert str(caught.value) == (
        f"the checkpoint {file.path} is damaged: its record archive/data/0 has another checksum"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "{path} is no checkpoint of kdhooks"),
        ([1, 2], "{path} is no checkpoint of kdhooks"),
        (
            {"format": "kdhooks checkpoint", "version": VERSION + 1},
            "the checkpoint {path} is of version 2, and this kdhooks reads up to version 1: update kdhooks",
        ),
        (
            {"format": "kdhooks checkpoint", "version": 1, "student": {}, "optimizer": {}, "distiller": {}},
            "the checkpoint {path} is damaged: it has no rate, scaler, position, ranks",
        ),
    ],
)
def test_files_of_others(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        CheckpointFile(path).read()
    assert str(caught.value) == message.format(path=path)


def test_a_file_with_code_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"format": Evil(tmp_path / "ran")}, path)
    with pytest.raises(CheckpointError) as caught:
        CheckpointFile(path).read()
    assert str(caught.value) == f"{path} is damaged, or no checkpoint of kdhooks"
    assert not (tmp_path / "ran").exists()


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


# ---- continuing runs -------------------------------------------------------------------------------


def first_run(folder: Path, **train: Any) -> dict[str, Any]:
    conf = settings(folder, end_epoch=1, **train)
    distillation(conf, batches()).fit()
    conf["tuning"]["workspace"]["resume"] = True
    conf["distillation"]["train"]["end_epoch"] = 2
    return conf


def refused(distiller: Distillation) -> str:
    before = [value.clone() for value in distiller.student_model.state_dict().values()]
    with pytest.raises(CheckpointError) as caught:
        distiller.fit()
    after = distiller.student_model.state_dict().values()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    return str(caught.value)


def test_another_student_is_refused(tmp_path: Path) -> None:
    conf = first_run(tmp_path)
    other = Distillation(conf, teacher_model=teacher_model())
    other.student_model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    other.train_dataloader = batches()
    assert refused(other) == (
        f"the checkpoint {tmp_path}/checkpoint.pt belongs to another student: it has no '2.weight' and 1 more; it has "
        "'4.weight' and 1 more, which the student has not; '0.weight' is of shape [16, 6] there and [8, 6] here"
    )


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    conf = first_run(tmp_path)
    conf["distillation"]["train"]["optimizer"] = {"Adam": {}}
    path = f"{tmp_path}/checkpoint.pt"
    assert refused(distillation(conf, batches())) == (
        f"the checkpoint {path} belongs to the optimizer SGD, and this run has Adam"
    )
    distiller = distillation(conf, batches())
    distiller.optimizer = torch.optim.SGD(distiller.student_model[:2].parameters(), lr=0.1)
    assert refused(distiller) == (
        f"the checkpoint {path} belongs to an optimizer with 6 parameters, and this run's has 4"
    )


def test_another_scheduler_is_refused(tmp_path: Path) -> None:
    conf = first_run(tmp_path, scheduler={"Linear": {}})
    conf["distillation"]["train"]["scheduler"] = None
    assert refused(distillation(conf, batches())) == (
        "the checkpoint belongs to a run with a learning-rate scheduler, and this one has none"
    )


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    conf = first_run(tmp_path)
    file = CheckpointFile(tmp_path / "checkpoint.pt")
    content = file.read()
    middle = {"position": {"epoch": 0, "batch": 4, "step": 4}}
    file.write(content | middle | {"ranks": content["ranks"] * 2})
    assert refused(distillation(conf, batches())) == (
        f"the checkpoint {file.path} was written by 2 processes, and this run has 1: the order of the data would be "
        "another one"
    )


def test_a_shorter_loader_is_refused(tmp_path: Path) -> None:
    conf = first_run(tmp_path)
    file = CheckpointFile(tmp_path / "checkpoint.pt")
    content = file.read()
    states = content["ranks"][0]
    middle = {"position": {"epoch": 1, "batch": 4, "step": 10}, "ranks": [states | {"start": states["now"]}]}
    file.write(content | middle)
    with pytest.raises(CheckpointError) as caught:
        distillation(conf, batches(3)).fit()
    assert str(caught.value) == (
        "the checkpoint stands after batch 4 of epoch 1, and the train_dataloader has 3: it is another one"
    )


def test_resume_is_a_file_or_a_folder_and_must_be_there(tmp_path: Path) -> None:
    conf = first_run(tmp_path / "one")
    reached = []
    for place in ("one", "one/checkpoint.pt"):
        conf["tuning"]["workspace"] = {"path": str(tmp_path / "two"), "resume": str(tmp_path / place)}
        distiller = distillation(conf, batches())
        distiller.fit()
        reached.append(len(distiller.history))
    assert reached == [2, 2]
    conf["tuning"]["workspace"]["resume"] = str(tmp_path / "three.pt")
    assert refused(distillation(conf, batches())) == f"there is no checkpoint at {tmp_path}/three.pt"


def test_without_a_checkpoint_resume_true_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    conf = settings(tmp_path, end_epoch=1)
    conf["tuning"]["workspace"]["resume"] = True
    distiller = distillation(conf, batches())
    with caplog.at_level("INFO", logger="kdhooks"):
        distiller.fit()
    expected = f"there is no checkpoint at {tmp_path}/checkpoint.pt yet: the run begins anew"
    assert caplog.records[0].getMessage() == expected
    assert len(distiller.history) == 1
