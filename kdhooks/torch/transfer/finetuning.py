"""What the section ``finetune`` does in a run: transfer, frozen layers epoch by epoch, regularisers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from kdhooks.config.finetune_settings import FinetuneSettings
from kdhooks.criterion import Criterion
from kdhooks.errors import KDHooksError, LayerError
from kdhooks.messages import logger
from kdhooks.torch.transfer.behaviour import DELTA
from kdhooks.torch.transfer.freezing import Freezer
from kdhooks.torch.transfer.starting_point import L2SP, StartingPointCriterion
from kdhooks.torch.transfer.transfer import transfer_weights
from kdhooks.torch.wrappers import find_layer, inside, living
from kdhooks.transfer import FinetuningHook, Transferred, check_patterns, factor_of, frozen_at, settings_in


class Finetuning(FinetuningHook):
    """What `kdhooks.transfer.FinetuningHook` is in PyTorch, with factors of the learning rate and DELTA."""

    def __init__(self, distiller: Any, settings: FinetuneSettings, earlier: Transferred | None, resumes: bool) -> None:
        super().__init__(distiller, settings, earlier, resumes, transfer=transfer_weights, freezer=Freezer)
        self._continues = False
        fresh = self.done.report.transferred if self.done is not None and self._fresh else ()
        self._written = self._versions(fresh)

    def _kind(self) -> str:
        return type(inside(self._distiller.student_model)).__name__

    def _check(self) -> None:
        super()._check()
        check_patterns(self._settings.lr_factors, self._names, "lr_factors", self._kind())
        if self._settings.unfreeze and _ranks() > 1:
            message = "DistributedDataParallel waits for the same gradients in every step, so nothing is set free later"
            advice = "Train in one process, or in two runs."
            raise self._distiller.conf.problem("finetune.unfreeze", message, advice, of_key=True)

    def _regularisers(self) -> tuple[Criterion, ...]:
        settings, conf, taken = self._settings, self._distiller.conf, self._taken()
        made: list[StartingPointCriterion] = []
        if settings.l2_sp is not None:
            made.append(L2SP(settings.l2_sp.weight, settings.l2_sp.new_weight, transferred=taken))
        if settings.delta is not None:
            one = settings.delta
            for index, layer in enumerate(one.layers):
                try:
                    find_layer(self._distiller.student_model, layer, "student")
                except LayerError as error:
                    raise conf.problem(f"finetune.delta.layers[{index}]", error.message, error.advice) from None
            try:
                weights = one.channel_weights
                made.append(DELTA(one.layers, one.weight, one.new_weight, channel_weights=weights, transferred=taken))
            except KDHooksError as error:
                raise conf.problem("finetune.delta", str(error)) from None
        return tuple(made)

    def continues(self) -> None:
        """A saved run goes on from here."""
        self._continues = True

    # ---- events ------------------------------------------------------------------------------------

    def on_train_begin(self) -> None:
        """Freeze what is frozen in the first epoch, and look at the optimizer."""
        super().on_train_begin()
        self._look_at_groups()

    def on_after_compute_loss(self) -> None:
        """Look once whether the student of a run that goes on has its own weights."""
        if self._continues and self._written and self._versions(self._written) == self._written:
            logger.warning(
                "the saved run goes on with the weights of the transfer: call distiller.load_state_dict() before "
                "on_train_begin(), or load the student's state_dict after it"
            )
        self._continues, self._written = False, {}

    def _versions(self, names: Iterable[str]) -> dict[str, int]:
        own = dict(inside(self._distiller.student_model).named_parameters())  # a forward writes buffers
        return {name: own[name]._version for name in names if name in own}

    def _apply(self, epoch: int) -> None:
        self._epoch = epoch
        free = self._freezer.freeze(frozen_at(epoch, self._settings, self._names))
        held = _held() if free else set()
        if held and any(id(parameter) not in held for parameter in free):
            logger.warning(
                "layers were set free in epoch %d that no optimizer holds, so they are not trained: make the optimizer "
                "of all of the student's parameters",
                epoch,
            )

    def _look_at_groups(self) -> None:
        """Factors of the learning rate act in the optimizer's groups; say where the loop's has none."""
        optimizer, factors = self._distiller.optimizer, self._settings.lr_factors
        groups = getattr(optimizer, "param_groups", ())
        rates = {id(one): group["lr"] for group in groups for one in group["params"]}
        named = inside(self._distiller.student_model).named_parameters()
        given = [(rates[id(one)], factor_of(name, factors)) for name, one in named if id(one) in rates]
        ratios = [float(rate) / factor for rate, factor in given if factor > 0]
        if factors and ratios and max(ratios) > 1.001 * min(ratios):
            logger.warning(
                "finetune.lr_factors is not in force: in a loop of your own make the optimizer from "
                "kdhooks.torch.transfer.parameter_groups(student, factors, lr=...)"
            )


def _ranks() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _held() -> set[int]:
    """All parameters that optimizers have."""
    return {
        id(parameter)
        for optimizer in living(Optimizer)
        for group in getattr(optimizer, "param_groups", ())
        for parameter in group["params"]
    }


def finetuning(distiller: Any, earlier: Transferred | None, resumes: bool) -> Finetuning | None:
    """What ``finetune`` and ``pretrained_model`` ask for in a run, or None."""
    settings = settings_in(distiller)
    return None if settings is None else Finetuning(distiller, settings, earlier, resumes)
