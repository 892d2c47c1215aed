"""The learning rate's schedule in the built-in loop, but for how a rate is written into an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kdhooks.config import DistillationConf
from kdhooks.config.model import Named, TrainSettings
from kdhooks.errors import CheckpointError, UsageError
from kdhooks.names import did_you_mean, fold
from kdhooks.schedules import LEARNING_RATE_SCHEDULES, learning_rate_factor

PLATEAU = ("Plateau", "ReduceLROnPlateau")
"""The scheduler that watches the evaluation's score."""

OTHER = "the checkpoint belongs to a run with another learning-rate scheduler"


class RateSchedule(Protocol):
    """What the loop does with a learning-rate scheduler."""

    def apply(self) -> None:
        """The optimizer will step next: give it the rate of that step."""

    def step(self) -> None:
        """The optimizer has stepped."""

    def judge(self, score: float | None) -> None:
        """An epoch has ended, with this score where it was evaluated."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there."""


class ConstantRate:
    """No scheduler: the learning rate is the optimizer's own business."""

    def apply(self) -> None:
        """Change nothing."""

    def step(self) -> None:
        """Change nothing."""

    def judge(self, score: float | None) -> None:
        """Change nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore but that the saved run had no scheduler either."""
        if state:
            raise CheckpointError(
                "the checkpoint belongs to a run with a learning-rate scheduler, and this one has none"
            )


class CountedRate:
    """A schedule that counts optimizer steps; a backend's class writes the rate of one in `apply`."""

    def __init__(self) -> None:
        self._steps = 0

    def step(self) -> None:
        """Count the step; its rate stays in the optimizer until the next one, for whoever reports it."""
        self._steps += 1

    def judge(self, score: float | None) -> None:
        """Change nothing: the schedule knows no score."""

    def state_dict(self) -> dict[str, Any]:
        """The optimizer steps that were counted."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from that step."""
        if set(state) != {"steps"}:
            raise CheckpointError(OTHER)
        self._steps = int(state["steps"])


def is_plateau(named: Named) -> bool:
    """Whether a scheduler is the one that watches the score."""
    return fold(named.name) in map(fold, PLATEAU)


def end_of(train: TrainSettings, batches: int | None) -> int:
    """The number after the last epoch of a run.

    Args:
        train: says how long the run is.
        batches: of an epoch; None where the loader does not know.

    >>> end_of(TrainSettings(steps=25), 10), end_of(TrainSettings(end_epoch=4), 10)
    (3, 4)
    """
    if train.steps is None:
        return train.end_epoch
    return train.start_epoch + (-(-train.steps // batches) if batches else 1)


def run_lengths(train: TrainSettings, batches: int | None) -> dict[str, Any]:
    """How long a run is, as `factor_of` takes it.

    Args:
        train: says how long the run is, and how many batches an optimizer step takes.
        batches: of an epoch; None where the loader does not know.

    >>> run_lengths(TrainSettings(steps=25, gradient_accumulation=2), 11)
    {'epochs': 3, 'steps_per_epoch': 6, 'steps': 14}
    """
    each, epochs = train.gradient_accumulation, end_of(train, batches) - train.start_epoch
    if train.steps is None:
        return {"epochs": epochs, "steps_per_epoch": None if batches is None else -(-batches // each), "steps": None}
    longest = min(batches or train.steps, train.steps)
    whole, rest = divmod(train.steps, longest)
    of_epoch = -(-longest // each)
    return {"epochs": epochs, "steps_per_epoch": of_epoch, "steps": whole * of_epoch + -(-rest // each)}


def factor_of(
    conf: DistillationConf, named: Named, *, epochs: int, steps_per_epoch: int | None, steps: int | None = None
) -> Callable[[int], float]:
    """The function of the optimizer step by which a scheduler multiplies the learning rate.

    Args:
        conf: the configuration.
        named: the scheduler.
        epochs: of the whole run.
        steps_per_epoch: optimizer steps an epoch; None where the loader does not know its length.
        steps: of the whole run, where its last epoch is a short one; None where all are whole.

    Raises:
        ConfigError: an unknown name or option, or a run without the length that it needs.
    """
    if named.name not in LEARNING_RATE_SCHEDULES:
        suggestion = did_you_mean(named.name, (*LEARNING_RATE_SCHEDULES, PLATEAU[0]), what="Schedulers")
        raise conf.problem(named.path, f"unknown scheduler {named.name!r}", suggestion, of_key=True)
    if steps_per_epoch is None:
        message = f"the scheduler {named.name} needs the length of an epoch, and the train_dataloader has none"
        raise conf.problem(named.path, message, "Set distillation.train.iteration, the steps of an epoch.")
    lengths = {"total_steps": steps or epochs * steps_per_epoch, "steps_per_epoch": steps_per_epoch}
    try:
        return learning_rate_factor(named.name, named.options, **lengths)
    except UsageError as error:
        raise conf.problem(named.path, str(error)) from None


def check_plateau(conf: DistillationConf, named: Named, higher_is_better: bool | None) -> None:
    """ConfigError where nothing is evaluated that a plateau could be seen in."""
    if higher_is_better is None:
        message = f"the scheduler {named.name} watches the evaluation's score, and nothing is evaluated"
        raise conf.problem(named.path, message, "Add evaluation.accuracy with a dataloader, or set eval_dataloader.")
