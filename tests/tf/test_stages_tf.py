"""What stages do in TensorFlow beyond the contract: how far the teacher runs, and blocks of nested layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kdhooks.config.search_settings import FlashSettings, StageSettings
from kdhooks.search.distilling.stages import FlashDistillation
from kdhooks_tf.backend import BACKEND


class Counted(keras.layers.Dense):  # type: ignore[misc]
    """Counts its calls, each time its Python code runs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls = 0

    def call(self, inputs: Any) -> Any:
        self.calls += 1
        return super().call(inputs)


def model(seed: int, width: int = 8) -> Any:
    keras.utils.set_random_seed(seed)
    layers = [Counted(width, name="first"), Counted(width, name="second"), Counted(4, name="head")]
    return keras.Sequential([keras.Input((6,)), *layers])


def nested(seed: int) -> Any:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    block = keras.Sequential([layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.1)], name="block")
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, name="stem"), block, layers.Dense(4, name="head")])


def flash(folder: Path, student: Any, teacher: Any, layer: str, **train: Any) -> FlashDistillation:
    settings = FlashSettings((StageSettings(layer, {"layer_mappings": [[layer]]}, 5),))
    conf = {"distillation": {"train": train}, "tuning": {"workspace": {"path": str(folder / "run")}}}
    x = np.random.default_rng(3).normal(size=(8, 6)).astype(np.float32)
    return FlashDistillation(conf, student, teacher, settings=settings, train_dataloader=[(x, np.arange(8) % 4)] * 2)


@pytest.mark.parametrize(("layer", "counts"), [("first", [5, 1, 1]), ("second", [5, 5, 1])])
def test_the_teacher_runs_no_further_than_the_stage_needs(tmp_path: Path, layer: str, counts: list[int]) -> None:
    student, teacher = model(1), model(2, 12)
    for one in teacher.layers:
        one.calls = 0
    flash(tmp_path, student, teacher, layer, execution_mode="eager")()
    assert [one.calls for one in teacher.layers] == counts  # the first forward runs whole, to learn the order


def test_a_block_of_layers_goes_over_to_another_student(tmp_path: Path) -> None:
    student, other = nested(1), nested(5)
    before = {one.path: np.array(one.numpy()) for one in student.variables}
    part = flash(tmp_path, student, nested(2), "block")
    part()
    changed = {one.path for one in student.variables if not np.array_equal(before[one.path], one.numpy())}
    assert changed and all("stem" not in path and "head" not in path for path in changed)
    one, two = BACKEND.block(student, "block"), BACKEND.block(other, "block")
    assert one.structure == two.structure != BACKEND.block(other, "stem").structure
    two.load(one.arrays())
    assert {name: value.tolist() for name, value in one.arrays().items()} == {
        name: value.tolist() for name, value in two.arrays().items()
    }
    assert len(one.arrays()) == 6
