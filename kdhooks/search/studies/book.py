"""The book of a study: what stands in its storage, and every entry that we make there.

A trial of Optuna's is a ticket: it gets its number from the storage, one worker each. Behind it we write the claim
(a candidate's number and architecture), and last the record of what came of it. **Where there is a record, there is
a candidate**, whatever became of the worker; a ticket that ended without one is a stub. Since the storage refuses to
change a finished trial, a record and a worker's death can't both be written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from kdhooks.messages import logger
from kdhooks.search.candidates import Candidate
from kdhooks.search.studies.records import candidate_of, record_of
from kdhooks.search.studies.workers import shown

_PATIENCE = 120.0  # seconds for which a storage may be away: a server's restart must not cost a training
_FIRST_WAIT = 0.1
_RUNG = "completed_rung_"  # Optuna's notes on a trial of successive halving

Result = TypeVar("Result")


@dataclass(frozen=True)
class Entry:
    """One ticket.

    Attributes:
        trial_id: what the storage calls it.
        ticket: its number, in the order in which tickets were taken.
        running: whether it has not ended.
        worker: who took it.
        beat: the number of its last sign of life.
        number: of the candidate that it claims; None before that.
        arch: which it claims.
        record: of the candidate, once it is finished.
        scores: reported while it trained, by step.
        rungs: what successive halving noted.
        released: whether its worker gave it back, and did not die.
    """

    trial_id: int
    ticket: int
    running: bool
    worker: Mapping[str, Any]
    beat: int
    number: int | None
    arch: Mapping[str, Any]
    record: Mapping[str, Any] | None
    scores: Mapping[int, float]
    rungs: Mapping[str, Any]
    released: bool = False

    @property
    def stub(self) -> bool:
        """Whether its worker died before the candidate was finished."""
        return not self.running and self.record is None

    def candidate(self) -> Candidate:
        """The candidate that it claims, finished or running."""
        assert self.number is not None
        if self.record is None:
            return Candidate(self.number, dict(self.arch), worker=shown(self.worker))
        return candidate_of(self.number, self.arch, self.record)


class Book:
    """What we read and write of one study.

    Args:
        storage: an `optuna.storages.BaseStorage`.
        study_id: of the study in it.
    """

    def __init__(self, storage: Any, study_id: int) -> None:
        self.storage, self.study_id = storage, study_id

    def entries(self) -> list[Entry]:
        """All tickets that are ours, in their order."""
        trials = _patiently(self.storage.get_all_trials, self.study_id, deepcopy=False)
        return [_entry(trial) for trial in trials if "worker" in trial.user_attrs]

    def entry(self, trial_id: int) -> Entry:
        """One ticket of ours."""
        return _entry(_patiently(self.storage.get_trial, trial_id))

    def take_ticket(self, worker: Mapping[str, Any]) -> int:
        """A new ticket's trial; its worker stands on it from the beginning, so it can be seen to die."""
        from optuna.trial import TrialState, create_trial

        attributes = {"worker": dict(worker), "beat": 0}
        template = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
        trial_id: int = _patiently(self.storage.create_new_trial, self.study_id, template)
        return trial_id

    def give_sign(self, trial_id: int, beat: int) -> None:
        """A sign of life; none is given for a trial that has ended."""
        from optuna.exceptions import UpdateFinishedTrialError

        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(trial_id, "beat", beat)

    def claim(self, trial_id: int, number: int, arch: Mapping[str, Any]) -> None:
        """Say which candidate a ticket is for; one entry, so it is there as a whole or not at all."""
        claim = {"number": number, "arch": dict(arch)}
        _patiently(self.storage.set_trial_user_attr, trial_id, "claim", claim)

    def show(self, trial_id: int, values: Mapping[str, tuple[Any, Any]]) -> None:
        """Set parameters, each a value and Optuna's distribution, for those who look at the study."""
        for name, (value, distribution) in values.items():
            inner = distribution.to_internal_repr(value)
            _patiently(self.storage.set_trial_param, trial_id, name, inner, distribution)

    def score(self, trial_id: int, step: int, score: float) -> None:
        """A score of a candidate in training."""
        _patiently(self.storage.set_trial_intermediate_value, trial_id, step, score)

    def note_rungs(self, trial_id: int, rungs: Mapping[str, Any]) -> None:
        """What successive halving has to remember."""
        for name, value in rungs.items():
            _patiently(self.storage.set_trial_system_attr, trial_id, name, value)

    def finish(self, trial_id: int, candidate: Candidate, values: Sequence[float] | None) -> bool:
        """Write the record of a candidate and end its trial; False where it was ended by others meanwhile."""
        from optuna.exceptions import UpdateFinishedTrialError

        record = record_of(candidate)
        try:
            _patiently(self.storage.set_trial_user_attr, trial_id, "candidate", record)
            _patiently(self.storage.set_trial_state_values, trial_id, _state(record), values)
        except UpdateFinishedTrialError:
            return self.entry(trial_id).record == record
        return True

    def release(self, trial_id: int) -> None:
        """Note that a ticket is given back by a worker that lives."""
        from optuna.exceptions import UpdateFinishedTrialError

        with suppress(UpdateFinishedTrialError):
            _patiently(self.storage.set_trial_user_attr, trial_id, "released", True)

    def end(self, entry: Entry, values: Sequence[float] | None = None) -> None:
        """End the trial of a ticket without a worker; what its worker had recorded counts."""
        from optuna.exceptions import UpdateFinishedTrialError

        state = _state(entry.record)
        with suppress(UpdateFinishedTrialError):  # another worker was quicker, or its own is not dead after all
            _patiently(self.storage.set_trial_state_values, entry.trial_id, state, values)


def _state(record: Mapping[str, Any] | None) -> Any:
    """What Optuna is told of a record: an infeasible candidate has failed for it, since it may have no values."""
    from optuna.trial import TrialState

    known = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    return TrialState.FAIL if record is None else known.get(record["state"], TrialState.FAIL)


def _entry(trial: Any) -> Entry:
    attributes = trial.user_attrs
    claim = attributes.get("claim", {})
    return Entry(
        trial_id=trial._trial_id,
        ticket=trial.number,
        running=not trial.state.is_finished(),
        worker=attributes["worker"],
        beat=attributes.get("beat", 0),
        number=claim.get("number"),
        arch=claim.get("arch", {}),
        record=attributes.get("candidate"),
        scores=dict(trial.intermediate_values),
        rungs={name: value for name, value in trial.system_attrs.items() if name.startswith(_RUNG)},
        released=attributes.get("released", False),
    )


def _patiently(action: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """What an action on the storage returns; while the storage is away it is tried again."""
    end, wait = time.monotonic() + _PATIENCE, _FIRST_WAIT
    while True:
        try:
            return action(*arguments, **options)
        except Exception as error:
            if not _may_come_back(error) or time.monotonic() > end:
                raise
            if wait == _FIRST_WAIT:
                cause = getattr(error.__cause__, "orig", None) or error
                logger.warning("the study's storage does not answer (%s); trying again", type(cause).__name__)
        time.sleep(wait)
        wait = min(2 * wait, 5.0)


def _may_come_back(error: Exception) -> bool:
    """Whether it is the storage that is at fault: a database, a disk or a network."""
    from optuna.exceptions import StorageInternalError

    code = getattr(error, "code", None)  # of gRPC's errors
    is_away = callable(code) and getattr(code(), "name", "") == "UNAVAILABLE"
    return is_away or isinstance(error, (StorageInternalError, OSError))
