"""The built-in loop of `fit()` but for what a framework does: epochs, steps, readings, checkpoints, signals.

Rules: it calls the hooks as a user's loop does. A *step* is a batch; the optimizer steps after
``gradient_accumulation`` batches, and only there a checkpoint is written, so that no gradient has to be saved.
The device is waited for every `EVERY` steps, where a checkpoint is written, and at an epoch's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from kdhooks.errors import DataError, NonFiniteLossError
from kdhooks.loop.checkpoint import CheckpointFile
from kdhooks.loop.progress import EVERY, Progress
from kdhooks.loop.rates import end_of
from kdhooks.loop.stop_signals import StopSignals
from kdhooks.loop.training_data import TrainingData
from kdhooks.messages import logger


class Alone:
    """The processes that train together where there is one.

    Attributes:
        rank: of this process.
        size: how many there are.
    """

    rank, size = 0, 1

    def any(self, flag: bool) -> bool:
        """Whether it holds on any rank."""
        return flag

    def agree_to_stop(self, flag: bool) -> bool:
        """Whether any rank was asked to stop."""
        return flag

    def first_bad(self, bad: tuple[int, str] | None) -> tuple[int, str] | None:
        """The first bad step of all ranks."""
        return bad

    def share_buffers(self, model: Any) -> None:
        """Give every rank the statistics of rank 0."""

    def gather(self, states: Any) -> list[Any]:
        """What every rank has."""
        return [states]

    def wait(self) -> None:
        """Wait for the other ranks."""


class BuiltInLoop:
    """The loop and where it stands; a backend's class has the methods that compute.

    Args:
        distiller: whose hooks are called; training has begun on it.
        parts: what the configuration or the user chose: ``data``, ``rate``, ``optimizer``, ``resume`` are used here.
        ranks: the processes that train together.
        signals: Ctrl-C and SIGTERM.
        student: the user's own model.
        file: the checkpoint.

    Attributes:
        epoch: that is under way.
        batch: batches of this epoch that were trained on.
        step: batches of all epochs.
    """

    def __init__(
        self, distiller: Any, parts: Any, ranks: Any, signals: StopSignals, *, student: Any, file: CheckpointFile
    ) -> None:
        self.distiller, self.parts, self._ranks, self._signals = distiller, parts, ranks, signals
        self.student = student
        self.settings = distiller.conf.settings.distillation.train
        self.epoch, self.batch, self.step = self.settings.start_epoch, 0, 0
        self.file = file
        self._saved: tuple[int, Path] | None = None  # step and file of the last good checkpoint
        self._continued: dict[str, Any] | None = None  # states of an epoch that is continued in its middle
        self._stepped = False
        self._progress = Progress(end_of(self.settings, parts.data.length()) - 1)
        if ranks.rank == 0 and distiller.writes_files:
            self.file.clean()

    # ---- what a framework does ---------------------------------------------------------------------

    def _train_mode(self) -> None:
        """The student is trained next."""

    def _optimizer_step(self, group: list[Any]) -> None:
        """One step of the optimizer on the mean loss of a group of batches; `_stepped` says whether it was taken."""
        raise NotImplementedError

    def _non_finite_parameter(self) -> str | None:
        """The name of a parameter of the student that holds NaN or infinity, or None."""
        raise NotImplementedError

    def _content(self, states: Any) -> dict[str, Any]:
        """What a checkpoint holds; `states` are the generators' of all ranks."""
        raise NotImplementedError

    def _gathered(self, states: Any) -> dict[str, Any] | None:
        """What rank 0 writes; all ranks come here, since what they hold of a model may have to be put together."""
        return self._content(states) if self._ranks.rank == 0 else None

    def _more_states(self) -> dict[str, Any]:
        """What else a rank's data depend on; beside ``start`` and ``now`` in a checkpoint."""
        return {}

    def _restore_more(self, states: Mapping[str, Any]) -> None:
        """Put those states back."""

    def run(self) -> None:
        """Train until the last epoch, or until a signal."""
        self.distiller.record_begins()
        while self._goes_on():
            self._train_epoch()
            with self.distiller.ledger.part("outside"):
                self._end_epoch()
            self._stop_if_asked(self._ranks.any(self._signals.asked is not None))

    def close(self) -> None:
        """Give back what the loop held."""
        self.distiller.ledger.of_built_in_loop(False)
        self._progress.close()

    def _goes_on(self) -> bool:
        last: int | None = self.settings.steps
        return self.epoch < int(self.settings.end_epoch) if last is None else self.step < last

    # ---- an epoch ----------------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        self.distiller.on_epoch_begin(self.epoch)
        self.distiller.ledger.of_built_in_loop(True)
        self._train_mode()
        batches = self._batches()
        self._progress.begin_epoch(self.epoch, self.parts.data.length(), self.batch)
        while group := self._next_group(batches):
            self._optimizer_step(group)
            self._after_step(len(group))
        if not self.batch:
            raise DataError(
                f"the train_dataloader had no batch in epoch {self.epoch}; a generator can be iterated over only once"
            )

    def _batches(self) -> Iterator[Any]:
        data: TrainingData = self.parts.data
        states = self._continued
        if states is None:
            return data.epoch(self.epoch)
        self._continued = None
        return data.rest_of_epoch(self.epoch, self.batch, states["start"], states["now"])

    def _next_group(self, batches: Iterator[Any]) -> list[Any]:
        """The batches of the next optimizer step; the last group of an epoch, and of a run, may be smaller."""
        wanted, steps = self.settings.gradient_accumulation, self.settings.steps
        if steps is not None:
            wanted = min(wanted, steps - self.step)
        try:
            with self.distiller.ledger.part("data"):
                return list(islice(batches, wanted))
        except RuntimeError:
            if self._signals.asked is None:
                raise
            self._stop_if_asked(True)  # Ctrl-C reached the loader's workers as well, and they are gone
            raise

    def _end_epoch(self) -> None:
        self._check_finite()
        self._ranks.share_buffers(self.student)
        self.distiller.on_epoch_end()
        record = self.distiller.history[-1]
        self.parts.rate.judge(record["score"])
        self._progress.end_epoch(record)
        self.parts.data.end_epoch()
        self.epoch, self.batch = self.epoch + 1, 0
        self._save()

    # ---- between steps -----------------------------------------------------------------------------

    def _after_step(self, batches: int) -> None:
        if self._stepped:
            self.parts.rate.step()
        before = self.step
        self.step += batches
        self.batch += batches
        self._progress.advance(batches)
        if before // EVERY != self.step // EVERY:
            self._check_finite()
            losses, rate = self.distiller.losses, self.distiller.backend.learning_rate(self.parts.optimizer)
            self._progress.show(losses, rate)
            self.distiller.record_reading(self.step - 1, losses, rate)
        every = self.settings.checkpoint_steps
        if every is not None and before // every != self.step // every:
            self._save()
        self._stop_if_asked(self._ranks.agree_to_stop(self._signals.asked is not None))

    def _stop_if_asked(self, asked: bool) -> None:
        if not asked:
            return
        if self._saved is None or self._saved[0] != self.step:
            self._save()
        if self._saved is not None:
            step, path = self._saved
            logger.warning("stopped; tuning.workspace.resume: true continues after step %d from %s", step, path)
        self._signals.end()

    def _check_finite(self) -> None:
        bad = self._ranks.first_bad(self.distiller.first_bad())
        if bad is None:
            return
        hint = "; no checkpoint was written before it"
        if self._saved is not None:
            hint = f"; the last good checkpoint is {self._saved[1]}, which holds the first {self._saved[0]} steps"
        reason = self.distiller.explain_bad(bad[1])
        raise NonFiniteLossError(bad[0], bad[1], hint=f"{hint}\n{reason}" if reason else hint)

    # ---- checkpoints -------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write a checkpoint, unless what it would hold is no longer good."""
        with self.distiller.ledger.part("outside"):
            self._save_good()

    def _save_good(self) -> None:
        self._check_finite()
        if not self.distiller.writes_files:
            return
        spoilt = self._non_finite_parameter()
        if self._ranks.any(spoilt is not None):
            logger.warning("no checkpoint was written after step %d: %s is NaN or infinite", self.step, spoilt)
            return
        self._ranks.share_buffers(self.student)
        data = self.parts.data
        states = self._ranks.gather({"start": data.start, "now": data.states(), **self._more_states()})
        content = self._gathered(states)
        if content is not None and self._ranks.rank == 0:
            self.file.write(content)
            self.distiller.record_checkpoint()
        self._ranks.wait()
        self._saved = self.step, self.file.path

    def _continue(self, content: Mapping[str, Any], path: Path) -> None:
        """Stand where a checkpoint stood, once the backend has put its states back."""
        position, rank = content["position"], self._ranks.rank
        states = content["ranks"][rank] if rank < len(content["ranks"]) else None
        self._saved = position["step"], path
        if path.parent != self.file.path.parent:
            self.distiller.record_continues(position["step"], path.parent)
        self.epoch, self.batch, self.step = position["epoch"], position["batch"], position["step"]
        if states is not None:
            self._restore_more(states)
        if self.batch:
            self._continued = states
        elif states is not None:
            self.parts.data.restore(states["now"])
        logger.info("continued after step %d from %s", self.step, path)
