"""The callback, without the package whose callback it is: when the trainer does what, and what then happens here.

Rules: the distiller begins when training starts, after optimizers and a checkpoint's states are there, and ends when
training does, also by an exception. Between two steps nothing of ours stands on the ``LightningModule`` but hooks that
only watch. Validation, tests and prediction pass by unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kdhooks.criterion import teachers_by_name
from kdhooks.distillation import Distillation
from kdhooks.errors import UsageError
from kdhooks.integrations.lightning_callback import state as states
from kdhooks.integrations.lightning_callback.batch_arguments import Arguments, BatchArguments
from kdhooks.integrations.lightning_callback.capture import Capture
from kdhooks.integrations.lightning_callback.components import Components
from kdhooks.integrations.lightning_callback.generators import Generators
from kdhooks.integrations.lightning_callback.steps import Steps
from kdhooks.integrations.lightning_callback.student import Named, find_student, name_of, trained_children
from kdhooks.messages import logger


class DistillationEvents:
    """What `kdhooks.integrations.lightning.DistillationCallback` does, see there; the base class is the package's."""

    def __init__(
        self,
        distiller: Distillation,
        *,
        student: Named = None,
        arguments: Arguments | None = None,
        several_forwards: bool = False,
        divided_by: float = 1,
        log: bool = True,
        prefix: str = "kd/",
        prog_bar: bool = False,
        sync_dist: bool = True,
    ) -> None:
        super().__init__()
        _check_arguments(distiller, student, arguments, divided_by)
        self.distiller = distiller
        self._student, self._arguments = student, arguments
        self._several, self._divided_by = several_forwards, divided_by
        self._components = Components(distiller, prefix, prog_bar=prog_bar, sync_dist=sync_dist) if log else None
        self._generators = Generators()
        self._found: Any = None  # the student that was found by us, which another fit may find anew
        self._name = ""
        self._saved: Mapping[str, Any] | None = None  # of a checkpoint, until the distiller has begun
        self._kept: dict[str, Any] = {}  # what a checkpoint gets once the distiller has ended
        self._steps: Steps | None = None
        self._capture: Capture | None = None
        self._moved: list[nn.Module] = []
        self._optimizer: Any = _NO_FIT
        self._stepped = 0
        self._epoch: int | None = None  # none has begun since training started

    # ---- begin and end -----------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """A run of the trainer begins: what an earlier checkpoint held for another run is forgotten."""
        self._saved = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """The generators of a checkpoint, before the first dataloader draws from them."""
        self._generators.begin(trainer, self.distiller)
        if self._saved is not None:
            self._generators.restore(self._saved)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the student, move the teachers, and begin."""
        self._end()
        if self._saved is not None:
            states.check(self._saved)
        student = self._find(pl_module)
        self.distiller.student_model = self._found = student
        self._name = name_of(student, pl_module)
        self._move_teachers(trainer.strategy.root_device)
        try:
            self._begin(trainer, pl_module, student)
        except BaseException:
            self._end()
            raise

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Take everything off."""
        self._end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take everything off; no statistics and curves of a run that failed."""
        self._end(exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Bring the teachers back to where they were, as the trainer does with the module."""
        self._end()
        for teacher in self._moved:
            teacher.to("cpu")
        self._moved = []
        self._generators.end()

    # ---- epochs and steps --------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """An epoch of the trainer's number begins."""
        self._begin_epoch(trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A step begins; schedules count losses, as in a bare loop."""
        if self._epoch is None:  # a run that goes on in the middle of an epoch, or right behind its last batch
            self._begin_epoch(trainer)
        self.distiller.on_step_begin(self.distiller.step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A step has ended, and with it perhaps one of the optimizer."""
        if trainer.global_step != self._stepped:
            self._stepped = trainer.global_step
            self.distiller.on_step_end()
        if self._components is not None:
            self._components.log_step(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """An epoch has ended: the distiller records it, and evaluates where its user has set ``eval_func``."""
        steps = self._at_work()
        if not steps.losses:
            if steps.unused:
                logger.warning(
                    "nothing was distilled in epoch %d: training_step called the student %r, and no loss that depends "
                    "on its output went through self.manual_backward()",
                    trainer.current_epoch,
                    self._name,
                )
            return
        self.distiller.on_epoch_end()
        steps.new_epoch()
        if self._components is not None:
            self._components.log_epoch(pl_module)

    # ---- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the trainer puts into its checkpoint: plain data and tensors."""
        return self._kept if self._steps is None else self._state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What it found there, used when training starts."""
        self._saved = state_dict
        if self._generators.begun:  # strategies that restore after the fit has started
            self._generators.restore(state_dict)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Gather the generators of all processes, which all save together."""
        mine = checkpoint.get("callbacks", {}).get(self.state_key)  # type: ignore[attr-defined]  # of the package's base
        if mine:
            mine["generators"] = self._generators.gather(mine["generators"][0])

    # ---- inside ------------------------------------------------------------------------------------

    def _begin_epoch(self, trainer: Any) -> None:
        """Begin an epoch that is not under way; one that a checkpoint was saved at the end of is closed first."""
        steps, first = self._at_work(), self._epoch is None
        self._epoch = trainer.current_epoch
        if first:
            self._generators.on_epoch(trainer)
        if steps.losses and self.distiller.epoch == trainer.current_epoch:
            return  # resumed in the middle of it
        if steps.losses:
            self.distiller.on_epoch_end()
        steps.new_epoch()
        self.distiller.on_epoch_begin(trainer.current_epoch)

    def _find(self, pl_module: Any) -> nn.Module:
        preset = self.distiller.student_model
        preset = None if preset is None or preset is self._found else preset
        teachers = [
            one for one in teachers_by_name(self.distiller.teacher_model).values() if isinstance(one, nn.Module)
        ]
        return find_student(pl_module, self._student, preset, teachers)

    def _move_teachers(self, device: torch.device) -> None:
        for teacher in teachers_by_name(self.distiller.teacher_model).values():
            if device.type != "cpu" and _devices(teacher) == {torch.device("cpu")}:
                teacher.to(device)
                self._moved.append(teacher)

    def _begin(self, trainer: Any, pl_module: Any, student: nn.Module) -> None:
        self._optimizer = self.distiller.optimizer
        saved, self._saved = self._saved, None
        if saved is not None:
            self.distiller.load_state_dict({**saved["distiller"], "rng": self.distiller.backend.rng_state()})
        trained = _trained(student)
        self.distiller.on_train_begin(optimizer=_optimizer_of(trainer, student))
        if _trained(student) < trained and _waits_for_all(trainer.strategy.model):
            raise UsageError(
                f"finetune.freeze takes parameters of the student {self._name!r} out of training, and "
                "DistributedDataParallel waits for the gradients of all that it was made with: use "
                "strategy='ddp_find_unused_parameters_true'"
            )
        if saved is not None:
            states.check_fits(saved, self._names())
        guessed = self._student is None and len(trained_children(pl_module)) > 1 and student is not pl_module
        others = {name: one for name, one in trained_children(pl_module).items() if one is not student}
        self._capture = Capture(
            pl_module, student, self._name, several=self._several, others=others if guessed else None
        )
        arguments = BatchArguments(self.distiller.conf, self._arguments)
        self._steps = Steps(trainer, pl_module, self.distiller, self._capture, arguments, self._divided_by)
        self._steps.losses = 0 if saved is None else saved["steps"]
        self._stepped, self._epoch = trainer.global_step, None
        shown = f"{type(student).__name__} {self._name!r}" if self._name else "module itself"
        logger.info("distilling into the %s of %s", shown, type(pl_module).__name__)

    def _end(self, error: BaseException | None = None) -> None:
        """Detach all; a second call does nothing."""
        if self._steps is not None:
            self._kept = self._state()
            self._steps.detach()
            self._steps = None
        if self._capture is not None:
            self._capture.detach()
            self._capture = None
        self.distiller.__exit__(None if error is None else type(error), error, None)
        if self._optimizer is not _NO_FIT:
            self.distiller.optimizer, self._optimizer = self._optimizer, _NO_FIT

    def _at_work(self) -> Steps:
        if self._steps is None:
            raise UsageError("the distiller was ended in the middle of the trainer's fit: leave that to the callback")
        return self._steps

    def _names(self) -> list[str]:
        return states.components_of(self.distiller.summed_criteria())

    def _state(self) -> dict[str, Any]:
        return states.saved(self.distiller.state_dict(), self._names(), self._name, self._at_work().losses)


_NO_FIT: Any = object()


def _check_arguments(distiller: Any, student: Any, arguments: Any, divided_by: Any) -> None:
    if not isinstance(distiller, Distillation):
        raise UsageError(f"DistillationCallback takes a kdhooks.Distillation, not a {type(distiller).__name__}")
    if (
        student is not None
        and not isinstance(student, str)
        and (isinstance(student, nn.Module) or not callable(student))
    ):
        raise UsageError(
            "student is the name of a module in the LightningModule, as in student='backbone', or a function from the "
            f"LightningModule to it, not a {type(student).__name__}; a module itself is set as distiller.student_model"
        )
    if arguments is not None and not callable(arguments):
        raise UsageError(f"arguments is a function of a batch, not a {type(arguments).__name__}")
    if isinstance(divided_by, bool) or not isinstance(divided_by, (int, float)) or not divided_by > 0:
        raise UsageError(f"divided_by must be a number above 0, not {divided_by!r}")


def _devices(model: nn.Module) -> set[torch.device]:
    return {tensor.device for tensor in (*model.parameters(), *model.buffers())}


def _trained(model: nn.Module) -> int:
    return sum(parameter.requires_grad for parameter in model.parameters())


def _waits_for_all(model: Any) -> bool:
    """Whether replicas wait for a gradient of every parameter that was trained when they were made."""
    return isinstance(model, DistributedDataParallel) and not (model.find_unused_parameters or model.static_graph)


def _optimizer_of(trainer: Any, student: nn.Module) -> Any:
    """The optimizer that trains most of the student; None where there is none."""
    theirs = {id(parameter) for parameter in student.parameters()}
    counts = [
        sum(id(parameter) in theirs for group in optimizer.param_groups for parameter in group["params"])
        for optimizer in trainer.optimizers
    ]
    most = max(counts, default=0)
    return trainer.optimizers[counts.index(most)] if most else None
