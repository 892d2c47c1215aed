"""The arguments of `KnowledgeDistillationTraining`, checked together before anything is loaded or written.

All mistakes are said at once. Names that are looked up (optimizers, schedules) stand in the modules that know them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from torch import nn

from kdhooks.config import DistillationConf
from kdhooks.errors import UsageError, shown
from kdhooks.names import did_you_mean
from kdhooks.training.loss import KD_LOSS
from kdhooks.training.optimizing import LINEAR, OPTIMIZERS, SCHEDULERS

RESERVED = ("epoch", "learning_rate", "train_final_loss")
"""What is logged under names of its own, besides the components."""


@dataclass(frozen=True)
class Arguments:
    """The arguments as given, in one place; see `KnowledgeDistillationTraining` for what each means."""

    teacher_model: Any
    student_model: Any
    train_data_loader: Any
    val_data_loaders: Any
    inference_pipeline: Any
    num_gpu_used: int
    max_epoch: int
    optimize_method: str
    scheduler_method: str
    learning_rate: float
    num_lr_warm_up_epoch: int
    final_loss_coeff_dict: Mapping[str, float]
    log_to_comet: bool
    comet_info_path: str | Path
    comet_exp_name: str
    temperature: float
    seed: int | None
    track_grad_norm: float | str
    accumulate_grad_batches: int
    accelerator: str | None
    num_nodes: int
    precision: int | str
    deterministic: bool
    resume_from_checkpoint: str | Path | None
    logging_param: Any
    higher_is_better: bool
    student_loss: Any
    input_columns: Sequence[int] | Sequence[str]
    distillation: str | Path | Mapping[str, Any] | DistillationConf | None
    workspace: str | Path | None
    num_processes: int
    log_every_n_steps: int
    loggers: Sequence[Any]
    progress_bar: bool

    def check(self) -> None:
        """Raise a UsageError that says all that is wrong."""
        problems = [*_problems(self)]
        if problems:
            raise UsageError("\n".join(problems))

    def described(self) -> dict[str, Any]:
        """All of them as plain data, for the record of a run: of an object the name of its class."""
        return {one.name: _described(getattr(self, one.name)) for one in fields(self)}

    @property
    def loaders(self) -> dict[str, Any]:
        """The validation loaders by name, in their order."""
        return dict(_pairs(self.val_data_loaders) or ())

    @property
    def norm_order(self) -> float | None:
        """The order of the gradient's norm that is logged, or None."""
        order = float(self.track_grad_norm)
        return None if order == -1 else order


def _described(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (Integral, Real)):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _described(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(one) for one in value]
    return getattr(value, "__qualname__", None) or type(value).__name__


def _problems(given: Arguments) -> Iterator[str]:
    yield from _models(given)
    yield from _data(given)
    for name in ("max_epoch", "accumulate_grad_batches", "num_nodes", "num_processes", "log_every_n_steps"):
        yield from _whole(name, getattr(given, name), 1)
    yield from _whole("num_lr_warm_up_epoch", given.num_lr_warm_up_epoch, 0)
    yield from _named("optimize_method", given.optimize_method, OPTIMIZERS)
    yield from _named("scheduler_method", given.scheduler_method, SCHEDULERS)
    for name in ("learning_rate", "temperature"):
        if not _number(getattr(given, name)) or not 0 < getattr(given, name) < math.inf:
            yield f"{name} must be a number above 0, not {shown(getattr(given, name))}"
    if given.seed is not None and (not _is_whole(given.seed) or not 0 <= given.seed < 2**32):
        yield f"seed must be a whole number from 0 to 4294967295, or None, not {shown(given.seed)}"
    yield from _norm(given.track_grad_norm)
    yield from _coefficients(given.final_loss_coeff_dict)
    if given.logging_param is not None and not isinstance(given.logging_param, Mapping):
        yield f"logging_param must be a mapping of names to values, not {shown(given.logging_param)}"
    if given.student_loss is not None and not callable(given.student_loss):
        yield f"student_loss must be a function of the student's output and the labels, not {shown(given.student_loss)}"
    warm_up, epochs = given.num_lr_warm_up_epoch, given.max_epoch
    if given.scheduler_method == LINEAR and _is_whole(warm_up) and _is_whole(epochs) and warm_up > epochs:
        yield f"num_lr_warm_up_epoch is {warm_up}, and max_epoch only {epochs}: the rate would never be reached"


def _models(given: Arguments) -> Iterator[str]:
    for name, what in (("student_model", "the model that learns"), ("teacher_model", "the model that it learns from")):
        model = getattr(given, name)
        several = name == "teacher_model" and isinstance(model, (list, tuple, Mapping)) and len(model) > 0
        parts = list(model.values() if isinstance(model, Mapping) else model) if several else [model]
        if model is None:
            yield f"{name} is missing: {what}, a torch.nn.Module"
        elif not all(isinstance(part, nn.Module) for part in parts):
            yield f"{name} must be a torch.nn.Module, not {shown(model)}"
    if given.student_model is not None and given.student_model is given.teacher_model:
        yield "student_model and teacher_model are one object: the student would learn from itself"
    if isinstance(given.student_model, nn.Module) and not any(
        p.requires_grad for p in given.student_model.parameters()
    ):
        yield "student_model has no parameter that requires a gradient: there is nothing to train"


def _data(given: Arguments) -> Iterator[str]:
    if given.train_data_loader is None:
        yield "train_data_loader is missing: a torch.utils.data.DataLoader of the training data"
    elif not isinstance(given.train_data_loader, Iterable) or isinstance(given.train_data_loader, Mapping):
        yield f"train_data_loader must be a torch.utils.data.DataLoader, not {shown(given.train_data_loader)}"
    yield from _loaders(given)
    pipeline = given.inference_pipeline
    if given.val_data_loaders and pipeline is None:
        yield "val_data_loaders are given and no inference_pipeline that tests the student on them"
    if pipeline is not None and not callable(getattr(pipeline, "run_inference_pipeline", None)):
        kind = type(pipeline).__name__
        yield f"inference_pipeline, an object of type {kind}, has no method run_inference_pipeline(model, data_loader)"
    elif pipeline is not None and not given.val_data_loaders:
        yield "inference_pipeline is given and no val_data_loaders to test the student on"


def _loaders(given: Arguments) -> Iterator[str]:
    loaders = given.val_data_loaders
    if loaders is None:
        return
    pairs = _pairs(loaders)
    if pairs is None:
        yield f"val_data_loaders must be a dict of loaders by name, not {shown(loaders)}"
        return
    seen: dict[str, Any] = {}
    components = given.final_loss_coeff_dict if isinstance(given.final_loss_coeff_dict, Mapping) else {}
    for name, loader in pairs:
        if not isinstance(name, str) or not name:
            yield f"val_data_loaders: the name of a loader must be a text, not {shown(name)}"
        elif name in seen:
            yield f"val_data_loaders names {name!r} twice: its results could not be told apart"
        elif name in RESERVED or name in components:
            yield f"val_data_loaders: the name {name!r} is that of a value of the training: call the loader otherwise"
        if not isinstance(loader, Iterable):
            yield f"val_data_loaders: {shown(name)} must be a torch.utils.data.DataLoader, not {shown(loader)}"
        twin = next((other for other, one in seen.items() if one is loader and other != name), None)
        if twin is not None:
            yield f"val_data_loaders holds one loader twice, as {twin!r} and as {name!r}"
        seen.setdefault(name, loader)


def _pairs(loaders: Any) -> list[tuple[Any, Any]] | None:
    """Name and loader, from a mapping or from a list of pairs; None for anything else."""
    if isinstance(loaders, Mapping):
        return list(loaders.items())
    if loaders is None:
        return []
    if isinstance(loaders, (list, tuple)) and all(isinstance(one, (list, tuple)) and len(one) == 2 for one in loaders):
        return [(name, loader) for name, loader in loaders]
    return None


def _coefficients(given: Any) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"final_loss_coeff_dict must be a mapping of names to numbers, not {shown(given)}"
        return
    if KD_LOSS not in given:
        yield (
            f"final_loss_coeff_dict has no coefficient for {KD_LOSS!r}, which is always a component: write "
            f"{{{KD_LOSS!r}: 0, ...}} to leave it out"
        )
    for name, value in given.items():
        if not isinstance(name, str) or name in RESERVED or name == "total":
            yield f"final_loss_coeff_dict: {shown(name)} can't be the name of a component"
        if not _number(value) or not math.isfinite(value):
            yield f"final_loss_coeff_dict: the coefficient of {shown(name)} must be a number, not {shown(value)}"
    if given and all(_number(value) and value == 0 for value in given.values()):
        yield "final_loss_coeff_dict has only coefficients of 0: nothing would be learned"


def _norm(given: Any) -> Iterator[str]:
    try:
        order = float(given)
        right = not isinstance(given, bool) and (order > 0 or order == -1)
    except (TypeError, ValueError):
        right = False
    if not right:
        words = "the order of a norm, a number above 0 or 'inf', or -1 for none"
        yield f"track_grad_norm must be {words}, not {shown(given)}"


def _named(argument: str, given: Any, known: Iterable[str]) -> Iterator[str]:
    names = list(known)
    if not isinstance(given, str) or given not in names:
        hint = did_you_mean(given, [name for name in names if name], what="Known") if isinstance(given, str) else ""
        yield f"{argument}: there is no {shown(given)}. {hint}".rstrip()


def _whole(name: str, value: Any, least: int) -> Iterator[str]:
    if not _is_whole(value) or value < least:
        yield f"{name} must be a whole number from {least} on, not {shown(value)}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
