"""The ready-made loop with the teacher's outputs on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.torch.training.setups import BATCH, ROWS, Older, data, linear, same, trained, weights


class Counted(nn.Module):
    """A teacher that counts the rows that it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.rows = linear(2), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        found: torch.Tensor = self.layer(x)
        return found


def stored(folder: Path) -> dict[str, Any]:
    return {"distillation": {"cache": {"path": str(folder / "store")}}}


def test_the_teacher_sees_every_row_once(tmp_path: Path) -> None:
    def run(teacher: nn.Module, name: str, **changes: Any) -> dict[str, torch.Tensor]:
        shuffled = DataLoader(data(), batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(5))
        student = linear(1)
        settings = {"teacher_model": teacher, "train_data_loader": shuffled, "max_epoch": 3, **changes}
        trained(tmp_path / name, student_model=student, **settings)
        return weights(student)

    live, cold, warm = Counted(), Counted(), Counted()
    expected = run(live, "live")
    assert live.rows == 3 * ROWS
    assert same(run(cold, "cold", distillation=stored(tmp_path)), expected)
    assert cold.rows == ROWS
    assert same(run(warm, "warm", distillation=stored(tmp_path)), expected)
    assert warm.rows == 0


def test_outputs_of_another_teacher_are_not_taken(tmp_path: Path) -> None:
    other = Counted()
    other.layer = linear(7)
    trained(tmp_path / "one", teacher_model=Counted(), distillation=stored(tmp_path))
    found = trained(tmp_path / "other", teacher_model=other, distillation=stored(tmp_path))
    expected = trained(tmp_path / "live", teacher_model=other)
    assert same(weights(found.get_student_model()), weights(expected.get_student_model()))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_teacher_that_softens_by_itself_is_stored_at_its_temperature(tmp_path: Path, temperature: float) -> None:
    def run(name: str, **changes: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
        teacher, student = Older(2, "logits"), Older(1, "logits")
        trained(
            tmp_path / name,
            teacher_model=teacher,
            student_model=student,
            temperature=temperature,
            max_epoch=2,
            **changes,
        )
        return weights(student), teacher.temperatures

    (expected, asked), (found, once) = run("live"), run("stored", distillation=stored(tmp_path))
    assert same(found, expected)
    assert asked == [temperature] * 8 and once == [temperature] * 4


def test_outputs_of_another_temperature_are_not_taken(tmp_path: Path) -> None:
    def run(name: str, temperature: float, **changes: Any) -> dict[str, torch.Tensor]:
        student = Older(1, "logits")
        models = {"teacher_model": Older(2, "logits"), "student_model": student}
        trained(tmp_path / name, **models, temperature=temperature, **changes)
        return weights(student)

    run("first", 1.0, distillation=stored(tmp_path))
    assert same(run("second", 4.0, distillation=stored(tmp_path)), run("live", 4.0))
