"""Batch normalisation folded into the convolutions before it, in a copy of a teacher whose modules keep their names.

``ipex.optimize`` folds too, but returns a graph in which the containers are no longer called (so nothing behind their
names could be captured) and the arguments that a model left out are taken for given. Here the graph is used only
to find pairs, and the model's own forward runs on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_PAIRS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


def fold_normalisation(model: nn.Module, tapped: Callable[[str], bool]) -> int:
    """Fold each normalisation that follows a convolution, and nothing else, into it.

    Args:
        model: a copy in eval mode; its convolutions get new weights, its normalisations become identities.
        tapped: whether somebody looks at a layer, by its name: between it and the next nothing changes then.

    Returns:
        How many were folded; 0 for a model that can't be traced.
    """
    pairs = [(one, two) for one, two in _found(model) if not tapped(one) and not tapped(two)]
    for convolution_name, normalisation_name in pairs:
        convolution: Any = model.get_submodule(convolution_name)
        normalisation: Any = model.get_submodule(normalisation_name)
        with torch.no_grad():
            folded = fuse_conv_bn_eval(convolution, normalisation)
        convolution.register_parameter("weight", folded.weight)
        convolution.register_parameter("bias", folded.bias)
        _put(model, normalisation_name, nn.Identity().eval())
    return len(pairs)


def _found(model: nn.Module) -> list[tuple[str, str]]:
    """Names of a convolution and of the normalisation that alone takes its output, each called once."""
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
    except Exception:  # a forward that looks at its values has no graph
        return []
    modules = dict(model.named_modules(remove_duplicate=False))
    places = Counter(id(module) for module in modules.values())
    calls = Counter(id(modules[str(node.target)]) for node in nodes if node.op == "call_module")
    found = []
    for node in nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        pair = [modules[str(one.target)] for one in (before, node)]
        if all(calls[id(one)] == 1 and places[id(one)] == 1 and not _has_hooks(one) for one in pair) and _fit(*pair):
            found.append((str(before.target), str(node.target)))
    return found


def _fit(convolution: nn.Module, normalisation: nn.Module) -> bool:
    return (
        _PAIRS.get(type(convolution)) is type(normalisation)
        and isinstance(normalisation, nn.modules.batchnorm._BatchNorm)
        and normalisation.running_mean is not None
        and isinstance(convolution._parameters.get("weight"), nn.Parameter)
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    above, _, last = name.rpartition(".")
    model.get_submodule(above)._modules[last] = module
