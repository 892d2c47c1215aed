"""A discriminator for maps of several resolutions: of which domain is this image, seen at all of its levels.

Rules: 2-D and 3-D maps alike; no normalisation, for contrast and brightness are what domains differ in; weights
come from the generator that is handed in. The sizes of the maps don't matter, only their channels do, so an image of
another size goes through the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
_POOLS: dict[int, Any] = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


class PyramidDiscriminator(nn.Module):
    """The mirror of an encoder: takes the finest map, halves it, joins the next coarser one, and so on.

    Zhu et al. 2020, "Multi-level colonoscopy malignant tissue detection with adversarial CAC-UNet", section 3.3: no
    level is left out and none is squeezed before the discriminator sees it.

    Args:
        channels: of every level, finest first.
        dims: spatial axes, 2 or 3.
        hidden_size: channels of the first convolution; the second has twice as many, and so on.
        further: convolutions behind the last level.
        generator: draws the weights.
        dtype: of the weights.
    """

    def __init__(
        self,
        channels: Sequence[int],
        dims: int,
        hidden_size: int,
        *,
        generator: torch.Generator,
        dtype: torch.dtype,
        further: int = 0,
    ) -> None:
        super().__init__()
        widths = [hidden_size * (level + 1) for level in range(len(channels) + further)]
        taken = [*channels, *[0] * further]
        before = [0, *widths]
        self.convolutions = nn.ModuleList(
            _drawn(_CONVOLUTIONS[dims], generator, dtype, start + more, width, 3, stride=2, padding=1)
            for start, more, width in zip(before, taken, widths, strict=False)
        )
        self.head = _drawn(nn.Linear, generator, dtype, widths[-1], 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits [N], above 0 for the source.

        Args:
            levels: maps [N, C, ...], finest first.
        """
        x: Tensor | None = None
        for index, convolution in enumerate(self.convolutions):
            if index < len(levels):
                x = levels[index] if x is None else torch.cat(_of_one_size(x, levels[index]), 1)
            x = F.leaky_relu(convolution(x), 0.2)
        assert x is not None  # there is one level at least
        found: Tensor = self.head(x.flatten(2).mean(2))[:, 0]
        return found


def pooled(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [N, C, ...] averaged down to a spatial size."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    found: Tensor = _POOLS[maps.ndim - 2](maps, tuple(size))
    return found


def _of_one_size(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both at the smaller of their sizes, axis by axis."""
    size = [min(one, two) for one, two in zip(x.shape[2:], other.shape[2:], strict=True)]
    return pooled(x, size), pooled(other, size)


def _drawn(kind: Any, generator: torch.Generator, dtype: torch.dtype, *sizes: int, **options: Any) -> Any:
    """A layer of torch's whose weights our generator draws, within ±1 / sqrt(inputs) as torch does."""
    layer = torch.nn.utils.skip_init(kind, *sizes, dtype=dtype, **options)
    bound = 1 / math.sqrt(layer.weight[0].numel())
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
