"""Where a batch normalisation follows a convolution, and nothing else sees what is between the two.

A graph of the model says so; it is made of a copy, since tracing a forward may leave something on what it runs.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from torch import fx, nn

from kdhooks.torch.taps import is_ours

Pair = tuple[str, str]
"""The names of a convolution and of the normalisation behind it."""

HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
"""The tables of a module's hooks."""

_PAIRS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


def pairs_of(model: nn.Module) -> list[Pair]:
    """The pairs of a model, each of whose layers is called once; none where it can't be traced."""
    try:
        nodes = list(fx.Tracer().trace(_structure(model)).nodes)
    except Exception:  # a forward that looks at its values has no graph, and not everything can be copied
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
        if all(calls[id(one)] == 1 and places[id(one)] == 1 for one in pair) and _fit(*pair):
            found.append((str(before.target), str(node.target)))
    return found


def unseen(pairs: Iterable[Pair], looked: Iterable[str]) -> list[Pair]:
    """Those pairs of which nobody sees what is between them.

    Args:
        pairs: all.
        looked: names of layers whose inputs or outputs somebody takes; of a container as well.
    """
    names = list(looked)
    return [(one, two) for one, two in pairs if all(_within(one, name) == _within(two, name) for name in names)]


def hooked(model: nn.Module) -> Iterator[str]:
    """Names of the layers on which hooks stand that are not ours."""
    for name, module in model.named_modules():
        tables = (module._forward_hooks, module._forward_pre_hooks)
        if any(not is_ours(hook) for hooks in tables for hook in hooks.values()):
            yield name


def _within(name: str, container: str) -> bool:
    return not container or name == container or name.startswith(f"{container}.")


def _structure(model: nn.Module) -> nn.Module:
    """A copy with the very tensors of the model, on which no hook stands."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    tables = (vars(module).get(name) for module in model.modules() for name in HOOKS)
    memo |= {id(table): OrderedDict() for table in tables if table is not None}
    return copy.deepcopy(model, memo)


def _fit(convolution: nn.Module, normalisation: nn.Module) -> bool:
    return (
        _PAIRS.get(type(convolution)) is type(normalisation)
        and isinstance(normalisation, nn.modules.batchnorm._BatchNorm)
        and normalisation.running_mean is not None
        and isinstance(convolution._parameters.get("weight"), nn.Parameter)
    )
