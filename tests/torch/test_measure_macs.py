"""Multiply-accumulates against numbers that are computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from kdhooks.search import measure

WIDTH, HEADS, FORWARD, LENGTH = 32, 4, 96, 7
LAYER = LENGTH * (4 * WIDTH**2 + 2 * WIDTH * FORWARD) + 2 * LENGTH**2 * WIDTH
"""Of a transformer's layer: four projections, two layers between, and attention, twice [T, T] times the width."""


def macs(model: nn.Module, inputs: Any) -> int:
    return int(measure(model, inputs, ["macs"])["macs"].value)


class Residual(nn.Module):
    """A block of ResNet-18."""

    def __init__(self, wide: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(wide, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        shortcut = [nn.Conv2d(wide, out, 1, stride, bias=False), nn.BatchNorm2d(out)]
        self.shortcut = nn.Sequential(*(shortcut if stride > 1 else ()))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet_18() -> nn.Module:
    blocks = [Residual(64, 64, 1), Residual(64, 64, 1)]
    for wide in (64, 128, 256):
        blocks += [Residual(wide, 2 * wide, 2), Residual(2 * wide, 2 * wide, 1)]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def test_resnet_18_has_the_numbers_that_everybody_finds() -> None:
    costs = measure(resnet_18(), torch.zeros(1, 3, 224, 224), ["macs", "parameters"])
    assert costs["macs"].value == 1_814_073_344
    assert costs["parameters"].value == 11_689_512


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Linear(20, 3), (20,), 60),
        (nn.Linear(20, 3), (5, 20), 300),
        (nn.Conv1d(2, 4, 3), (2, 10), 4 * 2 * 3 * 8),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 8, 8), 8 * 3 * 9 * 16),
        (nn.Conv2d(4, 8, 3, groups=2, dilation=2), (4, 8, 8), 8 * 2 * 9 * 16),
        (nn.Conv2d(6, 6, 5, groups=6), (6, 8, 8), 6 * 25 * 16),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 3 * 2 * 8 * 27),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 4 * 6 * 9 * 25),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Softmax(1)), (3, 8, 8), 0),
    ],
)
def test_layers(model: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert macs(model, torch.zeros(4, *shape)) == expected


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("kind", "gates", "options"),
    [
        (nn.LSTM, 4, {}),
        (nn.GRU, 3, {}),
        (nn.RNN, 1, {}),
        (nn.LSTM, 4, {"num_layers": 2, "bidirectional": True}),
        (nn.GRU, 3, {"num_layers": 2, "bidirectional": True}),
    ],
)
def test_recurrent_layers(kind: Any, gates: int, options: dict[str, Any], packed: bool) -> None:
    ways = 2 if options else 1
    layer = 5 * gates * 16 * (8 + 16) * ways
    second = 5 * gates * 16 * (16 * ways + 16) * ways
    assert macs(Recurrent(kind(8, 16, batch_first=True, **options), packed), torch.zeros(2, 5, 8)) == layer + (
        second if options else 0
    )


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module, packed: bool) -> None:
        super().__init__()
        self.layer, self.packed = layer, packed

    def forward(self, x: Tensor) -> Any:
        if self.packed:
            return self.layer(nn.utils.rnn.pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True))
        return self.layer(x)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_an_lstm_with_a_projection() -> None:
    layer = nn.LSTM(8, 16, proj_size=4, batch_first=True)
    assert macs(layer, torch.zeros(1, 5, 8)) == 5 * (4 * 16 * (8 + 4) + 16 * 4)


class Function(nn.Module):
    """A model that is one function, with a parameter so that it is on a device."""

    def __init__(self, function: Callable[..., Any], *shape: int) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self.weight)


@pytest.mark.parametrize(
    ("function", "weight", "row", "expected"),
    [
        (lambda x, w: torch.einsum("nij,kj->nik", x, w), (5, 4), (3, 4), 3 * 4 * 5),
        (lambda x, w: x @ w, (2, 4, 5), (2, 3, 4), 2 * 3 * 4 * 5),
        (lambda x, w: torch.baddbmm(w, x, x.mT), (1, 3, 3), (3, 4), 3 * 4 * 3),
        (lambda x, w: torch.addbmm(w, x, x.mT), (3, 3), (3, 4), 3 * 4 * 3),
        (lambda x, w: x[0] @ w, (4,), (3, 4), 12),
        (lambda x, w: torch.addmv(w[:3], x[0], w), (4,), (3, 4), 12),
        (lambda x, w: torch.dot(x[0], w), (4,), (4,), 4),
        (lambda x, w: F.linear(x[0], w), (5, 4), (4,), 20),  # a row without its axis
        (lambda x, w: F.conv2d(x[0], w), (2, 3, 3, 3), (3, 4, 4), 2 * 27 * 4),
    ],
)
def test_products(function: Any, weight: tuple[int, ...], row: tuple[int, ...], expected: int) -> None:
    assert macs(Function(function, *weight), torch.zeros(2, *row)) == expected


@pytest.mark.parametrize("gqa", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_attention(gqa: int, masked: bool) -> None:
    def attend(x: Tensor, w: Tensor) -> Tensor:
        mask = torch.ones(6, 6, dtype=torch.bool) if masked else None
        key = x[:, : 4 // gqa]
        return F.scaled_dot_product_attention(x, key, key, attn_mask=mask, enable_gqa=gqa > 1)

    assert macs(Function(attend, 1), torch.zeros(2, 4, 6, 8)) == 2 * 4 * 6 * 6 * 8


def test_a_layer_of_torch_that_has_a_kernel_of_its_own() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, FORWARD, batch_first=True)
    assert macs(layer, torch.zeros(1, LENGTH, WIDTH)) == LAYER
    assert macs(nn.TransformerEncoder(layer, 3), torch.zeros(1, LENGTH, WIDTH)) == 3 * LAYER


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_layer_of_bert(attention: str) -> None:
    config = BertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=FORWARD,
        vocab_size=11,
        attn_implementation=attention,
    )
    ids = torch.ones(3, LENGTH, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": ids}
    assert macs(BertModel(config, add_pooling_layer=False), inputs) == 2 * LAYER


def test_what_is_compiled_is_counted_as_it_was_written() -> None:
    model = torch.compile(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), backend="eager")
    assert macs(model, torch.zeros(2, 4)) == 30
    assert measure(model, torch.zeros(2, 4), ["latency", "macs"])["macs"].value == 30
