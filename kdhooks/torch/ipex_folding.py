"""Batch normalisation folded into the convolutions before it, in a copy of a teacher whose modules keep their names.

``ipex.optimize`` folds too, but returns a graph in which the containers are no longer called (so nothing behind their
names could be captured) and the arguments that a model left out are taken for given. Here the graph is used only
to find pairs, and the model's own forward runs on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdhooks.torch.convolution_pairs import hooked, pairs_of, unseen


def fold_normalisation(model: nn.Module, tapped: Iterable[str]) -> int:
    """Fold each normalisation that follows a convolution, and nothing else, into it.

    Args:
        model: a copy in eval mode; its convolutions get new weights, its normalisations become identities.
        tapped: the layers at which somebody looks, by their names.

    Returns:
        How many were folded; 0 for a model that can't be traced.
    """
    pairs = unseen(pairs_of(model), [*tapped, *hooked(model)])
    for convolution_name, normalisation_name in pairs:
        convolution: Any = model.get_submodule(convolution_name)
        normalisation: Any = model.get_submodule(normalisation_name)
        with torch.no_grad():
            folded = fuse_conv_bn_eval(convolution, normalisation)
        convolution.register_parameter("weight", folded.weight)
        convolution.register_parameter("bias", folded.bias)
        _put(model, normalisation_name, nn.Identity().eval())
    return len(pairs)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    above, _, last = name.rpartition(".")
    model.get_submodule(above)._modules[last] = module
