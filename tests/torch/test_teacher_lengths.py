"""Batches of padded tokens that a teacher gets in two narrower parts."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdhooks.speed import Choice
from kdhooks.torch.teacher_lengths import parted
from tests.torch.teacher_parts import attached

LENGTHS = [3, 9, 2, 9, 1, 2, 4, 3, 16, 2, 9, 3, 3, 2, 15, 4, 2, 1, 3, 2]


@dataclass
class Output(OrderedDict[str, Any]):
    """As transformers' outputs are: a mapping and an object."""

    logits: Any = None
    states: Any = None

    def __post_init__(self) -> None:
        self.update({key: value for key, value in vars(self).items() if value is not None})


class Encoder(nn.Module):
    """Tokens [N, T] and their mask to logits [N, 5], by attention; notes what it got."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words, self.places = nn.Embedding(50, 16), nn.Embedding(32, 16)
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 5)
        self.shapes: list[tuple[int, ...]] = []

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.shapes.append(tuple(input_ids.shape))
        x = self.words(input_ids) + self.places.weight[: input_ids.shape[1]]
        found: Tensor = x + self.attention(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)[0]
        return found

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        counts = attention_mask[..., None].float()
        return self.head((self.hidden(input_ids, attention_mask) * counts).sum(1) / counts.sum(1))


class Objects(Encoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return Output(logits=super().forward(input_ids, attention_mask))


class Careless(Encoder):
    """Averages over padding too."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.head(self.hidden(input_ids, attention_mask).mean(1))


class Wide(Encoder):
    """Logits for every token."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return self.head(self.hidden(input_ids, attention_mask))


def tokens(lengths: list[int] = LENGTHS) -> dict[str, Tensor]:
    ids = [torch.randint(1, 50, (length,), generator=torch.Generator().manual_seed(length)) for length in lengths]
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return {"input_ids": padded, "attention_mask": (padded != 0).long()}


def outputs(model: nn.Module, **options: Any) -> tuple[Any, Any]:
    """A second output of a teacher in full precision, and that of the model; only its own forwards are noted."""
    given = tokens()
    with torch.no_grad():
        plain = model.eval()(**given)
    with attached(model, **{"precision": "auto"} | options) as teacher:
        teacher.adopt(Choice("fp32"))
        first = teacher(given)
        model.shapes.clear()
        second = teacher(given)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    return second, plain


@pytest.mark.parametrize("kind", [Encoder, Objects])
def test_a_batch_is_parted_and_its_output_is_that_of_the_whole(kind: type[Encoder]) -> None:
    model = kind()
    found, plain = outputs(model)
    assert model.shapes == [(12, 3), (8, 16)]
    assert type(found) is type(plain)
    one, other = (value.logits if kind is Objects else value for value in (found, plain))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [Careless, Wide])
def test_a_model_to_which_the_width_matters_gets_the_whole(
    kind: type[Encoder], caplog: pytest.LogCaptureFixture
) -> None:
    model = kind()
    with caplog.at_level(logging.DEBUG, "kdhooks"):
        found, plain = outputs(model)
    assert model.shapes == [(20, 16)]
    torch.testing.assert_close(found, plain)
    said = f"the teacher {kind.__name__} gets its batches whole: by length it gives other values"
    assert caplog.records[-1].getMessage() == said


def test_only_auto_parts_and_not_where_layers_are_looked_at() -> None:
    model = Encoder()
    outputs(model, precision="fp32")
    assert model.shapes == [(20, 16)]
    with attached(model, precision="auto") as teacher:
        teacher.adopt(Choice("fp32"))
        teacher.tap().attach([("attention", False)])
        model.shapes.clear()
        teacher(tokens())
    assert model.shapes == [(20, 16)]


def test_what_stays_whole() -> None:
    given = tokens()
    rows = parted(given)
    assert rows is not None
    assert sorted(torch.cat(rows).tolist()) == list(range(20))
    assert max(LENGTHS[row] for row in rows[0]) == 3
    ids, mask = given["input_ids"], given["attention_mask"]
    assert parted(tokens([16] * 20)) is None
    assert parted(tokens(LENGTHS[:15])) is None
    assert parted({"input_ids": ids.flip(1), "attention_mask": mask.flip(1)}) is None
    assert parted({"input_ids": ids, "attention_mask": mask * 0.5}) is None
    assert parted({"input_ids": ids}) is None
    assert parted(given | {"pixels": torch.zeros(20, 16)}) is None
    assert parted(given | {"position_ids": torch.arange(16)[None]}) is None
