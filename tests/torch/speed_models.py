"""Teachers with the layers that a precision or a memory format touches, for the tests of a teacher's speed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Maps(nn.Module):
    """[N, 3, H, W] to [N, 5] logits: convolutions of all kinds, BatchNorm, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        output: Tensor = self.head(self.up(self.deep(x)).mean((2, 3)))
        return output


class Tied(nn.Module):
    """[N, T] tokens to [N, T, 11] logits; the head's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.embedding(tokens))
        output: Tensor = self.head(x + self.attention(x, x, x, need_weights=False)[0])
        return output


class Signals(nn.Module):
    """[N, 4, T] to [N, T', 5]: convolutions over time, a recurrent layer, a bilinear one, PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3)
        self.up = nn.ConvTranspose1d(6, 6, 2)
        self.lstm = nn.LSTM(6, 6, batch_first=True)
        self.curve = nn.PReLU()
        self.both = nn.Bilinear(6, 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.curve(self.up(self.conv(x))).transpose(1, 2)
        other: Tensor = self.lstm(x)[0]
        output: Tensor = self.both(x.float(), other.float())
        return output


class Encoder(nn.Module):
    """[N, T, 8] through torch's own encoder to [N, T, 8]."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.encoder(x)
        return output


class Centred(nn.Linear):
    """A linear layer that computes with its weight in full precision before it goes in."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class Asking(nn.Module):
    """A model whose values depend on the dtype of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.body(x)
        return output if self.body.weight.dtype == torch.float32 else output + 1


def given(kind: type[nn.Module]) -> Any:
    """An input of one of these."""
    generator = torch.Generator().manual_seed(5)
    if kind is Tied:
        return torch.randint(11, (3, 7), generator=generator)
    shapes = {Maps: (4, 3, 6, 6), Signals: (3, 4, 9), Encoder: (3, 7, 8)}
    return torch.randn(*shapes.get(kind, (8, 6)), generator=generator)
