"""Batch normalisation folded into the convolutions before it, for as long as a teacher's forward runs.

In eval mode a normalisation is a factor and a shift for each channel, so the convolution can have both in its weight
and bias (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", section 3.2). Rules: the model's own modules and
tensors stay what they are. While a forward of ours runs, a convolution has the folded weight and bias, and an identity
stands in the place of its normalisation; somebody who looks between the two ends it for that pair.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kdhooks.torch.convolution_pairs import Pair, hooked, pairs_of, unseen


@dataclass(frozen=True)
class Fold:
    """A convolution and the normalisation behind it.

    Attributes:
        convolution, normalisation: the two.
        holder, key: where the normalisation stands in the module around it.
    """

    convolution: Any
    normalisation: Any
    holder: dict[str, Any]
    key: str

    def sources(self) -> list[Tensor]:
        """The tensors that the folded ones are made of."""
        norm = self.normalisation
        found = [self.convolution.weight, self.convolution.bias, norm.weight, norm.bias]
        return [one for one in (*found, norm.running_mean, norm.running_var) if one is not None]

    def made(self, dtype: torch.dtype | None, order: torch.memory_format) -> tuple[nn.Parameter, nn.Parameter]:
        """The folded weight and bias, in a dtype and memory format."""
        norm = self.normalisation
        weight, bias = fuse_conv_bn_weights(
            *(self.convolution.weight, self.convolution.bias, norm.running_mean, norm.running_var),
            *(norm.eps, norm.weight, norm.bias),
        )
        cast = weight.detach().to(dtype or weight.dtype, memory_format=order), bias.detach().to(dtype or bias.dtype)
        return nn.Parameter(cast[0], requires_grad=False), nn.Parameter(cast[1], requires_grad=False)


class Folds:
    """The pairs of a teacher that are folded.

    Args:
        model: the teacher.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._pairs: list[Pair] = pairs_of(model)
        self._looked: frozenset[str] = frozenset()
        self.doubt()

    def __len__(self) -> int:
        return len(self._pairs)

    def doubt(self) -> None:
        """Somebody may have put a hook on the teacher."""
        everywhere = nn.modules.module
        if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
            self._pairs = []
        self._pairs = unseen(self._pairs, hooked(self._model))

    def look(self, layers: Iterable[str]) -> bool:
        """Whether somebody looks at layers for which less may be folded than before."""
        looked = frozenset(layers)
        if looked <= self._looked:
            return False
        self._looked |= looked
        before = len(self._pairs)
        self._pairs = unseen(self._pairs, looked)
        return len(self._pairs) < before

    def present(self) -> list[Fold]:
        """The pairs as they stand in the model now; one that is no longer what it was, or trains, is left out."""
        modules = dict(self._model.named_modules())
        found = []
        for first, second in self._pairs:
            above, _, key = second.rpartition(".")
            convolution, norm = modules.get(first), modules.get(second)
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and not norm.training and norm.track_running_stats:
                fold = Fold(convolution, norm, modules[above]._modules, key)
                if all(_plain(one) for one in fold.sources()):
                    found.append(fold)
        return found


def _plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (nn.Parameter, Tensor)
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and not tensor.is_inference()
    )
