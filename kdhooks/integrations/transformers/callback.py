"""`DistillationCallback`, what a `Trainer` is given."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from kdhooks.criterion import teachers_by_name
from kdhooks.distillation import Distillation
from kdhooks.errors import UsageError
from kdhooks.integrations.transformers.attachment import Replaced, guard, guarded_by, trainer_of
from kdhooks.integrations.transformers.logs import ComponentLogs
from kdhooks.integrations.transformers.saved import NAME, StateFile, folder_of, read_state
from kdhooks.integrations.transformers.training import TrainingLoss
from kdhooks.torch.wrappers import inside


class DistillationCallback(TrainerCallback):
    """Distillation in a `transformers.Trainer`; its construction changes by ``callbacks=[callback]`` alone.

    While the `Trainer` trains, its `compute_loss` is replaced on this one object by a function that calls it and adds
    what the student should learn from the teacher. So whatever makes the loss is respected, bit for bit: the model's
    own loss, label smoothing, a `compute_loss_func`, a subclass's `compute_loss`. The argument `compute_loss_func`
    was the other way: it would stand in the place of all of these, does not see the inputs, and changes what the
    `Trainer` counts and divides by. The student's inputs and outputs are seen in its own forward, the only one.

    Positions with the label -100 are left out of terms on logits; of a causal model the labels are shifted first.
    Terms on hidden features leave out padding by ``attention_mask``, where a criterion names no `feature_mask` of its
    own and the model is no encoder-decoder, whose two sequences a criterion has to name. Where the `Trainer` divides
    by ``num_items_in_batch`` the terms on logits are divided by it as well, and those on features by the positions of
    all micro-batches, so that accumulation over micro-batches gives the gradient of the one big batch.

    The components stand in the logs as ``kd_CE``, ``kd_KL``, ...; the `Trainer`'s ``loss`` is their weighted sum.
    Schedules count the optimizer's steps (``global_step``). A checkpoint's folder gets a file ``kdhooks.pt`` of plain
    data and tensors, and `resume_from_checkpoint` reads it. Evaluations inside of the training are the student's alone.

    Args:
        distiller: with its teacher; its student is the `Trainer`'s model, and need not be set.
        prefix: stands before the components in the logs.
        teacher_inputs: what the teachers get for a batch as the `Trainer` has it, where that is not what the student
            got; columns that only this reads need ``remove_unused_columns=False`` and a model that ignores them.

    Attributes:
        distiller: the one that was given.
        trainer: whose callback it is, once it is known.

    Raises:
        UsageError: as training begins: the trainer is not found, another student is set, or `nn.DataParallel` is used.
        CheckpointError: as training goes on from a checkpoint: a state that is damaged, newer, or of another
            configuration.

    Example:
        >>> import tempfile, torch
        >>> from transformers import Trainer, TrainingArguments
        >>> class Model(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.head = torch.nn.Linear(4, 3)
        ...     def forward(self, x, labels=None):
        ...         logits = self.head(x)
        ...         loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        ...         return {"loss": loss, "logits": logits}
        >>> rows = [{"x": torch.randn(4), "labels": number % 3} for number in range(8)]
        >>> callback = DistillationCallback(Distillation(teacher_model=Model()))
        >>> arguments = TrainingArguments(tempfile.mkdtemp(), max_steps=2, use_cpu=True, report_to="none",
        ...                               logging_steps=1, disable_tqdm=True, save_strategy="no",
        ...                               dataloader_pin_memory=False)
        >>> trainer = Trainer(Model(), arguments, train_dataset=rows, callbacks=[callback])
        >>> _ = trainer.train()  # doctest: +ELLIPSIS
        {...}
        >>> sorted(name for name in trainer.state.log_history[0] if name.startswith("kd_"))
        ['kd_CE', 'kd_KL']
    """

    def __init__(
        self,
        distiller: Distillation,
        *,
        prefix: str = "kd_",
        teacher_inputs: Callable[[Mapping[str, Any]], Any] | None = None,
    ) -> None:
        if not isinstance(distiller, Distillation):
            raise UsageError(
                f"DistillationCallback takes a kdhooks.Distillation, not {type(distiller).__name__}: "
                "DistillationCallback(Distillation('kd.yaml', teacher_model=teacher))"
            )
        if teacher_inputs is not None and not callable(teacher_inputs):
            raise UsageError(f"teacher_inputs must be a function of a batch, not {type(teacher_inputs).__name__}")
        self.distiller = distiller
        self.trainer: Any = None
        self._prefix, self._given_inputs = prefix, teacher_inputs
        self._replaced = Replaced()
        self._checkpoint: Path | None = None
        self._student: Any = None
        self._optimizer: Any = None
        self._attached = False
        self._epoch = 0
        self._epoch_step: int | None = None  # where the epoch began
        self._loss: TrainingLoss | None = None

    def attach(self, trainer: Any) -> None:
        """Say whose callback this is, where it is not found by itself; once, before `trainer.train()`.

        Needed where the callback is added after the construction and a training that raises has to be undone at once,
        or where the program froze its objects (`gc.freeze`).
        """
        self.trainer = trainer
        guard(trainer, self)

    # ---- the guard of `train` ----------------------------------------------------------------------

    def training_begins(self, trainer: Any, checkpoint: Path | None) -> None:
        """`trainer.train` was called, to go on from a checkpoint or anew."""
        self.trainer, self._checkpoint = trainer, checkpoint

    def training_left(self) -> None:
        """`trainer.train` was left: detach what a training that raised has left; a second call does nothing."""
        self._checkpoint = None
        if self._attached:
            self._detach(sys.exc_info())

    # ---- events of the Trainer ---------------------------------------------------------------------

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer is there: find it."""
        trainer = trainer_of(self)
        if trainer is not None:
            self.attach(trainer)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Begin the distillation, or go on with that of a checkpoint."""
        if self._attached:  # another try, with smaller batches
            self._detach((None, None, None))
        late = self.trainer is None or not self.trainer.is_in_train
        trainer = self.trainer = trainer_of(self) if late else self.trainer
        if trainer is None:
            raise UsageError("the Trainer of this callback was not found: call callback.attach(trainer) before train()")
        if args.n_gpu > 1:
            raise UsageError(
                f"the Trainer would copy the student to {args.n_gpu} GPUs with nn.DataParallel, which distillation "
                "can't follow: start one process a GPU with torchrun, or set CUDA_VISIBLE_DEVICES to one of them"
            )
        self._take_student(model)
        self._place_teachers(args.device)
        self._optimizer, self._attached = self.distiller.optimizer, True
        try:
            self._begin(state, optimizer)
            self._replace(model, state.global_step, late)
        except BaseException:
            self._detach(sys.exc_info())
            raise

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An epoch begins, or goes on."""
        if self._epoch_step is None:
            self._epoch_step = state.global_step
        self.distiller.on_epoch_begin(self._epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer has stepped."""
        self.distiller.on_step_end()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An epoch has ended."""
        self._end_epoch(state.global_step, adds_up=self._adds_up)
        self._epoch += 1

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint was written: put our state beside it."""
        if not self._attached or args.save_only_model:
            return
        content = {
            **{"distiller": self.distiller.state_dict(), "step": state.global_step},
            **{"epoch_step": self._epoch_step, "adds_up": self._adds_up},
        }
        folder = folder_of(self.trainer, state.global_step)
        if args.should_save and folder.is_dir():  # a rotation may have taken it already
            StateFile(folder / NAME).write(content)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The training has ended: detach everything."""
        if self._attached:
            self._detach((None, None, None))

    # ---- begin and end -----------------------------------------------------------------------------

    def _take_student(self, model: nn.Module) -> None:
        distiller = self.distiller
        known = distiller.student_model
        ours = known is None or known is self._student or inside(known) is inside(model)
        if not ours and self.trainer.model_init is None:
            raise UsageError(
                f"the Trainer trains another model than distiller.student_model, a {type(inside(known)).__name__}: "
                "leave student_model out, or give the Trainer this very model"
            )
        self._student = distiller.student_model = model

    def _place_teachers(self, device: torch.device) -> None:
        """Teachers that stand on the CPU go where the student trains; those that their user placed stay."""
        for teacher in teachers_by_name(self.distiller.teacher_model).values():
            if hasattr(teacher, "hf_device_map") or device.type == "cpu":
                continue
            if all(one.device.type == "cpu" for one in (*teacher.parameters(), *teacher.buffers())):
                teacher.to(device)

    def _begin(self, state: Any, optimizer: Any) -> None:
        distiller, step = self.distiller, state.global_step
        self._epoch, self._epoch_step, self._loss = int(state.epoch or 0), None, None
        folder = self._checkpoint
        if folder is None and step > 0:
            folder = folder_of(self.trainer, step)
        saved = read_state(folder, step) if folder is not None and step > 0 else None
        if saved is None:
            distiller.on_train_begin(optimizer=optimizer)
            return
        generators = distiller.backend.rng_state()  # the Trainer restores its own, of each rank
        own = saved["distiller"]
        distiller.load_state_dict(own)
        try:
            distiller.on_train_begin(optimizer=optimizer)
        finally:
            distiller.backend.set_rng_state(generators)
        self._epoch_step = saved["epoch_step"]
        if own["epoch"] < self._epoch and own["steps_in_epoch"]:  # saved by the epoch's last step, before its end
            self._end_epoch(step, adds_up=saved["adds_up"])

    def _replace(self, model: nn.Module, step: int, late: bool) -> None:
        """Replace what has to be, for the time of this training."""
        loss = self._loss = TrainingLoss(
            self.trainer,
            self.distiller,
            model,
            self._given_inputs,
            ComponentLogs(self.trainer.accelerator, self._prefix, step),
        )
        for name, make in loss.replacing.items():
            self._replaced.put(self.trainer, name, make)
        if late:  # `train` is running already
            self._replaced.put(self.trainer, "_run_epoch", guarded_by(self))

    @property
    def _adds_up(self) -> bool:
        return self._loss is not None and self._loss.adds_up

    def _end_epoch(self, step: int, *, adds_up: bool) -> None:
        began, self._epoch_step = self._epoch_step, None
        self.distiller.on_epoch_end(batches=step - began if adds_up and began is not None else None)

    def _detach(self, error: tuple[Any, Any, Any]) -> None:
        self._attached = False
        self._replaced.undo()
        try:
            self.distiller.__exit__(*error)
        finally:
            self.distiller.optimizer = self._optimizer
            self._optimizer = None
