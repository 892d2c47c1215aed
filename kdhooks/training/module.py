"""The LightningModule: Lightning's events become those of `kdhooks.Distillation`.

The student is its only submodule, so that checkpoints, optimizer and DDP see nothing else. Numbers are read from the
device at the steps that are logged, and at no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from kdhooks.criterion import teachers_by_name
from kdhooks.errors import UsageError
from kdhooks.messages import logger
from kdhooks.torch.ranks import Ranks
from kdhooks.training.arguments import Arguments
from kdhooks.training.batches import Calls
from kdhooks.training.checkpoints import FORMAT, VERSION, Keeper
from kdhooks.training.loaders import for_lightning
from kdhooks.training.logs import log_numbers
from kdhooks.training.loss import FinalLoss
from kdhooks.training.optimizing import build_optimizer, build_scheduler
from kdhooks.training.validation import ValidatedDistillation

TOTAL = "train_final_loss"


class TrainingModule(LightningModule):
    """What Lightning trains.

    Args:
        arguments: of the run.
        distiller: with student and teacher.
        calls: how batches reach the models.
        final_loss: the criterion that the student's own losses join.
        fixed: the arguments that a checkpoint is held against.
        keeper: writes the checkpoints.

    Attributes:
        student_model: the user's own.
        distiller: as given.
        keeper: as given; its folder becomes rank 0's.
    """

    def __init__(
        self,
        arguments: Arguments,
        distiller: ValidatedDistillation,
        calls: Calls,
        final_loss: FinalLoss,
        fixed: Mapping[str, Any],
        keeper: Keeper,
    ) -> None:
        super().__init__()
        self.student_model: nn.Module = arguments.student_model
        self.arguments, self.distiller = arguments, distiller
        self.keeper = keeper
        self._calls, self._final_loss, self._fixed = calls, final_loss, dict(fixed)
        self._anchor: Tensor | None = None
        self._norm: Tensor | None = None
        self._logged = -1
        self._described = False
        self._ranks = Ranks()
        self._saved: Mapping[str, Any] | None = None

    # ---- the beginning -----------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The optimizer over the student's parameters, and its schedule by epochs."""
        given = self.arguments
        optimizer = build_optimizer(given.optimize_method, self.student_model.parameters(), given.learning_rate)
        scheduler = build_scheduler(
            given.scheduler_method, optimizer, epochs=given.max_epoch, warm_up=given.num_lr_warm_up_epoch
        )
        return optimizer if scheduler is None else ([optimizer], [scheduler])

    def train_dataloader(self) -> Any:
        """The user's loader; of several processes each has its part of the rows."""
        return for_lightning(self.arguments.train_data_loader, self._ranks.rank, self._ranks.size)

    def on_fit_start(self) -> None:
        """The student learns, whatever mode it was in; generators go on where the saved run's stood."""
        self.student_model.train()
        if dist.is_available() and dist.is_initialized():
            self._ranks = Ranks(dist.get_rank(), dist.get_world_size())
        self.keeper.folder = Path(self.trainer.strategy.broadcast(str(self.keeper.folder)))
        if self._saved is not None:
            state = self._own_state(self._saved)
            self.distiller.load_state_dict(state)
            self.distiller.backend.set_rng_state(state["rng"])  # before Lightning draws the order of the data

    def on_train_start(self) -> None:
        """Attach the hooks: models are on their devices, the optimizer is there, a checkpoint is loaded."""
        for teacher in teachers_by_name(self.distiller.teacher_model).values():
            teacher.to(self.device)
        self._anchor = torch.zeros((), device=self.device, requires_grad=True)
        generators = self.distiller.backend.rng_state()
        self.distiller.on_train_begin(optimizer=self.optimizers(use_pl_optimizer=False))
        self.distiller.backend.set_rng_state(generators)
        self.distiller.leave_out_own_loss()

    def on_train_epoch_start(self) -> None:
        """Tell the hooks which epoch begins."""
        self.distiller.on_epoch_begin(self.current_epoch)

    # ---- a step ------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Student, losses, and what the hooks add to them."""
        if not self._described:
            self._described = True
            logger.info("%s", self._calls.describe(batch))
        given = self._calls.split(batch)
        args, kwargs = given.call
        output = self.student_model(*args, **kwargs)
        with self._final_loss.of(output, given.labels):
            total: Tensor = self.distiller.on_after_compute_loss(
                given.student_input,
                output,
                self._anchor,
                target=given.target,
                teacher_input=given.teacher_input,
                **given.others,
            )
        if self.arguments.progress_bar:
            self.log(TOTAL, total.detach(), prog_bar=True, logger=False)
        return total

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Keep the learning rate of this step, and the gradient's norm where the step is logged."""
        self.distiller.rate = float(optimizer.param_groups[0]["lr"])
        order = self.arguments.norm_order
        if order is not None and self._is_logged(self.global_step):
            self._norm = gradient_norm(self.student_model, order)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimizer's step, and after it that of the hooks."""
        super().optimizer_step(*args, **kwargs)
        self.distiller.on_step_end()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the numbers of every so many optimizer steps."""
        step = self.global_step - 1
        if step == self._logged or not self._is_logged(step):
            return
        self._logged = step
        numbers = dict(self.distiller.losses)
        numbers[TOTAL] = numbers.pop("total")
        if self.distiller.rate is not None:
            numbers["learning_rate"] = self.distiller.rate
        if self._norm is not None:
            numbers[f"grad_{self.arguments.norm_order}_norm_total"] = float(self._norm)
            self._norm = None
        log_numbers(self.loggers, numbers, step)

    def _is_logged(self, step: int) -> bool:
        return step >= 0 and step % self.arguments.log_every_n_steps == 0

    # ---- an epoch ----------------------------------------------------------------------------------

    def on_train_epoch_end(self) -> None:
        """Close the epoch, validate, and log the results by the loaders' names."""
        self._ranks.share_buffers(self.student_model)
        self.distiller.on_epoch_end()
        record = self.distiller.history[-1]
        log_numbers(self.loggers, {**record["metrics"], "epoch": record["epoch"]}, max(0, self.global_step - 1))

    def on_fit_end(self) -> None:
        """Detach the hooks, put the best weights back and compare, while the models are on their devices."""
        self.distiller.on_train_end()

    def raise_failure(self, saved: Path) -> None:
        """Raise what the validation failed with, now that the epoch is saved."""
        validation = self.distiller.validation
        if validation is None:
            return
        failure, validation.failure = validation.failure, None
        if self._ranks.any(failure is not None):
            logger.error(
                "the validation failed; the epoch is saved: resume_from_checkpoint=%r goes on from it", str(saved)
            )
            raise failure if failure is not None else UsageError("the validation failed on another rank")

    # ---- checkpoints -------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the hooks' state, with the generators of every rank."""
        state = self.distiller.state_dict()
        ranks = self._ranks.gather({"rng": state["rng"]})
        checkpoint["kdhooks"] = {
            "format": FORMAT,
            "version": VERSION,
            "arguments": self._fixed,
            "seed": self.arguments.seed,
            "distiller": state,
            "generators": [one["rng"] for one in ranks],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the hooks' state until they begin."""
        self._saved = checkpoint["kdhooks"]

    def _own_state(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        generators = saved["generators"]
        if len(generators) != self._ranks.size:
            logger.warning(
                "the checkpoint was written by %d processes, and this run has %d: it goes on, not as that one would",
                len(generators),
                self._ranks.size,
            )
            return dict(saved["distiller"])
        return {**saved["distiller"], "rng": generators[self._ranks.rank]}


def gradient_norm(model: nn.Module, order: float) -> Tensor:
    """The norm of a model's gradient, all parameters taken as one vector; stays on the device.

    Args:
        model: after a backward.
        order: p, or infinity for the largest component.
    """
    gradients = [one.grad.detach() for one in model.parameters() if one.grad is not None]
    if not gradients:
        return torch.zeros(())
    device = gradients[0].device
    norms = [torch.linalg.vector_norm(one, order, dtype=_wide(one)).to(device) for one in gradients]
    whole: Tensor = torch.linalg.vector_norm(torch.stack(norms), order)
    return whole


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
