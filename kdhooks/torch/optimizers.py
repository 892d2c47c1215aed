"""Optimizers and learning-rate schedulers by name, for the built-in loop.

Rules: a name or an option that does not exist is a `ConfigError` at its place in the configuration, told before the
first step. Nothing here patches an optimizer: the learning rate is written into its parameter groups, and the
rate that a schedule multiplies stays there as ``initial_lr``, where torch's own schedulers keep it too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from kdhooks.config import DistillationConf
from kdhooks.config.model import Named
from kdhooks.errors import CheckpointError, ModelError
from kdhooks.loop.parts import named_options
from kdhooks.loop.rates import OTHER, ConstantRate, CountedRate, RateSchedule, check_plateau, factor_of, is_plateau
from kdhooks.names import Table, did_you_mean
from kdhooks.torch.fused_optimizers import fusing

OPTIMIZERS: Table[type[torch.optim.Optimizer]] = Table("optimizer")
"""Every class of ``torch.optim``."""

for _name, _kind in vars(torch.optim).items():
    if inspect.isclass(_kind) and issubclass(_kind, torch.optim.Optimizer) and _kind is not torch.optim.Optimizer:
        OPTIMIZERS.add(_name, _kind)


def build_optimizer(
    conf: DistillationConf,
    parameters: Iterable[nn.Parameter],
    by_factor: Mapping[float, list[nn.Parameter]] | None = None,
    *,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """The optimizer that ``distillation.train.optimizer`` names, over those parameters that are trained.

    Args:
        conf: the configuration.
        parameters: of the student.
        by_factor: the same in groups, by the factor of their learning rate; None is one group.
        fused: whether it is fused where torch can and the user has not said otherwise.

    Raises:
        ConfigError: an unknown name or option, or a value that the optimizer refuses.
        ModelError: no parameter is trained.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise ModelError("the student has no parameter to train: each has requires_grad=False")
    groups = None if by_factor is None else [{"params": several} for several in by_factor.values()]
    named = conf.settings.distillation.train.optimizer
    optimizer = named_optimizer(conf, named, trained, groups, fused=fused)
    for group, factor in zip(optimizer.param_groups, by_factor or (), strict=False):
        group["lr"] = group["lr"] * factor
    return optimizer


def named_optimizer(
    conf: DistillationConf,
    named: Named,
    trained: list[nn.Parameter],
    groups: Sequence[dict[str, Any]] | None = None,
    *,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """The optimizer of a name, over these parameters.

    Args:
        conf: the configuration, for the places of problems.
        named: name and options.
        trained: the parameters.
        groups: the same in groups; None is one group.
        fused: whether it is fused where torch can and the user has not said otherwise.

    Raises:
        ConfigError: an unknown name or option, or a value that the optimizer refuses.
    """
    if named.name not in OPTIMIZERS:
        suggestion = did_you_mean(named.name, OPTIMIZERS, what="Optimizers")
        raise conf.problem(named.path, f"unknown optimizer {named.name!r}", suggestion, of_key=True)
    kind = OPTIMIZERS[named.name]
    options = _options(conf, named, kind.__name__, kind, {"learning_rate": "lr"}, "params")

    def given() -> Any:  # anew each time: an optimizer writes its defaults into the groups
        return trained if groups is None else [dict(group) for group in groups]

    try:
        if fused and fusing(kind, options, trained):
            with suppress(RuntimeError):  # a torch that has no such kernel for these weights
                return kind(given(), **options | {"fused": True})
        return kind(given(), **options)
    except (TypeError, ValueError) as error:
        raise conf.problem(named.path, f"{kind.__name__}: {error}") from None


class ScheduledRate(CountedRate):
    """The learning rate of every parameter group as a factor of its first one, at each optimizer step.

    Args:
        optimizer: its groups' ``initial_lr``, or ``lr`` where there is none yet, is multiplied.
        factor: optimizer step -> factor.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, factor: Callable[[int], float]) -> None:
        super().__init__()
        self._optimizer, self._factor = optimizer, factor
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", float(group["lr"]))
        self.apply()

    def apply(self) -> None:
        """Set the rate of the next step."""
        factor = self._factor(self._steps)
        for group in self._optimizer.param_groups:
            rate = group["initial_lr"] * factor
            if isinstance(group["lr"], Tensor):  # a compiled or capturable optimizer holds on to this tensor
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


class PlateauRate:
    """torch's ``ReduceLROnPlateau`` on the evaluation's score.

    Args:
        optimizer: whose rate is reduced.
        options: of ``ReduceLROnPlateau``.

    Raises:
        ValueError, TypeError: options that it refuses.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        self._inner = ReduceLROnPlateau(optimizer, **options)

    def apply(self) -> None:
        """Change nothing between evaluations."""

    def step(self) -> None:
        """Change nothing between evaluations."""

    def judge(self, score: float | None) -> None:
        """Reduce the rate where the score has not improved for long enough; without a score nothing happens."""
        if score is not None:
            self._inner.step(score)

    def state_dict(self) -> dict[str, Any]:
        """The best score, and the evaluations since."""
        return {key: value for key, value in self._inner.state_dict().items() if isinstance(value, (int, float, str))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there; the options stay those of this run."""
        if not {"best", "num_bad_epochs"} <= set(state):
            raise CheckpointError(OTHER)
        kept = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
        self._inner.load_state_dict({key: state[key] for key in kept if key in state})


def build_rate_schedule(
    conf: DistillationConf,
    optimizer: torch.optim.Optimizer,
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
    """
    named = conf.settings.distillation.train.scheduler
    if named is None:
        return ConstantRate()
    if is_plateau(named):
        return _plateau(conf, named, optimizer, higher_is_better)
    return ScheduledRate(optimizer, factor_of(conf, named, epochs=epochs, steps_per_epoch=steps_per_epoch, steps=steps))


def _plateau(
    conf: DistillationConf, named: Named, optimizer: torch.optim.Optimizer, higher_is_better: bool | None
) -> PlateauRate:
    options = _options(conf, named, named.name, ReduceLROnPlateau, {}, "optimizer", "verbose")
    check_plateau(conf, named, higher_is_better)
    try:
        return PlateauRate(optimizer, **{"mode": "max" if higher_is_better else "min"} | options)
    except (TypeError, ValueError) as error:
        raise conf.problem(named.path, f"{named.name}: {error}") from None


def _options(
    conf: DistillationConf, named: Named, what: str, kind: type, spellings: Mapping[str, str], *ours: str
) -> dict[str, Any]:
    """The options as `kind` calls them; `spellings` maps the configuration's names to its own."""
    parameters = [name for name in inspect.signature(kind).parameters if name not in ours]
    return named_options(conf, named, what, parameters, spellings)
