"""Distillation in a script that uses Hugging Face Accelerate: one object, and the loop stays as it is.

`Distilled` looks at the prepared student's forward and joins the teacher's terms to the loss that the script gives to
``accelerator.backward``. Rules: what the script sees of its accelerator is Accelerate's own but for that one call, and
after `Distilled.end` wholly; a teacher is moved and never prepared, so it is in no checkpoint and no gradient bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdhooks.config import DistillationConf
from kdhooks.criterion import teachers_by_name
from kdhooks.distillation import Distillation
from kdhooks.errors import UsageError
from kdhooks.integrations.accelerated import (
    load_from,
    no_second,
    optimizer_of,
    place_teachers,
    prepared_student,
    save_to,
)
from kdhooks.integrations.forwards import Begins, Ends, Forward, is_causal, target_of
from kdhooks.integrations.saved import checked, written
from kdhooks.messages import logger

if TYPE_CHECKING:
    from accelerate import Accelerator

KIND = "kdhooks with Accelerate"


class Distilled:
    """Adds distillation to a script with an `Accelerator`: made after ``accelerator.prepare``, at work from then on.

    The script's loop does not change: the loss that it hands to ``accelerator.backward`` is its own, and the terms of
    the criteria are added there, before it is divided for accumulation. ``save_state`` and ``load_state`` carry our
    state, ``accelerator.log`` gets the components, and ``accelerator.end_training``, `end` or the end of a ``with``
    block takes everything off again.

    Args:
        accelerator: the script's own.
        distiller: a `Distillation`, or what makes one: a path of a YAML file, a dict, a `DistillationConf`, or None for
            the defaults.
        student_model: what was prepared, or what ``prepare`` returned; None takes the distiller's, or else the one
            model that is prepared.
        teacher_model: the teacher or teachers, not prepared; None takes the distiller's.
        automatic: whether the terms join the loss in ``accelerator.backward``. With False the script calls
            `on_after_compute_loss` itself, as in any loop; it may do so with True as well: nothing is added twice.
        log_every: after how many optimizer steps ``accelerator.log`` gets the components; 0 is never. Other steps read
            nothing, so they don't wait for the device. The values are those of the main process's last batch.
        log_prefix: stands before their names.
        target: the name of the labels among the student's keyword arguments, which tell padding (-100) from what
            counts; None takes none.
        shift_target: whether the label of a token stands one place behind it; None asks a Hugging Face model.

    Attributes:
        distiller: the `Distillation` at work.
        steps: optimizer steps so far.

    Raises:
        UsageError: the student is not prepared, or the teacher is, or there is no student or another `Distilled`.

    Example:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> from kdhooks.integrations.accelerate import Distilled
        >>> accelerator = Accelerator(cpu=True)
        >>> student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        >>> student, optimizer = accelerator.prepare(student, optimizer)
        >>> with Distilled(accelerator, teacher_model=teacher) as distilled:
        ...     x, y = torch.randn(8, 4), torch.randint(3, (8,))
        ...     accelerator.backward(torch.nn.functional.cross_entropy(student(x), y))
        >>> sorted(distilled.losses)
        ['CE', 'KL', 'total']
    """

    def __init__(
        self,
        accelerator: Accelerator,
        distiller: Distillation | DistillationConf | Mapping[str, Any] | str | Path | None = None,
        *,
        student_model: nn.Module | None = None,
        teacher_model: Any = None,
        automatic: bool = True,
        log_every: int = 50,
        log_prefix: str = "distillation/",
        target: str | None = "labels",
        shift_target: bool | None = None,
    ) -> None:
        if log_every < 0 or int(log_every) != log_every:
            raise UsageError(f"log_every is a number of steps, 0 or more, and not {log_every!r}")
        self.distiller = distiller if isinstance(distiller, Distillation) else Distillation(distiller)
        self._accelerator: Any = accelerator
        self._automatic, self._every, self._prefix = automatic, log_every, log_prefix
        if teacher_model is not None:
            self.distiller.teacher_model = teacher_model
        wanted = student_model if student_model is not None else self.distiller.student_model
        self._student = prepared_student(accelerator, wanted)
        self._key, self._shifted = target, is_causal(self._student) if shift_target is None else shift_target
        self.steps = 0
        self._forwards: list[Forward] = []
        self._stepped = self._epoch_over = False
        self._on = False
        self._handles: list[Any] = []
        self._begin(wanted)

    def _begin(self, wanted: nn.Module | None) -> None:
        no_second(self._accelerator)
        place_teachers(self._accelerator, teachers_by_name(self.distiller.teacher_model), self._student)
        if self.distiller.student_model is None:
            self.distiller.student_model = self._accelerator.unwrap_model(self._student) if wanted is None else wanted
        if self.distiller.optimizer is None:
            self.distiller.optimizer = optimizer_of(self._accelerator, self._student)
        self.distiller.__enter__()
        self._on = True
        hooks: Any = [self._student.register_forward_pre_hook(Begins(self._settle), prepend=True)]
        if self._automatic:
            hooks.append(self._student.register_forward_hook(Ends(self._forwards.append), with_kwargs=True))
        self._handles = [
            *hooks,
            self._accelerator.register_save_state_pre_hook(self._save),
            self._accelerator.register_load_state_pre_hook(self._load),
        ]
        vars(self._accelerator).update(backward=self._backward, end_training=self._end_training)

    # ---- what a script may call --------------------------------------------------------------------

    def on_after_compute_loss(self, input: Any, student_output: Any, student_loss: Tensor, **options: Any) -> Tensor:
        """The total loss, for ``accelerator.backward``: `Distillation.on_after_compute_loss` with all its arguments.

        Call it once a forward, before dividing by anything; what ``backward`` then gets is left as it is.
        """
        self._forwards.clear()
        with self._accelerator.autocast():
            total: Tensor = self.distiller.on_after_compute_loss(input, student_output, student_loss, **options)
        return total

    @property
    def losses(self) -> dict[str, float]:
        """The last batch's components in this process, by name; reading waits for the device."""
        return self.distiller.losses

    def parameters(self) -> Iterator[Any]:
        """The trainable parameters of ours, which the student's optimizer trains without being told."""
        return self.distiller.parameters()

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        """Clip the gradients of our parameters, in a call of their own.

        ``accelerator.clip_grad_norm_(student.parameters(), ...)`` clips the student's alone: ours are plain tensors
        that are equal in all processes, and under FSDP2 the student's are shards.

        Returns:
            Their norm, a scalar tensor; 0 where there are none.
        """
        return torch.nn.utils.clip_grad_norm_(list(self.parameters()), max_norm, norm_type)

    def on_epoch_end(self) -> None:
        """Close the epoch; needed only where the script's batches don't come from a prepared loader."""
        self._epoch_over = True
        self._settle()

    def end(self) -> None:
        """Take everything off the student, the teacher and the accelerator; a second call does nothing."""
        self._end(None, None, None)

    def _end(self, *error: Any) -> None:
        if not self._on:
            return
        self._on = False
        try:
            self._settle()
            if self.distiller.step == 0 and error[0] is None:
                logger.warning(
                    "nothing was distilled: accelerator.backward(loss) was not called, or not after a forward of the "
                    "prepared student"
                )
        finally:
            for handle in self._handles:
                handle.remove()
            for name in ("backward", "end_training"):
                vars(self._accelerator).pop(name, None)
            self._forwards.clear()
            self.distiller.__exit__(*error)

    def __enter__(self) -> Distilled:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stepped = self._epoch_over = False  # what broke off is not evaluated
        self._end(kind, error, trace)

    # ---- the state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs of ours, plain data and tensors; ``accelerator.save_state`` writes it."""
        self._settle()
        return written(KIND, {"steps": self.steps, "distillation": self.distiller.state_dict()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a saved run stood; ``accelerator.load_state`` calls it. The generators stay Accelerate's.

        Raises:
            CheckpointError: not a state of ours, of a newer version, or of another configuration.
        """
        found = checked(state, KIND, "this")
        own = dict(found["distillation"])
        own["rng"] = self.distiller.backend.rng_state()  # Accelerate keeps those of every process
        self.distiller.load_state_dict(own)
        self.steps = found["steps"]
        self._stepped = self._epoch_over = False
        self._forwards.clear()

    def _save(self, models: Any, weights: Any, folder: str) -> None:
        save_to(Path(folder), self.state_dict(), self._accelerator)

    def _load(self, models: Any, folder: str) -> None:
        self.load_state_dict(load_from(Path(folder), KIND, self._accelerator))

    # ---- the accelerator's calls -------------------------------------------------------------------

    def _backward(self, loss: Tensor, **options: Any) -> None:
        total = self._total(loss) if self._forwards else loss
        type(self._accelerator).backward(self._accelerator, total, **options)
        if self._accelerator.sync_gradients:
            self.steps += 1
            self._stepped = True
            self._log()
        if self._accelerator.gradient_state.end_of_dataloader:
            self._epoch_over = True

    def _total(self, loss: Tensor) -> Tensor:
        if len(self._forwards) > 1:
            count = len(self._forwards)
            self._forwards.clear()
            raise UsageError(
                f"the student ran {count} times before accelerator.backward, and its loss could be of any of them: "
                "call loss = distilled.on_after_compute_loss(input, output, loss) before it, or run those that are not "
                "trained under torch.no_grad()"
            )
        forward = self._forwards[0]
        target = target_of(forward.input, self._key, shifted=self._shifted)
        return self.on_after_compute_loss(forward.input, forward.output, loss, target=target)

    def _settle(self) -> None:
        """Tell the distiller of the step and of the epoch that have ended since the last call."""
        stepped, over = self._stepped, self._epoch_over
        self._stepped = self._epoch_over = False
        if stepped:
            self.distiller.on_step_end()
        if over:
            self.distiller.on_epoch_end()

    def _log(self) -> None:
        accelerator = self._accelerator
        due = self._every and self.steps % self._every == 0
        if due and accelerator.is_main_process and getattr(accelerator, "trackers", ()):
            found = self.distiller.losses
            accelerator.log({f"{self._prefix}{name}": value for name, value in found.items()}, step=self.steps)

    def _end_training(self) -> None:
        self.end()
        self._accelerator.end_training()
