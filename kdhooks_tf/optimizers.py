"""Optimizers and learning-rate schedulers by name, for the built-in loop.

Rules: a name or an option that does not exist is a `ConfigError` at its place in the configuration, told before the
first step. SGD, Adam, AdamW and RMSprop are those of `kdhooks_tf.optimizer_classes`, which step as PyTorch's do; the
others are Keras's own. A scheduler assigns the optimizer's ``learning_rate`` and patches nothing.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras

from kdhooks.config import DistillationConf
from kdhooks.config.model import Named
from kdhooks.errors import CheckpointError, ModelError, UsageError
from kdhooks.loop.parts import named_options
from kdhooks.loop.rates import OTHER, ConstantRate, CountedRate, RateSchedule, check_plateau, factor_of, is_plateau
from kdhooks.names import Table, did_you_mean
from kdhooks_tf import optimizer_classes

OPTIMIZERS: Table[type[Any]] = Table("optimizer")
"""Ours, and every other class of ``keras.optimizers``."""

_FIRST: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
_INNER = ("LossScaleOptimizer", "MultiOptimizer")

for _name, _kind in vars(keras.optimizers).items():
    if inspect.isclass(_kind) and issubclass(_kind, keras.optimizers.Optimizer) and _name not in ("Optimizer", *_INNER):
        OPTIMIZERS.add(_name, _kind)
for _ours in ("SGD", "Adam", "AdamW", "RMSprop"):
    OPTIMIZERS.add(_ours, getattr(optimizer_classes, _ours), replace=True)


def build_optimizer(conf: DistillationConf, variables: Sequence[Any]) -> Any:
    """The optimizer that ``distillation.train.optimizer`` names, built on the variables that are trained.

    Raises:
        ConfigError: an unknown name or option, or a value that the optimizer refuses.
        ModelError: no variable is trained.
    """
    named = conf.settings.distillation.train.optimizer
    trained = [variable for variable in variables if variable.trainable]
    if not trained:
        raise ModelError("the student has no weight to train: it has none, or each has trainable=False")
    if named.name not in OPTIMIZERS:
        suggestion = did_you_mean(named.name, OPTIMIZERS, what="Optimizers")
        raise conf.problem(named.path, f"unknown optimizer {named.name!r}", suggestion, of_key=True)
    kind = OPTIMIZERS[named.name]
    parameters = [name for name in inspect.signature(kind).parameters if name not in ("name", "kwargs")]
    options = named_options(conf, named, kind.__name__, parameters, {"lr": "learning_rate"})
    try:
        optimizer = kind(**options)
    except (TypeError, ValueError) as error:
        raise conf.problem(named.path, f"{kind.__name__}: {error}") from None
    if conf.settings.distillation.train.precision == "fp16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(trained)
    return optimizer


def inner_optimizer(optimizer: Any) -> Any:
    """What steps inside of a ``LossScaleOptimizer``, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


class ScheduledRate(CountedRate):
    """The learning rate as a factor of its first one, at each optimizer step.

    Args:
        optimizer: of Keras, whose learning rate can be assigned.
        factor: optimizer step -> factor.
    """

    def __init__(self, optimizer: Any, factor: Callable[[int], float]) -> None:
        super().__init__()
        self._optimizer, self._factor = inner_optimizer(optimizer), factor
        self._first = first_rate(optimizer)
        self.apply()

    def apply(self) -> None:
        """Set the rate of the next step."""
        self._optimizer.learning_rate = self._first * self._factor(self._steps)


def first_rate(optimizer: Any) -> float:
    """The learning rate that an optimizer had before a schedule of ours changed it first."""
    inner = inner_optimizer(optimizer)
    if inner not in _FIRST:  # seven digits: what a person wrote is 0.1, not the 0.10000000149 of float32
        _FIRST[inner] = float(f"{float(inner.learning_rate):.7g}")
    return _FIRST[inner]


class PlateauRate:
    """Reduces the rate where the evaluation's score stops improving, as torch's ``ReduceLROnPlateau`` does.

    Args:
        optimizer: whose rate is reduced.
        mode: whether a ``min`` or ``max`` of the score is better.
        factor: of the rate at each reduction.
        patience: evaluations without improvement that are borne.
        threshold: the least improvement that counts.
        threshold_mode: whether it is ``rel`` to the best score or ``abs``.
        cooldown: evaluations after a reduction that are not counted.
        min_lr: no rate goes below it.
        eps: a smaller change of the rate is not made.

    Raises:
        ValueError: options that make no sense.
    """

    def __init__(
        self,
        optimizer: Any,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if not factor < 1.0:
            raise ValueError("Factor should be < 1.0.")
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ValueError(f"mode {mode} with threshold_mode {threshold_mode} is unknown!")
        self._optimizer = inner_optimizer(optimizer)
        self._higher, self._relative = mode == "max", threshold_mode == "rel"
        self._factor, self._patience, self._threshold = factor, patience, threshold
        self._cooldown, self._least, self._eps = cooldown, min_lr, eps
        self._state: dict[str, Any] = {"best": -math.inf if self._higher else math.inf, "bad": 0, "rest": 0}

    def apply(self) -> None:
        """Change nothing between evaluations."""

    def step(self) -> None:
        """Change nothing between evaluations."""

    def judge(self, score: float | None) -> None:
        """Reduce the rate where the score has not improved for long enough; without a score nothing happens."""
        if score is None:
            return
        state = self._state
        if self._improved(score, state["best"]):
            state["best"], state["bad"] = score, 0
        else:
            state["bad"] += 1
        if state["rest"] > 0:
            state["rest"], state["bad"] = state["rest"] - 1, 0
        if state["bad"] > self._patience:
            self._reduce()
            state["rest"], state["bad"] = self._cooldown, 0

    def _improved(self, score: float, best: float) -> bool:
        sign = 1 if self._higher else -1
        if self._relative:
            return sign * (score - best * (1 + sign * self._threshold)) > 0 if math.isfinite(best) else score != best
        return sign * (score - best) > self._threshold

    def _reduce(self) -> None:
        rate = float(self._optimizer.learning_rate)
        lower = max(rate * self._factor, self._least)
        if rate - lower > self._eps:
            self._optimizer.learning_rate = lower

    def state_dict(self) -> dict[str, Any]:
        """The best score, and the evaluations since."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there; the options stay those of this run."""
        if set(state) != set(self._state):
            raise CheckpointError(OTHER)
        self._state = dict(state)


def build_rate_schedule(
    conf: DistillationConf,
    optimizer: Any,
    *,
    epochs: int,
    steps_per_epoch: int | None,
    higher_is_better: bool | None,
    steps: int | None = None,
) -> RateSchedule:
    """The scheduler that ``distillation.train.scheduler`` names.

    Args:
        conf: the configuration.
        optimizer: whose learning rate is scheduled.
        epochs: of the whole run.
        steps_per_epoch: optimizer steps an epoch; None where the loader does not know its length.
        higher_is_better: of the evaluation's score; None where nothing is evaluated.
        steps: optimizer steps of the whole run, where its last epoch is a short one; None where all are whole.

    Raises:
        ConfigError: an unknown name or option, or a run without the length or the evaluation that it needs.
        UsageError: the optimizer has a schedule of its own.
    """
    named = conf.settings.distillation.train.scheduler
    if named is None:
        return ConstantRate()
    own = inner_optimizer(optimizer).get_config().get("learning_rate")
    if isinstance(own, Mapping):
        raise UsageError(
            f"distiller.optimizer has the schedule {own['class_name']} of its own, and distillation.train.scheduler "
            f"names {named.name}. Keep one of them."
        )
    if is_plateau(named):
        return _plateau(conf, named, optimizer, higher_is_better)
    return ScheduledRate(optimizer, factor_of(conf, named, epochs=epochs, steps_per_epoch=steps_per_epoch, steps=steps))


def _plateau(conf: DistillationConf, named: Named, optimizer: Any, higher_is_better: bool | None) -> PlateauRate:
    parameters = [name for name in inspect.signature(PlateauRate).parameters if name != "optimizer"]
    options = named_options(conf, named, named.name, parameters, {})
    check_plateau(conf, named, higher_is_better)
    try:
        return PlateauRate(optimizer, **{"mode": "max" if higher_is_better else "min"} | options)
    except (TypeError, ValueError) as error:
        raise conf.problem(named.path, f"{named.name}: {error}") from None
