"""``kdhooks cache build``: the configuration's training data, once, in order, and what is there already stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from kdhooks.cache import maintenance
from kdhooks.cli.command import main

MODELS = """
import torch
from torch import nn


def model(width):
    torch.manual_seed(width)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, width), nn.Tanh(), nn.Linear(width, 3))


def student():
    return model(4)


def teacher():
    return model(8)


def other():
    return model(9)
"""

YAML = """
distillation:
  train:
    end_epoch: 2
    dataloader:
      batch_size: 4
      shuffle: true
      last_batch: discard
      dataset: {dummy: {size: 10, shape: [3, 4, 4], classes: 3}}
      TRANSFORM
  cache: {path: store}
tuning: {random_seed: 3}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cache_models.py").write_text(MODELS)
    (tmp_path / "kd.yaml").write_text(YAML.replace("TRANSFORM", ""))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cache_models", raising=False)
    return tmp_path


def build(*words: str, teachers: tuple[str, ...] = ("teacher",)) -> int:
    named = [word for name in teachers for word in ("--teacher", f"cache_models:{name}")]
    return main(["cache", "build", "kd.yaml", "--student", "cache_models:student", *named, *words])


def test_every_row_is_stored_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build() == 0
    (space,) = maintenance.info("store").spaces
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["10 rows, of which 10 were computed and the others there already", f"teacher: {space.name}"]
    assert lines[2].startswith("store: 10 rows of 1 teacher, ")
    assert lines[5].startswith(f"{space.name}  Sequential, fp32  10 ") and lines[5].endswith("  logits: float32 [3]")
    assert space.rows == 10  # the short last batch too, which training leaves out
    assert build() == 0
    assert capsys.readouterr().out.startswith("10 rows, of which 0 were computed and the others there already\n")


def test_training_runs_no_teacher_afterwards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    assert build() == 0
    widths: list[int] = []
    forward = nn.Tanh.forward

    def noted(self: nn.Tanh, input: Any) -> Any:
        widths.append(input.shape[1])
        return forward(self, input)

    monkeypatch.setattr(nn.Tanh, "forward", noted)
    assert main(["fit", "kd.yaml", "--student", "cache_models:student", "--teacher", "cache_models:teacher"]) == 0
    assert set(widths) == {4}


def test_it_goes_on_where_it_was_interrupted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kdhooks.stored import building

    fill = building.fill_store

    def interrupted(distiller: Any, batches: Any, progress: Any) -> Any:
        def some() -> Any:
            yield next(iter(batches))
            raise KeyboardInterrupt

        return fill(distiller, some(), progress)

    monkeypatch.setattr(building, "fill_store", interrupted)
    assert build() == 130
    assert maintenance.info("store").rows == 4
    monkeypatch.setattr(building, "fill_store", fill)
    capsys.readouterr()
    assert build() == 0
    assert capsys.readouterr().out.startswith("10 rows, of which 6 were computed and the others there already\n")


def test_augmented_rows_of_several_epochs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = YAML.replace("TRANSFORM", "transform: {RandomHorizontalFlip: {}}")
    (folder / "kd.yaml").write_text(text)
    assert build("--epochs", "2") == 0
    assert capsys.readouterr().out.startswith("20 rows, of which ")
    stored = maintenance.info("store").rows
    assert 10 < stored <= 20
    assert main(["fit", "kd.yaml", "--student", "cache_models:student", "--teacher", "cache_models:teacher"]) == 0
    assert maintenance.info("store").rows == stored  # the very pixels of both epochs were there


def test_several_teachers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(teachers=("teacher", "other")) == 0
    assert capsys.readouterr().out.startswith("10 rows, of which 20 were computed and the others there already\n")
    assert [space.rows for space in maintenance.info("store").spaces] == [10, 10]


def test_what_is_missing_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build("--set", "distillation.cache=") == 2
    assert "distillation: has no cache to fill" in capsys.readouterr().err
    assert build(teachers=()) == 2
    assert capsys.readouterr().err == ("kdhooks cache: there is no teacher whose outputs could be stored: name one\n")
    (folder / "kd.yaml").write_text("distillation:\n  cache: {path: store}\n")
    assert build() == 2
    assert capsys.readouterr().err == (
        "kdhooks cache: there is nothing to run the teacher on: name a dataset in distillation.train.dataloader\n"
    )


def test_a_store_that_cannot_be_written_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "store").write_text("")
    assert build() == 2
    assert capsys.readouterr().err == "kdhooks cache: store: it is a file, and a store is a folder\n"
    (folder / "store").unlink()
    assert build("--set", "distillation.cache.size_bound=1.0e-9") == 2
    assert capsys.readouterr().err.startswith("kdhooks cache: store: it has reached its size bound of 1 bytes")
