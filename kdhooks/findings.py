"""What a run found, and what it cost: losses, history, best weights, and the ledger of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from kdhooks.errors import UsageError
from kdhooks.history import History
from kdhooks.ledger import OFF, Ledger, StepLedger
from kdhooks.participants import Participants
from kdhooks.speed import Choice
from kdhooks.transfer import TransferReport


class Findings(Participants):
    """The part of `kdhooks.Distillation` that a user reads; see there."""

    _ledger: Ledger = OFF
    _profiled: StepLedger | None = None  # the last one of this run

    @property
    def losses(self) -> dict[str, float]:
        """The last step's components by name, unweighted, and ``total``; reading waits for the device."""
        return {} if self._run is None else self._run.losses()

    @property
    def loss_tensors(self) -> dict[str, Any]:
        """The same as scalar tensors on the device, without a graph; reading does not wait for it.

        Raises:
            UsageError: in TensorFlow, where the tensors of a traced step are its graph's.
        """
        monitor: Any = None if self._run is None else self._run.monitor
        if monitor is not None and not hasattr(monitor, "tensors"):
            raise UsageError("loss_tensors is for PyTorch: in TensorFlow read losses")
        return {} if monitor is None else dict(monitor.tensors())

    @property
    def history(self) -> History:
        """One record an epoch; see `kdhooks.history.History`."""
        return History() if self._run is None else self._run.history

    @property
    def best_score(self) -> float | None:
        """The best score that evaluation found, or None where nothing was evaluated."""
        return None if self._run is None else self._run.best.score

    @property
    def best_model(self) -> Any:
        """A clean copy of the student with the best weights, made now; None where nothing was evaluated."""
        best = None if self._run is None else self._run.best.weights
        return None if best is None else self.backend.clean_copy(self._student, best)

    @property
    def step(self) -> int:
        """The number that the next loss will have, as schedules count."""
        return 0 if self._run is None else self._run.clock.step

    @property
    def epoch(self) -> int:
        """The number of the epoch that is under way."""
        return self.conf.settings.distillation.train.start_epoch if self._run is None else self._run.epoch

    @property
    def transfer_report(self) -> TransferReport | None:
        """What the last transfer of weights did, tensor by tensor; None where there was none."""
        return None if self._transferred is None else self._transferred.report

    @property
    def choices(self) -> dict[str, Choice]:
        """How the teachers were run, where an ``auto`` left that to us, by name."""
        teachers = {} if self._run is None else self._run.teachers
        return {name: made for name, one in teachers.items() if (made := getattr(one, "chosen", None)) is not None}

    def adopt(self, choices: Mapping[str, Choice]) -> None:
        """Run the teachers as an earlier run did, whose `choices` these are, once training has begun."""
        for name, choice in choices.items():
            teacher = None if self._run is None else self._run.teachers.get(name)
            if teacher is not None and hasattr(teacher, "adopt"):
                teacher.adopt(choice)

    def parameters(self) -> Iterator[Any]:
        """The trainable parameters of ours; their shapes need a first loss, or `on_train_begin(dataloader)`."""
        for criterion in () if self._run is None else self._run.objective.criteria:
            yield from getattr(criterion, "parameters", tuple)()

    @property
    def ledger(self) -> Ledger:
        """What times the parts of steps: that of the profile that is open, or one that times nothing."""
        return self._ledger

    @contextmanager
    def profile(self, steps: int | None = None) -> Iterator[StepLedger]:
        """Time the parts of the steps in a block: student, teacher, cache, losses, ours.

        The block may hold a whole run, `fit()` too, or some steps of a loop. No step waits for the device; the end of
        the block does. ``print(ledger)`` shows a table, ``ledger.save(path)`` writes JSON.

        Args:
            steps: after the first one, how many are timed; None times all.

        Raises:
            UsageError: another profile is open, or `steps` is less than 1.

        Example:
            >>> import torch
            >>> from kdhooks import Distillation
            >>> student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
            >>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
            >>> with Distillation(student_model=student, teacher_model=teacher) as distiller:
            ...     with distiller.profile() as ledger:
            ...         for _ in range(3):
            ...             output = student(x)
            ...             loss = torch.nn.functional.cross_entropy(output, y)
            ...             distiller.on_after_compute_loss(x, output, loss).backward()
            >>> found = ledger.to_dict()
            >>> found["steps"], found["counts"], sorted(found["parts"])
            (2, {'losses': 3, 'rows': 24}, ['losses', 'ours', 'student', 'teacher'])
        """
        if self._ledger is not OFF:
            raise UsageError("a profile is open already: its ledger times all steps until its `with` block ends")
        ledger = StepLedger(steps)
        ledger.open()
        self._put_ledger(ledger)
        self._profiled = ledger
        if self._run is not None and self._run.attached:
            ledger.began(self.backend.stopwatch(self._student))
        try:
            yield ledger
        finally:
            self._put_ledger(OFF)
            ledger.close()
            ledger.options = self._options()

    def _put_ledger(self, ledger: Ledger) -> None:
        self._ledger = ledger
        if self._run is not None:
            self._run.ledger = ledger

    def _options(self) -> dict[str, Any]:
        """What the run was told that bears on its time, and what its teachers chose by themselves."""
        settings = self.conf.settings.distillation
        train = asdict(settings.train)
        options: dict[str, Any] = {
            "framework": None if self._backend is None else self._backend.name,
            "train": {name: train[name] for name in ("precision", "channels_last", "ipex", "execution_mode")},
            "teacher": asdict(settings.teacher),
            "cache": None if settings.cache is None else asdict(settings.cache),
        }
        teachers = {} if self._run is None else self._run.teachers
        choices = {name: getattr(one, "choice", None) for name, one in teachers.items()}
        chosen = {name: choice.to_dict() for name, choice in choices.items() if choice is not None}
        return options | ({"chosen": chosen} if chosen else {})
