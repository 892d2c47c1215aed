"""Batches of rows, what a model predicts for them, and which fields of them pass."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdhooks.errors import DataError
from kdhooks.search.trainers.fields import CommonFields, FilteredBatches
from kdhooks.torch.rows import predictions, row_loader

ROWS = [{"x": [float(number)] * 2, "labels": number % 3} for number in range(10)]


def stacked(rows: list[Any]) -> dict[str, Tensor]:
    return {
        "x": torch.tensor([row["x"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
        "chance": torch.rand(len(rows)),
    }


def served(loader: Any) -> list[tuple[list[float], list[float]]]:
    return [(batch["x"][:, 0].tolist(), batch["chance"].tolist()) for batch in loader]


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    loader = row_loader(ROWS, stacked, batch_size=4, shuffle=True, seed=1)
    before = torch.get_rng_state()
    first, second = served(loader), served(loader)
    assert torch.equal(torch.get_rng_state(), before), "the user's generator is left alone"
    assert first != second
    loader.set_epoch(0)
    assert served(loader) == first, "what a collator draws by chance too"
    assert served(row_loader(ROWS, stacked, batch_size=4, shuffle=True, seed=2)) != first
    assert sorted(number for batch, _ in first for number in batch) == list(range(10))


def test_a_short_batch_can_be_left_out() -> None:
    assert [len(batch) for batch, _ in served(row_loader(ROWS, stacked, batch_size=4))] == [4, 4, 2]
    assert [len(batch) for batch, _ in served(row_loader(ROWS, stacked, batch_size=4, drop_last=True))] == [4, 4]


def test_processes_that_train_together_share_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        seen.append(
            [number for batch, _ in served(row_loader(ROWS, stacked, batch_size=2, shared=True)) for number in batch]
        )
    assert sorted(seen[0] + seen[1]) == list(range(10))
    whole = [number for batch, _ in served(row_loader(ROWS, stacked, batch_size=2)) for number in batch]
    assert whole == list(range(10)), "each judges on all"


def test_a_dataset_may_fetch_many_rows_at_once() -> None:
    class Fetching(list[Any]):
        fetched: list[list[int]] = []  # noqa: RUF012

        def __getitems__(self, numbers: list[int]) -> list[Any]:
            self.fetched.append(numbers)
            return [self[number] for number in numbers]

    data = Fetching(ROWS)
    list(row_loader(data, stacked, batch_size=6))
    assert data.fetched == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.double = torch.tensor(2.0)

    def forward(self, x: Tensor, **rest: Tensor) -> Any:
        return {"hidden": x, "scores": x * self.double}


def test_predictions_are_those_of_all_rows() -> None:
    loader = row_loader(ROWS, stacked, batch_size=4)
    logits, labels = predictions(Doubled(), loader, outputs=["scores"])
    np.testing.assert_array_equal(logits, 2 * np.array([row["x"] for row in ROWS], np.float32))
    np.testing.assert_array_equal(labels, [row["labels"] for row in ROWS])
    part, _ = predictions(Doubled(), loader, inputs=["x"], limit=1, preprocess=lambda logits, labels: logits.argmax(-1))
    assert part.shape == (4,)


def test_predictions_of_unequal_length_are_filled_up() -> None:
    batches = [
        {"x": torch.ones(2, 3, 4), "labels": torch.zeros(2, 3, dtype=torch.long)},
        {"x": torch.ones(1, 5, 4, dtype=torch.bfloat16), "labels": torch.zeros(1, 5, dtype=torch.long)},
    ]
    logits, labels = predictions(Doubled(), batches, outputs=["hidden"])
    assert logits.shape == (3, 5, 4) and logits.dtype == np.float32
    assert (logits[:2, 3:] == -100).all() and (logits[:2, :3] == 1).all()
    assert labels.tolist() == [[0, 0, 0, -100, -100]] * 2 + [[0] * 5]


def test_odd_data_are_told() -> None:
    with pytest.raises(DataError) as caught:
        predictions(Doubled(), [])
    assert str(caught.value) == "there is nothing to evaluate: the evaluation data had no batches"
    with pytest.raises(DataError) as odd:
        predictions(Doubled(), [{"x": torch.ones(1, 2), "labels": [1]}])
    assert str(odd.value) == "the labels of a batch must be a tensor, and these are a list of int"
    with pytest.raises(DataError, match=r"^the dataset has no rows$"):
        row_loader([], stacked, batch_size=2)


class Takes(nn.Module):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Any) -> None:
        """Names two fields."""


class TakesOne(nn.Module):
    def forward(self, input_ids: Tensor) -> None:
        """Names one field."""


class TakesAny(nn.Module):
    def forward(self, **fields: Any) -> None:
        """Names none."""


def test_what_both_models_take_passes(caplog: pytest.LogCaptureFixture) -> None:
    batch = dict.fromkeys(["input_ids", "attention_mask", "text", "labels", "tags"])
    fields = CommonFields([Takes(), TakesAny()], labels=["tags"])
    with caplog.at_level(logging.WARNING, logger="kdhooks"):
        assert list(fields(batch)) == ["input_ids", "attention_mask", "labels", "tags"]
        fields.meet(TakesOne())
        assert list(fields(batch)) == ["input_ids", "labels", "tags"]
        fields(batch)
    assert caplog.messages == [
        "the student's forward takes no 'attention_mask', so the teacher, whose input is the student's, goes without it"
    ]
    fields.meet(TakesAny())
    assert "attention_mask" in fields(batch)


def test_a_filtered_loader_is_otherwise_the_users() -> None:
    class Loader(list[Any]):
        epoch = None

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    loader = Loader([{"input_ids": 1, "text": 2}, (3, 4)])
    filtered = FilteredBatches(loader, CommonFields(TakesOne()))
    assert list(filtered) == [{"input_ids": 1}, (3, 4)]
    assert len(filtered) == 2
    filtered.set_epoch(5)
    assert loader.epoch == 5
    assert not hasattr(filtered, "dataset")
