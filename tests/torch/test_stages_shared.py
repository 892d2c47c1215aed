"""What stages and candidates share: batches, what was found out by timing, blocks in the run's folder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import DistillationConf
from kdhooks.config.search_settings import FlashSettings, StageSettings
from kdhooks.search.distilling.stages import FlashDistillation, parts_of
from tests.torch.small_models import made
from tests.torch.test_stages import Deep, batches, conf, stages

TEACHER: Any = import_module("kdhooks.torch.teacher")
SETUP: Any = import_module("kdhooks.torch.train_setup")


def candidate(given: Any, settings: FlashSettings, **options: Any) -> FlashDistillation:
    student, model = made(1, lambda: Deep(norm=False)), made(2, lambda: Deep(12, norm=False))
    return FlashDistillation(given, student, model, settings=settings, **options)


def equal(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_a_loaders_own_generator_begins_with_the_stages_seed(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(9)
    x, y = torch.randn(24, 6), torch.arange(24) % 4
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True, generator=generator)
    before = generator.get_state()
    parts = [candidate(conf(tmp_path), stages(0, 1), train_dataloader=loader, seed=seed) for seed in (3, 3, 4)]
    for part in parts:
        part()
    one, again, other = (part.student_model for part in parts)
    assert equal(one, again) and not equal(one, other)
    assert torch.equal(generator.get_state(), before)


def test_the_data_of_a_configuration_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"batch_size": 4, "shuffle": True, "dataset": {"dummy": {"shape": [6], "size": 20, "classes": 4}}}
    given = conf(tmp_path)
    given["distillation"]["train"]["dataloader"] = data
    built: list[Any] = []
    build = SETUP.build_dataloader

    def counting(*args: Any, **kwargs: Any) -> Any:
        built.append(args)
        return build(*args, **kwargs)

    monkeypatch.setattr(SETUP, "build_dataloader", counting)
    shared = DistillationConf(given)
    parts = [candidate(shared, stages(0, 1), seed=seed) for seed in (3, 4)]
    alone = candidate(DistillationConf(given), stages(0, 1), seed=4)
    for part in (*parts, alone):
        part()
    assert len(built) == 2  # one for each configuration
    assert equal(parts[1].student_model, alone.student_model)


def test_what_is_timed_is_timed_in_the_first_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = conf(tmp_path)
    given["distillation"]["train"]["precision"] = "auto"
    given["distillation"]["teacher"] = {"precision": "auto"}
    timed: list[str] = []
    quickest, choose = TEACHER.quickest, SETUP.choose

    def of_teacher(*args: Any, **kwargs: Any) -> Any:
        timed.append("teacher")
        return quickest(*args, **kwargs)

    def of_student(*args: Any, **kwargs: Any) -> Any:
        timed.append("student")
        return choose(*args, **kwargs)

    monkeypatch.setattr(TEACHER, "quickest", of_teacher)
    monkeypatch.setattr(SETUP, "choose", of_student)
    part = candidate(given, stages(0, 1, 2), train_dataloader=batches())
    part()
    assert sorted(timed) == ["student", "teacher"]


def test_without_a_search_blocks_lie_in_the_runs_folder(tmp_path: Path) -> None:
    names = [f"blocks.{number}" for number in range(2)]
    settings = FlashSettings(
        tuple(StageSettings(name, {"layer_mappings": [[name]]}, 2) for name in names), share_blocks=True
    )
    first, second = (candidate(conf(tmp_path), settings, train_dataloader=batches()) for _ in range(2))
    first(), second()
    assert [[one["shared"] for one in part.history] for part in (first, second)] == [[False, False], [True, True]]
    assert sorted(path.name[:9] for path in (tmp_path / "run" / "blocks").iterdir()) == ["blocks.0-", "blocks.1-"]


def test_scores_are_asked_for_in_the_last_part_only(tmp_path: Path) -> None:
    given = conf(tmp_path) | {
        "auto_distillation": {
            "search": {"search_space": {"width": [8]}},
            "flash_distillation": {
                "block_names": ["blocks.0"], "layer_mappings": [[["blocks.0"]]], "train_steps": 4,
            },
            "regular_distillation": {"layer_mappings": [["head"]], "add_origin_loss": True, "train_steps": 4},
        },
    }  # fmt: skip
    scores: list[Any] = []
    student, model = made(1, Deep), made(2, Deep)
    options: dict[str, Any] = {"student_model": student, "teacher_model": model, "train_dataloader": batches()}
    parts = parts_of(given, eval_func=lambda _: 0.5, on_epoch_end=scores.append, **options)
    for part in parts:
        part()
    assert [(one.kind, one.epoch, one.steps, one.score) for one in scores] == [
        ("regular", 0, 3, 0.5),
        ("regular", 1, 4, 0.5),
    ]
