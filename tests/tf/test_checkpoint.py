"""The checkpoint file: whole or not there, nothing unpickled."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from kdhooks.errors import CheckpointError
from kdhooks_tf.checkpoint import CheckpointFile

CONTENT: dict[str, Any] = dict.fromkeys(CheckpointFile.keys, 1)


@pytest.fixture
def file(tmp_path: Path) -> CheckpointFile:
    return CheckpointFile(tmp_path / "run" / "checkpoint.npz")


def test_plain_data_and_arrays_come_back(file: CheckpointFile) -> None:
    values = {
        "numbers": [1, 2.5, None, True, "text", 2**80, float("inf")],
        3: {"deep": np.arange(6, dtype=np.int64).reshape(2, 3)},
        "scalar": np.float64(1.5),
        "tensor": tf.constant([1.0, 2.0]),
        "variable": tf.Variable([[3.0]]),
        "half": np.array([[1.5, -2.0]], ml_dtypes.bfloat16),
        "none": np.zeros((0, 3), np.float16),
        "empty": {},
    }
    file.write(CONTENT | {"student": values})
    found = file.read()["student"]
    assert found["numbers"] == [1, 2.5, None, True, "text", 2**80, float("inf")]
    assert found[3]["deep"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (found["scalar"], found["tensor"].tolist(), found["variable"].tolist()) == (1.5, [1, 2], [[3]])
    assert (found["half"].dtype, found["half"].tolist()) == (np.dtype(ml_dtypes.bfloat16), [[1.5, -2.0]])
    assert (found["none"].dtype, found["none"].shape, found["empty"]) == (np.dtype(np.float16), (0, 3), {})


def test_what_is_no_plain_data_is_refused_and_the_former_one_stays(file: CheckpointFile) -> None:
    file.write(CONTENT)
    with pytest.raises(TypeError) as caught:
        file.write(CONTENT | {"rate": object()})
    assert str(caught.value) == "a checkpoint holds plain data and arrays, not object"
    assert file.read()["rate"] == 1
    assert [path.name for path in file.path.parent.iterdir()] == ["checkpoint.npz"]


def test_a_write_that_fails_leaves_the_former_one(file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write(CONTENT)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError) as caught:
        file.write(CONTENT | {"rate": 2})
    assert str(caught.value) == f"the checkpoint {file.path} can't be written: No space left on device"
    assert file.read()["rate"] == 1


def test_damage_is_found_before_anything_is_used(file: CheckpointFile) -> None:
    file.write(CONTENT | {"student": np.arange(1000.0)})
    data = bytearray(file.path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        file.read()
    assert str(caught.value) == f"the checkpoint {file.path} is damaged: its record 0.npy has another checksum"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "{path} is damaged, or no checkpoint of kdhooks"),
        (b"PK\x05\x06" + 18 * b"\x00", "{path} is damaged, or no checkpoint of kdhooks"),
        ({"format": "other"}, "{path} is no checkpoint of kdhooks"),
        (
            {"version": 2},
            "the checkpoint {path} is of version 2, and this kdhooks reads up to version 1: update kdhooks",
        ),
    ],
)
def test_files_that_are_no_checkpoint(content: Any, text: str, file: CheckpointFile) -> None:
    if isinstance(content, bytes):
        file.path.parent.mkdir()
        file.path.write_bytes(content)
    else:
        file.write(CONTENT | content)
    with pytest.raises(CheckpointError) as caught:
        file.read()
    assert str(caught.value) == text.format(path=file.path)


def test_a_pickle_inside_is_not_read(file: CheckpointFile) -> None:
    file.path.parent.mkdir()
    with zipfile.ZipFile(file.path, "w") as archive:
        archive.writestr("content.json", '{"m": [["student", {"a": 0, "dtype": ""}]]}')
        with archive.open("0.npy", "w") as record:
            np.lib.format.write_array(record, np.array([object], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError) as caught:
        file.read()
    assert str(caught.value) == f"{file.path} is damaged, or no checkpoint of kdhooks"
