"""The bank of blocks on disk: whole files, one writer each, nothing unpickled."""

from __future__ import annotations

import logging
import pickle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdhooks.errors import DataError
from kdhooks.search.distilling.blocks import BlockBank, told


def weights(value: float = 1.0) -> dict[str, Any]:
    return {"layer/kernel": np.full((2, 3), value, np.float32), "file": np.arange(3)}


def kept(folder: Path, writer: str, value: float = 1.0, key: str = "block-1") -> int:
    bank = BlockBank(folder, writer)
    bank.keep(key, weights(value))
    return bank.commit()


def value_in(folder: Path, writer: str = "reader", key: str = "block-1") -> float | None:
    found = BlockBank(folder, writer).read(key)
    return None if found is None else float(found["layer/kernel"][0, 0])


def test_what_was_written_is_read_by_others(tmp_path: Path) -> None:
    assert value_in(tmp_path / "blocks") is None
    assert kept(tmp_path / "blocks", "a") == 1
    found = BlockBank(tmp_path / "blocks", "b").read("block-1")
    assert found is not None and list(found) == ["layer/kernel", "file"]
    assert all(np.array_equal(found[name], value) for name, value in weights().items())
    assert {name: value.dtype for name, value in found.items()} == {name: one.dtype for name, one in weights().items()}
    assert [path.name for path in (tmp_path / "blocks").iterdir()] == ["block-1.npz"]


def test_the_first_writer_stays_and_does_not_read_itself(tmp_path: Path) -> None:
    assert kept(tmp_path, "a", 1.0) == 1
    assert kept(tmp_path, "b", 2.0) == 0
    assert (value_in(tmp_path, "a"), value_in(tmp_path, "b")) == (None, 1.0)


def test_what_is_discarded_is_not_written(tmp_path: Path) -> None:
    bank = BlockBank(tmp_path, "a")
    bank.keep("block-1", weights())
    bank.discard()
    assert bank.commit() == 0 and value_in(tmp_path) is None


def _write(folder: Path, number: int) -> None:
    kept(folder, str(number), float(number))


def test_one_of_many_processes_writes(tmp_path: Path) -> None:
    processes = [get_context("spawn").Process(target=_write, args=(tmp_path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert value_in(tmp_path) in (0.0, 1.0, 2.0, 3.0)
    assert [path.name for path in tmp_path.iterdir()] == ["block-1.npz"]


class Evil:
    """Raises where it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize("damage", ["cut", "text", "pickled", "empty"])
def test_a_damaged_file_is_left_out_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept(tmp_path, "a")
    path = tmp_path / "block-1.npz"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "text": b"no archive", "empty": b""}.get(damage, b""))
    if damage == "pickled":
        with open(path, "wb") as file:
            np.savez(file, note=np.array([Evil()], dtype=object))
        assert pickle.dumps(Evil())
    with caplog.at_level(logging.WARNING, "kdhooks"):
        assert value_in(tmp_path) is None
    assert f"the block {path} is left out, since its file is damaged" in caplog.text


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "blocks").write_text("a file")
    with pytest.raises(DataError, match=r"^blocks can't be written to .*blocks: "):
        kept(tmp_path / "blocks", "a")


def test_settings_are_told_apart() -> None:
    def first(value: Any) -> Any:
        return value[0]

    def second(value: Any) -> Any:
        return value[1]

    assert told({"a": first}) == told({"a": first}) != told({"a": second})
    assert told({"b": 1, "a": (2,)}) == '{"a": [2], "b": 1}'
