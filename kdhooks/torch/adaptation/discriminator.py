"""Domain discriminators: which domain does a row come from?"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks.torch.losses.modules import fill_layer, linear


def private(seed: int) -> int:
    """A seed far from those that programs choose: with the user's own, a second head would equal the first."""
    return 0x6B64_686F_6F6B_0000 + seed


class Discriminator(nn.Module):
    """A small network of rows: linear layers with ReLU between, one logit a row, positive for the source.

    It has neither BatchNorm, which fails for one row and mixes rows, nor dropout, which would draw from the user's
    generator.

    Args:
        width: of the rows.
        hidden_size: of each hidden layer.
        hidden_layers: how many; 0 is a linear discriminator.
        generator: draws the parameters, uniform in ±1/sqrt(in) as `nn.Linear` does.
        dtype: of the parameters.
        outputs: numbers a row.

    Attributes:
        width: of the rows.
        layers: the linear layers.
    """

    def __init__(
        self,
        width: int,
        hidden_size: int,
        hidden_layers: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.width = width
        sizes = [width, *[hidden_size] * hidden_layers, outputs]
        self.layers = nn.ModuleList(linear(*pair).to(dtype) for pair in itertools.pairwise(sizes))
        with torch.no_grad():
            for layer in self.layers:
                fill_layer(layer, generator)  # type: ignore[arg-type]

    def forward(self, rows: Tensor) -> Tensor:
        """[N, width] to logits [N], or [N, outputs] where there are several."""
        rows = rows.to(self.layers[0].weight.dtype)  # type: ignore[arg-type]
        for index, layer in enumerate(self.layers):
            rows = layer(F.relu(rows) if index else rows)
        return rows.squeeze(1) if rows.shape[1] == 1 else rows


def domain_loss(source: Tensor, target: Tensor, weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The cross entropy of a discriminator: -mean log D(source) - mean log(1 - D(target)).

    Each domain has its own mean, so their sizes may differ. It is computed from logits, finite where they saturate.

    Args:
        source: logits [N], positive for the source.
        target: logits [M].
        weights: a factor for each row, [N] and [M].
    """
    costs = -F.logsigmoid(source), -F.logsigmoid(-target)
    if weights is not None:
        costs = costs[0] * weights[0], costs[1] * weights[1]
    return costs[0].mean() + costs[1].mean()


def domain_accuracy(source: Tensor, target: Tensor) -> Tensor:
    """The share of rows that a discriminator tells right, mean of both domains: 0.5 is guessing; on the device."""
    right = (source.detach() > 0).to(source.dtype).mean() + (target.detach() < 0).to(target.dtype).mean()
    return right / 2
