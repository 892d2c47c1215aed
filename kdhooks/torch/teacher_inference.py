"""A teacher's forwards without a graph: the first under `no_grad`, later ones in inference mode where that is harmless.

A module may keep a tensor that it made (a table of positions, say) and hand it to the student's graph one day, which
a tensor of inference mode can't enter. So such tables are made by the first forward, as ordinary tensors; a look
after the second finds modules that made more, gives them ordinary ones, and ends it for this teacher. Nor is it used
where somebody's own hooks stand on the teacher: what they take out of a forward may enter a graph as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.messages import logger
from kdhooks.torch.taps import is_ours


class UnknownOutputError(Exception):
    """An output is of a kind that can't be made again with other tensors."""


class WithoutGraph:
    """What a teacher's forwards run under.

    Args:
        model: whose modules are looked at.
        allowed: whether inference mode may be used at all.
    """

    def __init__(self, model: nn.Module, *, allowed: bool) -> None:
        self._model = model
        parameters = (parameter.is_inference() for parameter in model.parameters())
        self._allowed = allowed and not any(parameters) and not any(_kept(one) for one in model.modules())
        self._forwards = 0
        self._inside = False
        self.doubt()

    def doubt(self) -> None:
        """Somebody may have put a hook on the teacher."""
        if self._allowed and _hooked(self._model):
            self.end()
            self._allowed = False

    def context(self, output_only: bool) -> AbstractContextManager[Any]:
        """What the next forward runs under.

        Args:
            output_only: whether nothing but the output leaves it; captured features stay ordinary tensors.
        """
        if not self._allowed:
            return torch.no_grad()
        self._inside = output_only and self._forwards > 0
        return torch.inference_mode() if self._inside else torch.no_grad()

    def handed_out(self, output: Any) -> Any:
        """The output as ordinary tensors, of the very kind that the model returned."""
        if not self._allowed:
            return output
        self._forwards += 1
        if not self._inside:
            try:
                if self._forwards == 1:
                    _ordinary(output)
            except UnknownOutputError:
                self._allowed = False
            return output
        if self._forwards == 2:
            self._look()
        return _ordinary(output)

    def end(self) -> None:
        """Leave no tensor of inference mode on a module: its user may train it one day."""
        if self._allowed and self._forwards > 1:
            self._look()

    def _look(self) -> None:
        """Give modules ordinary tensors for those that they have made since; they run under `no_grad` then."""
        for name, module in self._model.named_modules():
            for holder, key in _kept(module):
                holder[key] = holder[key].clone()
                if self._allowed:
                    kind, where = type(self._model).__name__, f"{name}.{key}".lstrip(".")
                    logger.debug(
                        "the teacher %s keeps tensors that it makes, in %s: it runs under no_grad", kind, where
                    )
                self._allowed = False


def _ordinary(value: Any) -> Any:
    """A nest of outputs whose tensors may enter any graph."""
    return rebuilt(value, lambda tensor: tensor.clone() if tensor.is_inference() else tensor)


def rebuilt(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A nest of outputs, of the very kinds that it had, with other tensors.

    Raises:
        UnknownOutputError: it holds something that can't be made again.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return change(value)
    kind = type(value)
    if kind in (dict, OrderedDict):
        return kind((key, rebuilt(item, change)) for key, item in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(*(rebuilt(item, change) for item in value))
    if kind in (tuple, list):
        return kind(rebuilt(item, change) for item in value)
    if is_dataclass(value) and all(one.init for one in fields(value)):
        return replace(value, **{one.name: rebuilt(getattr(value, one.name), change) for one in fields(value)})  # type: ignore[type-var]
    raise UnknownOutputError


def _hooked(model: nn.Module) -> bool:
    """Whether somebody's hooks see what goes through a model."""
    everywhere = nn.modules.module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        return True
    hooks = (one for module in model.modules() for one in (module._forward_hooks, module._forward_pre_hooks))
    return any(not is_ours(hook) for several in hooks for hook in several.values())


def _kept(module: nn.Module) -> list[tuple[Any, Any]]:
    """Where a module keeps tensors of inference mode: what holds one, and its name there."""
    found = []
    for holder in _holders(module):
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(value, Tensor) and value.is_inference() and not isinstance(value, nn.Parameter):
                found.append((holder, key))
    return found


def _holders(module: nn.Module) -> Iterator[Any]:
    """Buffers, attributes, and the lists and dicts among these."""
    own = vars(module)
    yield own
    yield from (value for name, value in own.items() if type(value) in (dict, list) and name != "_parameters")
