"""A program fills a store from a teacher alone, and runs find what it stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from kdhooks import ConfigError, Distillation
from kdhooks.errors import KDHooksError
from kdhooks.torch import StoredOutputs, store_outputs
from tests.torch.stored_runs import watched

ASKED: list[int] = []
"""The rows of each forward of a teacher."""


@pytest.fixture
def teacher() -> nn.Linear:
    ASKED.clear()
    torch.manual_seed(0)
    made = nn.Linear(4, 3)
    watched(made, ASKED)
    return made


def batches(count: int = 3) -> list[Tensor]:
    return list(torch.randn(count * 8, 4, generator=torch.Generator().manual_seed(1)).split(8))


def test_a_run_finds_every_row(teacher: nn.Linear, tmp_path: Path) -> None:
    said: list[int] = []
    filled = store_outputs(teacher, batches(), tmp_path, progress=said.append)
    assert (filled.rows, filled.computed, said) == (24, 24, [8, 8, 8])
    ASKED.clear()
    conf = {"distillation": {"cache": {"path": str(tmp_path)}}}
    student = nn.Linear(4, 3)
    with Distillation(conf, student_model=student, teacher_model=teacher) as distiller:
        for x in batches():
            output = student(x)
            distiller.on_after_compute_loss(x, output, output.sum())
    assert ASKED == []


def test_it_goes_on_where_it_was_interrupted(teacher: nn.Linear, tmp_path: Path) -> None:
    def two_of_three() -> Any:
        yield from batches()[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_outputs(teacher, two_of_three(), tmp_path)
    assert teacher.training
    filled = store_outputs(teacher, batches(), tmp_path)
    assert (filled.rows, filled.computed, ASKED) == (24, 8, [8, 8, 8])


def test_numbers_of_the_caller_stand_for_the_rows(teacher: nn.Linear, tmp_path: Path) -> None:
    ids = torch.arange(24).split(8)
    store_outputs(teacher, batches(), tmp_path, sample_ids=ids, top_k=2, dtype="float16")
    data = StoredOutputs([(row, 0) for row in torch.cat(batches())], tmp_path, by="index")
    kept = torch.stack([data[number][2] for number in range(24)])
    exact = teacher(torch.cat(batches())).detach()
    top = exact.topk(2).indices
    torch.testing.assert_close(kept.gather(1, top), exact.gather(1, top), atol=1e-3, rtol=1e-3)


def test_the_teacher_is_as_it_was(teacher: nn.Linear, tmp_path: Path) -> None:
    store_outputs(teacher, batches(), tmp_path, options={"precision": "bf16"})
    assert teacher.training and all(parameter.requires_grad for parameter in teacher.parameters())
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}


def test_mistakes_are_named(teacher: nn.Linear, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"distillation\.teacher\.precision: expected one of 'fp32', 'bf16'"):
        store_outputs(teacher, batches(), tmp_path, options={"precision": "fp8"})
    with pytest.raises(ConfigError, match="with ema the teacher is an average of the student"):
        store_outputs(teacher, batches(), tmp_path, options={"ema": 0.9})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(KDHooksError, match="it is a file, and a store is a folder"):
        store_outputs(teacher, batches(), tmp_path / "file")


def test_fewer_numbers_than_batches(teacher: nn.Linear, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        store_outputs(teacher, batches(), tmp_path, sample_ids=[range(8)])


def test_a_checkpoint_of_transformers_is_the_teacher_that_was_saved(tmp_path: Path) -> None:
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=3,
    )
    trained, images = ViTForImageClassification(config), [torch.randn(2, 1, 8, 8)]
    assert store_outputs(trained, images, tmp_path / "store").computed == 2
    for folder in ("one", "another"):
        trained.save_pretrained(tmp_path / folder)
        loaded = ViTForImageClassification.from_pretrained(tmp_path / folder)
        assert store_outputs(loaded, images, tmp_path / "store").computed == 0
    loaded.config.layer_norm_eps = 1e-3
    assert store_outputs(loaded, images, tmp_path / "store").computed == 2
