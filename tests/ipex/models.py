"""Small models with what the extension changes: convolutions before normalisation, linear layers, dropout."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Linear):
    """A linear layer that counts the calls of all its copies."""

    calls: ClassVar[list[int]] = []

    def forward(self, input: Tensor) -> Tensor:
        self.calls.append(1)
        return super().forward(input)


class Stage(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if scale is not None:
            x = x * scale
        return F.relu(self.bn2(self.conv2(x)) + x)


class Images(nn.Module):
    """[N, 3, H, W] to [N, 10]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stage1, self.stage2 = Stage(3, width), Stage(width, 2 * width)
        self.body = nn.Sequential(nn.Linear(2 * width, 32), nn.ReLU(), nn.Dropout(0.1))
        self.head = Head(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(self.stage2(self.stage1(x)).mean((2, 3))))
        return output


class Tokens(nn.Module):
    """[N, T] numbers to [N, 5], by torch's own encoder layers, whose fused kernel reads weights by itself."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True) for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        output: Tensor = self.head(self.norm(x).mean(1))
        return output


class ReadsItsWeight(nn.Module):
    """Computes with the weight of a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.conv2d(x, self.conv.weight, self.conv.bias).mean((2, 3)), self.head.weight, self.head.bias)


def made(kind: type[nn.Module], seed: int = 1, **options: Any) -> Any:
    """A model whose normalisations have seen something."""
    torch.manual_seed(seed)
    model = kind(**options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.8, 1.2)  # type: ignore[arg-type]
    return model


def images(rows: int = 16, seed: int = 2) -> Tensor:
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def labels(rows: int = 16, seed: int = 2) -> Tensor:
    return torch.randint(10, (rows,), generator=torch.Generator().manual_seed(seed))


def tokens(rows: int = 8) -> Tensor:
    return torch.randint(20, (rows, 6), generator=torch.Generator().manual_seed(3))
