"""What the trainer does with the parameters of an optimizer, without those of ours that are guests in it.

Rules: gradient clipping sees the user's parameters only, as in a bare loop; so under ``fully_shard`` our plain tensors
and the user's sharded ones never share a call. Where states of optimizers are gathered by the names of the module's
parameters, as sharded ones are, ours are out of the optimizer for that moment: they have no name there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdhooks.distillation import Distillation


class WithoutGuests:
    """Two methods of the trainer that know nothing of guests, for one fit.

    Args:
        distiller: whose parameters are guests.
        strategy: of the trainer.
    """

    def __init__(self, distiller: Distillation, strategy: Any) -> None:
        self._distiller = distiller
        self._main_params = strategy.precision_plugin.main_params
        self._optimizer_state = strategy.optimizer_state

    def main_params(self, optimizer: Any) -> Any:
        """What gradient clipping looks at."""
        ours = self._ours()
        return (parameter for parameter in self._main_params(optimizer) if id(parameter) not in ours)

    def optimizer_state(self, optimizer: Any) -> Any:
        """What a checkpoint holds of an optimizer."""
        with self._absent(getattr(optimizer, "_optimizer", optimizer)):
            return self._optimizer_state(optimizer)

    @contextmanager
    def _absent(self, optimizer: Any) -> Iterator[None]:
        """In the block an optimizer of sharded parameters has no guests; plain ones hide them by themselves."""
        ours, groups = self._ours(), optimizer.param_groups
        if not any(hasattr(one, "device_mesh") for group in groups for one in group["params"]):
            yield
            return
        before = [list(group["params"]) for group in groups]
        states = {one: optimizer.state.pop(one) for one in list(optimizer.state) if id(one) in ours}
        for group in groups:
            group["params"][:] = [one for one in group["params"] if id(one) not in ours]
        try:
            yield
        finally:
            for group, parameters in zip(groups, before, strict=True):
                group["params"][:] = parameters
            optimizer.state.update(states)

    def _ours(self) -> set[int]:
        return {id(parameter) for parameter in self._distiller.parameters()}
