"""A result as a file: written and read back, bad numbers, passwords, damaged files, writing as a whole."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdhooks.config.model import Named
from kdhooks.config.search_settings import Relation
from kdhooks.errors import DataError
from kdhooks.search.candidates import Candidate
from kdhooks.search.results import result_file
from kdhooks.search.results.result import SearchResult
from kdhooks.search.results.result_file import without_password
from tests.core.search.made_up import SETTINGS, TWO, complete, searched


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    relation = Relation("width % 2", "==", "0", "width % 2 == 0")
    settings = replace(
        SETTINGS, storage=None, relations=(relation,), pruner=Named("median", {"warm_up": 2}), timeout=60.0
    )
    result = searched(settings=settings)
    back = SearchResult.from_json(result.to_json(tmp_path / "deep" / "result.json"))
    assert back.candidates == result.candidates
    assert back.settings == settings
    assert (back.name, back.best, back.pareto) == (result.name, result.best, result.pareto)
    assert back.as_dict() == result.as_dict()
    assert back.table() == result.table()


def test_the_form_of_the_file(tmp_path: Path) -> None:
    result = SearchResult([complete(0, 0.9, 0.1)], TWO, "digits")
    content = json.loads(result.to_json(tmp_path / "result.json").read_text(encoding="utf-8"))
    assert list(content) == ["format", "version", "name", "search", "best", "pareto", "candidates"]
    assert (content["format"], content["version"], content["best"], content["pareto"]) == (
        "kdhooks search result",
        1,
        0,
        [0],
    )
    assert content["candidates"] == [
        {
            "number": 0,
            "arch": {"width": 8},
            "state": "complete",
            "metrics": {"accuracy": 0.9, "latency": 0.1},
            "spread": {},
            "reason": "",
            "seconds": 1.0,
            "weights": None,
            "worker": "",
            "stages": [],
        }
    ]


def test_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    row = Candidate(0, {"width": 8}, "failed", {"a": math.nan, "b": math.inf, "c": -math.inf}, reason="NaN")
    path = SearchResult([row], TWO).to_json(tmp_path / "result.json")

    def refuse(text: str) -> None:
        raise ValueError(text)

    json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    metrics = SearchResult.from_json(path).candidates[0].metrics
    assert math.isnan(metrics["a"]) and metrics["b"] == math.inf and metrics["c"] == -math.inf


def test_scalars_of_numpy_are_numbers() -> None:
    import numpy

    row = Candidate(0, {"width": numpy.int64(8)}, "complete", {"accuracy": numpy.float32(0.5), "latency": 1.0})
    entry = SearchResult([row], TWO).as_dict()["candidates"][0]
    assert entry["arch"] == {"width": 8} and type(entry["arch"]["width"]) is int
    assert type(entry["metrics"]["accuracy"]) is float


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("mysql+pymysql://me:s%40e@host:3306/db", "mysql+pymysql://me:***@host:3306/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("grpc://host:13000", "grpc://host:13000"),
    ],
)
def test_no_password_is_written(url: str, shown: str) -> None:
    assert without_password(url) == shown
    result = SearchResult([complete(0, 0.9, 0.1)], replace(TWO, storage=url))
    assert "secret" not in json.dumps(result.as_dict()) + result.html() + result.table()


def changed(change: dict[str, Any]) -> str:
    return json.dumps({**SearchResult([complete(0, 0.9, 0.1)], TWO).as_dict(), **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "{path} is no JSON"),
        ("[]", "{path} is no result of a kdhooks search"),
        ('{"format": "other"}', "{path} is no result of a kdhooks search"),
        (
            changed({"version": 2}),
            "{path} is of version 2, and this kdhooks reads up to version 1: update kdhooks",
        ),
        (changed({"search": {}}), "{path} is damaged: KeyError: 'pruner'"),
        (changed({"candidates": [{"metrics": {}}]}), "{path} is damaged: KeyError: 'spread'"),
    ],
)
def test_a_file_that_is_none_of_ours(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        SearchResult.from_json(path)
    assert str(error.value) == message.replace("{path}", str(path))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        SearchResult.from_json(tmp_path / "result.json")
    assert str(error.value) == f"{tmp_path / 'result.json'} can't be read: No such file or directory"


def test_save_writes_all_files_and_nothing_else(tmp_path: Path) -> None:
    folder = searched().save(tmp_path / "out")
    assert sorted(file.name for file in folder.iterdir()) == ["report.html", "result.json", "table.md", "table.txt"]
    assert (folder / "table.txt").read_text(encoding="utf-8") == f"{searched().table(top=60)}\n"
    searched().save(folder)  # over it
    assert len(list(folder.iterdir())) == 4


def test_a_write_that_fails_keeps_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = result_file.write_text(tmp_path / "a.txt", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError) as error:
        result_file.write_text(path, "new")
    assert str(error.value) == f"{path} can't be written: No space left on device"
    assert path.read_text(encoding="utf-8") == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
