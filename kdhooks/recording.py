"""What a run leaves behind for people: its record, what its loggers are told, and what its page compares.

Rule: a run is what it would be without this: nothing here moves a generator, a mode, a buffer, a gradient or a weight,
and a failure becomes a sentence in the record.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdhooks.compared import look_after, look_before
from kdhooks.config.source import join
from kdhooks.config.written import dumped, without_passwords
from kdhooks.judging import Judging
from kdhooks.ledger import StepLedger
from kdhooks.messages import is_rank_zero
from kdhooks.runs import Recorder, RunFacts, RunLogger, RunRecord
from kdhooks.runs.loggers import LoggerError, configured_loggers, guarded

_NOT_ASKED = "tuning.report is false"
_NO_DATA = "there are no evaluation data"
_NOT_PROFILED = "no step was profiled: kdhooks fit --profile, or distiller.profile(), times them"


@dataclass(frozen=True)
class KeptRun:
    """What another loop of ours says of its run, whose record is kept whatever ``tuning.workspace`` says.

    Attributes:
        name: of the run.
        folder: of the run.
        settings: all that was asked for; written as YAML in place of the configuration.
        seed: of the run, or None.
        former: the folder of the run that is gone on with, or None.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    seed: int | None
    former: Path | None = None


class Recording(Judging):
    """The part of `kdhooks.Distillation` that tells of a run; see there.

    Attributes:
        kept: what another loop of ours says of its run; None for `fit()` and for a loop of the user's.
    """

    kept: KeptRun | None = None
    _recorder = Recorder()
    _trains = False  # whether the record that is kept is one of fit(), or of another loop of ours

    @property
    def loggers(self) -> MutableSequence[RunLogger]:
        """Who is told what the next run finds, beside those of ``tuning.loggers``; see `kdhooks.runs.RunLogger`."""
        found: MutableSequence[RunLogger] = vars(self).setdefault("_loggers", [])
        return found

    @loggers.setter
    def loggers(self, loggers: MutableSequence[RunLogger]) -> None:
        vars(self)["_loggers"] = loggers

    @property
    def losses(self) -> dict[str, float]:
        """The last step's components by name, unweighted, and ``total``; reading waits for the device."""
        losses = super().losses
        run = self._run
        if losses and run is not None and run.attached and not self._fits_by_itself:
            self._recorder.reading(run.clock.step - 1, losses, self._learning_rate())
        return losses

    @property
    def _fits_by_itself(self) -> bool:
        """Whether the built-in loop trains, which says itself what it has read, and when it begins."""
        return self._fitting and self.train_func is None

    # ---- called by the built-in loop ---------------------------------------------------------------

    def record_begins(self) -> None:
        """The first step comes next.

        Raises:
            ConfigError: a logger can't begin.
        """
        try:
            self._recorder.begin(0 if self._run is None else self._run.clock.step)
        except LoggerError as error:
            raise self._located(error) from None

    def record_reading(self, step: int, losses: Mapping[str, float], rate: float | None) -> None:
        """The losses of a step were read."""
        self._recorder.reading(step, losses, rate)

    def record_checkpoint(self) -> None:
        """A checkpoint was written, with which the record has to agree."""
        self._recorder.write()

    def record_continues(self, step: int, folder: Path) -> None:
        """The run goes on from a checkpoint of this folder."""
        self._recorder.continues(step, folder)

    def record_interrupted(self) -> None:
        """The run is ended by something else than its own end."""
        self._end_record("stopped")

    # ---- a run's course ----------------------------------------------------------------------------

    def _make_recorder(self) -> Recorder:
        """What tells of the run that begins.

        Raises:
            ConfigError, MissingPackageError, UsageError: a logger can't be used.
        """
        if not (self.writes_files and is_rank_zero()):
            return Recorder()
        conf, kept = self.conf, self.kept
        name, folder, seed = conf.settings.model.name, conf.workspace, conf.settings.tuning.random_seed
        configuration, values = conf.to_yaml(), _flat(conf.to_dict())
        if kept is not None:
            name, folder, seed = kept.name, kept.folder, kept.seed
            configuration, values = dumped(kept.settings), _flat(kept.settings)
        loggers = guarded(self.loggers, configured_loggers(conf, by_default=self._fitting))
        facts = RunFacts(name, folder, configuration, values)
        record = None
        self._trains = self._fitting or kept is not None
        if self._trains or conf.settings.tuning.workspace is not None:
            record = RunRecord(
                folder,
                name=name,
                framework=self.backend.name,
                device=self.backend.device_of(self._student),
                configuration=configuration,
                seed=seed,
            )
        return Recorder(record, loggers, facts, lambda: self.history)

    def _continue_record(self, recorder: Recorder, step: int) -> None:
        """The run goes on from a saved state whose next step this is."""
        recorder.continues(step, None if self.kept is None else self.kept.former)

    def _looks(self) -> Any:
        """What compares the models; see `kdhooks.compared.Looks`."""
        return self.backend.looks(self)

    def _record_epoch(self, record: Mapping[str, Any]) -> None:
        run = self._running("on_epoch_end")
        step = run.clock.step
        if step:
            self._recorder.reading(step - 1, run.monitor.last(), record["learning_rate"])
        self._recorder.epoch(record, step)

    def _tell_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        self._recorder.metrics(metrics, epoch=epoch, step=self.step)

    def _look_before(self, recorder: Recorder) -> None:
        """Compare the models before the first step, while nothing of ours is on them."""
        if recorder.record is not None and self._compares:
            look_before(self._looks, recorder.record)

    def _finish_record(self) -> None:
        """The run went well: compare, and write all of it."""
        record, run = self._recorder.record, self._run
        if record is not None and run is not None:
            record.put("ledger", self._ledger_found(), _NOT_PROFILED)
            if self._compares:
                seconds = sum(one.get("seconds", 0.0) for one in self.history)
                with self._ledger.part("outside"):
                    look_after(self._looks, self.backend, record, self.history, seconds)
            else:
                reason = _NO_DATA if self.conf.settings.tuning.report else _NOT_ASKED
                for section in ("models", "similarity", "confusion", "disagreements"):
                    record.put(section, None, reason)
        self._end_record("finished")

    @property
    def _compares(self) -> bool:
        """Whether the page compares: in `fit()`, and elsewhere where there are evaluation data."""
        evaluation = self.conf.settings.evaluation
        data = self.eval_dataloader is not None or (evaluation is not None and evaluation.dataloader is not None)
        return self.conf.settings.tuning.report and (self._trains or data)

    def _ledger_found(self) -> dict[str, Any] | None:
        """That of the profile that is open, or of the last one of this run."""
        found = self._ledger if isinstance(self._ledger, StepLedger) else self._profiled
        return None if found is None else found.to_dict() | ({} if found.options else {"options": self._options()})

    def _end_record(self, status: str) -> None:
        recorder, self._recorder = self._recorder, Recorder()
        recorder.end(status)

    def _located(self, error: LoggerError) -> Exception:
        """The error of a logger of the configuration, at its place there."""
        path = join("tuning.loggers", error.logger)
        if not error.logger or not self.conf.has(path):
            return error
        path = join(path, error.key) if error.key else path
        return self.conf.problem(path, error.message, error.advice, of_key=not error.key)


def ending(error: BaseException) -> str:
    """How a run ended that an error ended: ``stopped`` by a person or the system, or ``failed``."""
    return "stopped" if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)) else "failed"


def _flat(data: Mapping[str, Any], path: str = "") -> dict[str, str | int | float | bool]:
    """Values by dotted path; lists as text.

    >>> _flat({"a": {"b": 1, "c": ["x", 2]}})
    {'a.b': 1, 'a.c': "['x', 2]"}
    """
    found: dict[str, str | int | float | bool] = {}
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            found |= _flat(value, where)
        elif value is not None:
            found[where] = value if isinstance(value, (bool, int, float)) else without_passwords(str(value))
    return found
