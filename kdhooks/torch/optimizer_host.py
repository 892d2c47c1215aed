"""An optimizer that has guests: what its user sees of it stays the user's own.

``state_dict()`` is without guests, its indices counted anew, and a state without guests loads while they are
there, with what they had. After a step their gradients are cleared. Beside sharded parameters guests stand apart, see
`kdhooks.torch.apart_group`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from kdhooks.torch.apart_group import ApartGroup
from kdhooks.torch.flat_state import cut, kept, padded, tails
from kdhooks.torch.sharding import is_shard

Parameters = list[nn.Parameter]


class Host:
    """What is done to one optimizer while it has guests."""

    _of: ClassVar[WeakKeyDictionary[Optimizer, Host]] = WeakKeyDictionary()

    def __init__(self, optimizer: Optimizer) -> None:
        self.guests: list[Parameters] = []
        self._apart: ApartGroup | None = None  # beside sharded parameters
        self._waiting: Sequence[Any] = ()  # what LBFGS kept in a saved run, until its state is loaded
        self._handles = [
            optimizer.register_step_post_hook(self._clear),
            optimizer.register_state_dict_post_hook(self._without_guests),
            optimizer.register_load_state_dict_pre_hook(self._with_guests),
        ]

    @classmethod
    def of(cls, optimizer: Optimizer) -> Host:
        """The host of an optimizer, made where there is none."""
        host = cls._of.get(optimizer)
        if host is None:
            host = cls._of[optimizer] = Host(optimizer)
        return host

    def admit(
        self,
        optimizer: Optimizer,
        party: Parameters,
        parameters: Parameters,
        number: int,
        slots: Sequence[Any],
    ) -> None:
        """Add parameters of a party to the group of a number, with what an earlier run's optimizer kept for them."""
        if not any(one is party for one in self.guests):
            self.guests.append(party)
        group = optimizer.param_groups[number]
        if self._apart is not None or any(map(is_shard, group["params"])):
            self._admit_apart(optimizer, parameters, number, slots)
            return
        group["params"].extend(parameters)
        if isinstance(optimizer, LBFGS):
            optimizer._numel_cache = None
            if not padded(optimizer.state.get(group["params"][0]), _sizes(parameters), slots):
                self._waiting = slots
            return
        if isinstance(optimizer, torch.optim.Adagrad):  # the one that makes its state in the beginning
            optimizer.state.update(torch.optim.Adagrad(parameters, **optimizer.defaults).state)
        optimizer.state.update(_kept_slots(parameters, slots, group))

    def _admit_apart(self, optimizer: Optimizer, parameters: Parameters, number: int, slots: Sequence[Any]) -> None:
        if self._apart is None:
            self._apart = ApartGroup(optimizer, number)
        state: dict[Tensor, Any] = {}
        if isinstance(optimizer, torch.optim.Adagrad):
            state = dict(torch.optim.Adagrad(parameters, **optimizer.defaults).state)
        self._apart.add(parameters, state | _kept_slots(parameters, slots, optimizer.param_groups[number]))

    def slot(self, optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
        """What the optimizer keeps for a guest."""
        state: Any = optimizer.state if self._apart is None else self._apart.state
        return dict(state.get(parameter, {}))

    def dismiss(self, optimizer: Optimizer, parameters: Parameters) -> None:
        """Take parameters and their state out again; the last one takes the hooks with it."""
        ours = {id(parameter) for parameter in parameters}
        for group in optimizer.param_groups:
            if isinstance(optimizer, LBFGS):
                state = optimizer.state.get(group["params"][0])
                if state:
                    state.update(cut(state, kept(group["params"], ours)))
                optimizer._numel_cache = None
            group["params"][:] = [one for one in group["params"] if id(one) not in ours]
        if self._apart is not None:
            self._apart.remove(optimizer, parameters)
        for parameter in parameters:
            optimizer.state.pop(parameter, None)
            parameter.grad = None
        self.guests = [one for one in self.guests if one is not parameters]
        if not self.guests:
            for handle in self._handles:
                handle.remove()
            if self._apart is not None:
                self._apart.end()
            Host._of.pop(optimizer, None)

    def _ids(self) -> set[int]:
        return {id(parameter) for parameters in self.guests for parameter in parameters}

    def _clear(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._apart is not None:
            self._apart.end_step(optimizer)
        for parameters in self.guests:
            for parameter in parameters:
                parameter.grad = None

    def _without_guests(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """The state as it would be without guests, its indices counted anew."""
        ours = self._ids()
        numbers: dict[Any, int] = {}
        dropped: set[Any] = set()
        groups = []
        for group, packed in zip(optimizer.param_groups, state["param_groups"], strict=True):
            numbered = []
            for parameter, number in zip(group["params"], packed["params"], strict=True):
                if id(parameter) in ours:
                    dropped.add(number)
                else:
                    numbered.append(numbers.setdefault(number, len(numbers)))
            groups.append({**packed, "params": numbered})
        slots = {numbers.get(key, key): value for key, value in state["state"].items() if key not in dropped}
        if isinstance(optimizer, LBFGS):
            stays = kept(optimizer.param_groups[0]["params"], ours)
            slots = {key: cut(value, stays) for key, value in slots.items()}
        return {**state, "state": slots, "param_groups": groups}

    def _with_guests(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """A state without guests, with those of ours that are there now."""
        ours = self._ids()
        if len(state["param_groups"]) != len(optimizer.param_groups):
            return state  # the optimizer's own message says what is wrong
        slots, groups = dict(state["state"]), []
        for group, packed in zip(optimizer.param_groups, state["param_groups"], strict=True):
            guests = [parameter for parameter in group["params"] if id(parameter) in ours]
            keys = [f"kdhooks {id(parameter)}" for parameter in guests]
            groups.append({**packed, "params": [*packed["params"], *keys]})
            slots |= {
                key: optimizer.state[parameter]
                for key, parameter in zip(keys, guests, strict=True)
                if parameter in optimizer.state
            }
        if isinstance(optimizer, LBFGS):
            slots = {key: self._lengthened(optimizer, value, ours) for key, value in slots.items()}
        return {**state, "state": slots, "param_groups": groups}

    def _lengthened(self, optimizer: Optimizer, loaded: Any, ours: set[int]) -> Any:
        """A loaded state of LBFGS with room for the guests, who keep what they have where the histories agree."""
        parameters = optimizer.param_groups[0]["params"]
        guests = [parameter for parameter in parameters if id(parameter) in ours]
        current = optimizer.state.get(parameters[0])
        slots = tails(current, kept(parameters, ours)) if current else self._waiting
        return padded(dict(loaded), _sizes(guests), slots)


def _kept_slots(parameters: Parameters, slots: Sequence[Any], group: dict[str, Any]) -> dict[Tensor, Any]:
    """What an earlier run's optimizer kept, by parameter, where the group wants it."""
    everywhere = bool(group.get("capturable") or group.get("fused"))
    return {
        parameter: {key: _placed(value, parameter, everywhere) for key, value in slot.items()}
        for parameter, slot in zip(parameters, slots, strict=False)
        if slot
    }


def _sizes(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _placed(value: Any, parameter: Tensor, everywhere: bool) -> Any:
    """A saved value on the device of its parameter; a count of steps only where the optimizer wants it there."""
    if not isinstance(value, Tensor):
        return value
    return value.to(parameter.device, copy=True) if value.ndim or everywhere else value.clone()
