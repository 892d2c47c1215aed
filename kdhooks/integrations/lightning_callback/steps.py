"""The total loss in place of the module's own, in the trainer's own step.

Rules: what is replaced are methods of the strategy, for the fit only. ``training_step`` of the ``LightningModule`` is
ours for the moment in which the strategy looks it up, and the user's own again before it runs: so the total comes out
of DistributedDataParallel's forward as if the user had returned it, is scaled by whatever scales a loss, and a copy or
a pickle of the module at any time is clean. Under manual optimization the loss that is replaced is the first one that
``manual_backward`` gets after a forward of the student and whose graph reaches the student's output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdhooks.distillation import Distillation
from kdhooks.errors import UsageError
from kdhooks.integrations.lightning_callback.batch_arguments import BatchArguments
from kdhooks.integrations.lightning_callback.capture import Capture
from kdhooks.integrations.lightning_callback.guests import WithoutGuests

_NOTHING: Any = object()


class Steps:
    """Distillation in the steps of one fit.

    Args:
        trainer: whose strategy runs the steps.
        module: the ``LightningModule``.
        distiller: that has begun.
        capture: the student's forwards.
        arguments: read batches.
        divided_by: what a manual ``training_step`` divides its loss by.

    Attributes:
        losses: how many totals there were in this epoch.
        unused: in how many steps of this epoch the student ran and no loss came of it.
    """

    def __init__(
        self,
        trainer: Any,
        module: Any,
        distiller: Distillation,
        capture: Capture,
        arguments: BatchArguments,
        divided_by: float = 1,
    ) -> None:
        self.losses = self.unused = 0
        self._module, self._distiller, self._capture, self._arguments = module, distiller, capture, arguments
        self._divided_by = divided_by
        self._batch: Any = None
        strategy, guests = trainer.strategy, WithoutGuests(distiller, trainer.strategy)
        self._run, self._backward = strategy.training_step, strategy.backward
        self._before: list[tuple[Any, str, Any]] = []
        self._put(strategy, "training_step", self._training_step)
        self._put(strategy, "backward", self._backward_of)
        self._put(strategy, "optimizer_state", guests.optimizer_state)
        self._put(strategy.precision_plugin, "main_params", guests.main_params)

    def _put(self, owner: Any, name: str, method: Any) -> None:
        self._before.append((owner, name, vars(owner).get(name, _NOTHING)))
        setattr(owner, name, method)

    def detach(self) -> None:
        """Give the trainer its methods back; a second call does nothing."""
        for owner, name, before in self._before:
            _restore(owner, name, before)
        self._before = []

    def new_epoch(self) -> None:
        """Count from the beginning."""
        self.losses = self.unused = 0

    def _training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The strategy's own, with the module's replaced until the module is asked for it."""
        module = self._module
        theirs, before = module.training_step, vars(module).get("training_step", _NOTHING)

        def once(*args: Any, **kwargs: Any) -> Any:
            _restore(module, "training_step", before)
            return self._distilled(theirs, args, kwargs)

        vars(module)["training_step"] = once
        try:
            return self._run(*args, **kwargs)
        finally:
            _restore(module, "training_step", before)

    def _distilled(self, theirs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        capture = self._capture
        capture.clear()
        capture.in_step = True
        self._batch = args[0] if args else next(iter(kwargs.values()), None)
        try:
            output = theirs(*args, **kwargs)
            if self._module.automatic_optimization:
                capture.in_step = False
                output = self._with_total(output)
            self.unused += bool(capture.forwards)
            return output
        finally:
            capture.in_step, self._batch = False, None
            capture.clear()

    def _with_total(self, output: Any) -> Any:
        """The output of ``training_step`` with the total as its loss; None and what Lightning refuses stay."""
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor):
            return output
        total = self._total(loss)
        if total is loss:
            return output
        return {**output, "loss": total} if isinstance(output, Mapping) else total

    def _total(self, loss: Tensor) -> Any:
        given, output = self._capture.take()
        arguments = self._arguments.of(self._batch, output)
        self.losses += 1
        if loss.ndim and loss.numel() != 1:
            raise UsageError(f"training_step returned a loss of shape {list(loss.shape)}: take its mean")
        return self._distiller.on_after_compute_loss(
            given, output, loss.reshape(()) if loss.ndim else loss, **arguments
        )

    def _backward_of(self, loss: Any, *args: Any, **kwargs: Any) -> Any:
        """The strategy's own backward, which gets the total where optimization is manual."""
        manual = self._capture.in_step and not self._module.automatic_optimization
        if manual and isinstance(loss, Tensor) and self._capture.reached_by(loss):
            loss = self._undivided(loss)
        return self._backward(loss, *args, **kwargs)

    def _undivided(self, loss: Tensor) -> Any:
        """The total of a loss that the user has divided, divided in the same way."""
        whole = loss if self._divided_by == 1 else loss * self._divided_by
        total = self._total(whole)
        if total is whole:
            return loss
        return total if self._divided_by == 1 else total / self._divided_by


def _restore(owner: Any, name: str, before: Any) -> None:
    if before is _NOTHING:
        vars(owner).pop(name, None)
    else:
        vars(owner)[name] = before
