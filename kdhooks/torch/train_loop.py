"""The built-in loop of `fit()`: what a careful person writes around the hooks, from the configuration.

Rules: those of `kdhooks.loop.train_loop`. It computes nothing that a user's loop would not, so that with every
distillation weight 0 it is the plain loop, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.loop.batches import split_batch
from kdhooks.loop.stop_signals import StopSignals
from kdhooks.loop.train_loop import BuiltInLoop
from kdhooks.torch.backend import unwrap
from kdhooks.torch.checkpoint import CheckpointFile, check_optimizer, check_ranks, check_student, optimizer_state
from kdhooks.torch.domains.both import first_rows, joined, rows_of
from kdhooks.torch.memory_format import follow_strides, input_layout
from kdhooks.torch.outputs import as_call
from kdhooks.torch.placement import autocast, batch_mover, gradient_scaler, needs_closure, non_finite_parameter
from kdhooks.torch.ranks import Ranks
from kdhooks.torch.sharding import (
    is_sharded,
    load_whole_state,
    parts_of_optimizer_state,
    whole_optimizer_state,
    whole_state,
)
from kdhooks.torch.train_setup import Parts, prepare


def train(distiller: Any) -> None:
    """Train the student of a `Distillation` as ``distillation.train`` says.

    Args:
        distiller: the `Distillation`; its ``optimizer`` and ``train_dataloader`` are used where they are set, and
            set where they come from the configuration.

    Raises:
        UsageError, ConfigError, DataError, ModelError: something is missing or doesn't fit.
        NonFiniteLossError: a loss became NaN or infinite.
        CheckpointError: there is no such checkpoint to continue, or it belongs to another run.
        KeyboardInterrupt, SystemExit: Ctrl-C and SIGTERM, after a checkpoint was written.
    """
    ranks = Ranks.join(*wanted_ranks(distiller))
    try:
        ranks.compare(distiller)
        signals = StopSignals()
        with ExitStack() as undo:
            loop = TrainLoop(distiller, prepare(distiller, ranks, undo), ranks, signals)
            undo.callback(loop.close)
            with signals:
                loop.run()
    finally:
        ranks.leave()


class TrainLoop(BuiltInLoop):
    """The loop and where it stands; see `kdhooks.loop.train_loop.BuiltInLoop`."""

    def __init__(self, distiller: Any, parts: Parts, ranks: Ranks, signals: StopSignals) -> None:
        student: nn.Module = unwrap(distiller.student_model)
        file = CheckpointFile(parts.checkpoint)
        super().__init__(distiller, parts, ranks, signals, student=student, file=file)
        self._precision = parts.speed.precision
        self._scaler = gradient_scaler(self._precision, parts.device, parts.optimizer)
        self._sharded = is_sharded(student)
        self._move = batch_mover(parts.device)
        self._lay = input_layout(parts.speed.channels_last)
        self._ipex = _under_ipex(self.student, parts) if parts.speed.ipex else None
        if parts.resume is not None:
            self._resume(CheckpointFile(parts.resume))
        self._handle = parts.optimizer.register_step_post_hook(self._note_step)

    def close(self) -> None:
        """Give back what the loop held."""
        self._plain()
        self._handle.remove()
        super().close()

    def _train_mode(self) -> None:
        self.distiller.student_model.train()

    def _optimizer_step(self, group: list[Any]) -> None:
        optimizer, scaler = self.parts.optimizer, self._scaler
        self._stepped = False
        self.parts.rate.apply()
        if self._ipex is not None:
            self._ipex.enter()
        if needs_closure(optimizer):
            optimizer.step(lambda: float(self._clipped(self._backward(group))))
        else:
            self._backward(group)
            if self.settings.gradient_clipping is not None:
                scaler.unscale_(optimizer)
                self._clip()
            scaler.step(optimizer)
            scaler.update()
        torch.clear_autocast_cache()  # an autocast around fit() would go on with the weights before this step
        self.distiller.on_step_end()

    def _backward(self, group: list[Any]) -> Tensor:
        """The gradient of the mean loss over the batches of a group, and that loss."""
        self.parts.optimizer.zero_grad(set_to_none=True)
        losses = []
        for index, batch in enumerate(group):
            last = index == len(group) - 1
            with self._ranks.synchronised(last):
                loss = self._loss(batch, self.step + index)
                loss = loss if len(group) == 1 else loss / len(group)
                with autocast("fp32" if self._precision else None, self.parts.device):  # whatever is around
                    self._scaler.scale(loss).backward()
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _clipped(self, loss: Tensor) -> Tensor:
        if self.settings.gradient_clipping is not None:
            self._clip()
        return loss

    def _clip(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.settings.gradient_clipping or 0.0)

    def _loss(self, batch: Any, step: int) -> Tensor:
        """The total loss of a batch, as the hooks return it."""
        self.distiller.on_step_begin(step)
        parts = split_batch(batch, inputs=self.parts.inputs, input_columns=self.parts.input_columns)
        given, target, mask = self._move(parts.input), self._move(parts.target), self._move(parts.mask)
        other, labels = (None, None) if self.parts.target is None else map(self._move, self.parts.target.next())
        other = self._lay(other)
        with autocast(self._precision, self.parts.device):
            output = self._output(self._lay(given), other)  # a teacher has a layout of its own
            loss = self.parts.student_loss(output, target, mask)
            total: Tensor = self.distiller.on_after_compute_loss(
                given,
                output,
                loss,
                self._move(parts.teacher_output),
                target=target,
                mask=mask,
                sample_ids=parts.sample_ids,
                teacher_features=self._move(parts.teacher_features),
                target_input=other,
                target_labels=labels,
            )
        return total

    def _output(self, given: Any, other: Any) -> Any:
        """The student's output for the source; in a joint forward the target's rows have gone through with it."""
        if not self.parts.joint:
            args, kwargs = as_call(given)
            return self.parts.forward(*args, **kwargs)
        args, kwargs = as_call(joined(given, other))
        return first_rows(self.parts.forward(*args, **kwargs), rows_of(given, "input"), rows_of(other, "target_input"))

    def _more_states(self) -> dict[str, Any]:
        return {} if self.parts.target is None else {"target": self.parts.target.state()}

    def _restore_more(self, states: Mapping[str, Any]) -> None:
        if self.parts.target is not None and "target" in states:
            self.parts.target.restore(states["target"])

    def _note_step(self, *_: Any) -> None:
        self._stepped = True  # GradScaler leaves out steps with infinite gradients

    def _end_epoch(self) -> None:
        self._plain()
        super()._end_epoch()

    def _plain(self) -> None:
        """Student and optimizer as everybody else knows them; the next step puts them under the extension again."""
        if self._ipex is not None:
            self._ipex.leave()

    # ---- checkpoints -------------------------------------------------------------------------------

    def _save(self) -> None:
        self._plain()
        super()._save()

    def _non_finite_parameter(self) -> str | None:
        return non_finite_parameter(self.student)

    def _gathered(self, states: Any) -> dict[str, Any] | None:
        return self._content(states) if self._sharded else super()._gathered(states)

    def _content(self, states: Any) -> dict[str, Any]:
        """What a checkpoint holds; of a sharded student every rank puts it together, and rank 0 keeps it."""
        student, optimizer = self.student.state_dict, optimizer_state(self.parts.optimizer)
        keeps = self._ranks.rank == 0
        if self._sharded:
            optimizer["state"] = whole_optimizer_state(optimizer["state"], keep=keeps)
        return {
            "student": whole_state(self.student, keep=keeps) if self._sharded else student(),
            "optimizer": optimizer,
            "rate": self.parts.rate.state_dict(),
            "scaler": self._scaler.state_dict(),
            "speed": self.parts.speed.to_dict(),
            "distiller": self.distiller.state_dict(),
            "position": {"epoch": self.epoch, "batch": self.batch, "step": self.step},
            "ranks": list(states),
        }

    def _resume(self, file: CheckpointFile) -> None:
        """Continue a saved run; nothing is changed before all of it is known to fit."""
        content, optimizer = file.read(), self.parts.optimizer
        check_student(self.student, content["student"], file.path)
        check_optimizer(optimizer, content["optimizer"], file.path)
        check_ranks(self._ranks.size, content, file.path)
        self.parts.rate.load_state_dict(content["rate"])
        self.distiller.load_state_dict(content["distiller"])
        load_whole_state(self.student, content["student"])
        state = content["optimizer"]["state"]
        optimizer.load_state_dict(parts_of_optimizer_state(state, optimizer) if self._sharded else state)
        if not self._sharded:
            follow_strides(self.student.parameters(), optimizer)
        if content["scaler"]:
            self._scaler.load_state_dict(content["scaler"])
        self._continue(content, file.path)


def wanted_ranks(distiller: Any) -> tuple[bool, str]:
    """Whether other processes shall take part, and the strategy."""
    train = distiller.conf.settings.distillation.train
    shared = train.dataloader is not None and train.dataloader.distributed
    return shared or train.strategy != "auto" or is_sharded(unwrap(distiller.student_model)), train.strategy


def _under_ipex(student: nn.Module, parts: Parts) -> Any:
    from kdhooks.torch.ipex_student import IpexTraining  # loaded by those who ask for it

    return IpexTraining(student, parts.optimizer, bf16=parts.speed.precision == "bf16")
