"""What the built-in loop needs, from what the user set or the configuration names; training begins here.

Rules: what the user set is used as it is. What we made for an earlier `fit()` is made anew, so that a second run
does not begin with the momentum, or with the parameters, of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from kdhooks.config import DistillationConf
from kdhooks.domains import adapts
from kdhooks.domains.cycle import TargetBatches
from kdhooks.errors import ModelError, UsageError
from kdhooks.loop.parts import located, looks_inside, resumed
from kdhooks.loop.rates import RateSchedule, run_lengths
from kdhooks.speed import Choice
from kdhooks.torch.backend import unwrap
from kdhooks.torch.checkpoint import NAME
from kdhooks.torch.data import build_dataloader
from kdhooks.torch.domains.data import target_loader
from kdhooks.torch.evaluation import score_is_higher_better
from kdhooks.torch.fused_optimizers import left_to_us
from kdhooks.torch.optimizers import build_optimizer, build_rate_schedule
from kdhooks.torch.placement import data_seed, place, seed_generators, training_device
from kdhooks.torch.postprocess import build_postprocess
from kdhooks.torch.ranks import Ranks
from kdhooks.torch.sharding import is_sharded
from kdhooks.torch.student_choice import choose, in_force
from kdhooks.torch.student_ending import ended_early, no_loss
from kdhooks.torch.student_loss import StudentLoss, build_student_loss
from kdhooks.torch.student_shards import refuse_optimizer, student_in_shards
from kdhooks.torch.training_data import TrainingData

_OURS: WeakSet[Any] = WeakSet()
"""Optimizers and loaders that were made here; all others are the users'."""


@dataclass(frozen=True)
class Parts:
    """What a loop is made of.

    Attributes:
        device: where it trains.
        speed: the precision and memory format in which the student is trained.
        forward: calls the student: itself, compiled, or inside of DistributedDataParallel.
        student_loss: (output, target, mask) -> scalar.
        optimizer: of the student's parameters.
        rate: the learning rate's schedule.
        data: the batches.
        inputs, input_columns: how a batch is split.
        checkpoint: the file that is written.
        resume: the file that is continued, or None.
        target: the target domain's batches, or None.
        joint: whether both domains go through the student in one batch.
    """

    device: torch.device
    speed: Choice
    forward: Callable[..., Any]
    student_loss: StudentLoss
    optimizer: torch.optim.Optimizer
    rate: RateSchedule
    data: TrainingData
    inputs: tuple[str, ...]
    input_columns: Any
    checkpoint: Path
    resume: Path | None
    target: TargetBatches | None = None
    joint: bool = False


def prepare(distiller: Any, ranks: Ranks, undo: ExitStack) -> Parts:
    """Seed, place the models, make what is not set, and begin training on the distiller.

    Args:
        distiller: the `Distillation`.
        ranks: the processes that train together.
        undo: puts the student's memory format back when the loop is over.

    Raises:
        UsageError, ConfigError, DataError, ModelError: something is missing or doesn't fit.
    """
    conf = distiller.conf
    train, tuning = conf.settings.distillation.train, conf.settings.tuning
    if tuning.random_seed is not None:
        seed_generators(tuning.random_seed + ranks.rank)
    device = training_device(conf, distiller.student_model)
    if ranks.size > 1 and device.type == "cuda":
        torch.cuda.set_device(device)
    student = _placed(distiller, ranks, device, undo)
    data = TrainingData(_loader(distiller, ranks), distiller.backend, train.iteration)
    postprocess = located(conf, "distillation.train.postprocess", lambda: build_postprocess(train.postprocess))
    optimizer = _optimizer(distiller, device)
    resume = resumed(conf.workspace, tuning.resume, NAME)
    speed = distiller.student_choice if distiller.ends_early else None  # of an earlier stage
    if speed is None:
        speed = choose(distiller, data.loader, optimizer, device=device, ranks=ranks, resume=resume)
        distiller.student_choice = speed
    undo.enter_context(in_force(student, speed, optimizer))
    distiller.on_train_begin(optimizer=optimizer)
    first = distiller.summed_criteria()[0]
    loader = train.dataloader
    forward = _forward(student, device, ranks, compiled=speed.compile)
    student_loss: Any = build_student_loss(conf, first.student_label, postprocess)
    if looks_inside(distiller):
        student_loss = partial(no_loss, device)
        if forward is student and not speed.ipex:  # neither compiled nor inside of a wrapper of ours
            forward = undo.enter_context(ended_early(distiller.student_model, first.student_looks()))
    return Parts(
        device=device,
        speed=speed,
        forward=forward,
        student_loss=student_loss,
        optimizer=optimizer,
        rate=_rate(distiller, optimizer, data),
        data=data,
        inputs=conf.settings.model.inputs,
        input_columns=() if loader is None else loader.input_columns,
        checkpoint=conf.workspace / NAME,
        resume=resume,
        **_target(distiller, ranks),
    )


def _placed(distiller: Any, ranks: Ranks, device: torch.device, undo: ExitStack) -> nn.Module:
    """The student that is trained, where it is trained; a copy that the ranks share out where that is asked for."""
    student: nn.Module = distiller.student_model
    train, teacher = distiller.conf.settings.distillation.train, distiller.conf.settings.distillation.teacher
    teachers = _teachers(distiller.teacher_model)
    in_shards = ranks.shards and not is_sharded(unwrap(student))
    place(student, [] if teacher.sharded else teachers, device, student_stays=in_shards)
    if ranks.shards and train.optimizer.name.lower() == "lbfgs":
        raise distiller.conf.problem(
            train.optimizer.path,
            "LBFGS views all weights as one vector, and strategy: fsdp2 shares them out",
            of_key=True,
        )
    if not in_shards:
        return student
    if distiller.optimizer is not None and not _is_ours(distiller.optimizer):
        raise refuse_optimizer()
    twin = undo.enter_context(student_in_shards(distiller, teachers, device))
    undo.callback(setattr, distiller, "optimizer", None)  # it holds shards of the copy
    return twin


def _target(distiller: Any, ranks: Ranks) -> dict[str, Any]:
    """The target domain's batches, where the run adapts to one."""
    criteria = distiller.summed_criteria()
    adapting = next(filter(adapts, criteria), None)
    if adapting is None:
        return {}
    loader = target_loader(distiller, evaluation=False, trains=True, rank=ranks.rank, world_size=ranks.size)
    if loader is None:
        raise UsageError(
            "there is no target domain to adapt to: set distiller.target_dataloader, or name a dataset in "
            "domain_adaptation.dataloader"
        )
    settings, conf = adapting.settings, distiller.conf.settings
    columns = () if settings.dataloader is None else settings.dataloader.input_columns
    data = TrainingData(loader, distiller.backend)
    batches = TargetBatches(data, inputs=conf.model.inputs, input_columns=columns, labels=settings.target_labels)
    others = any(hasattr(one, "bind") and not adapts(one) for one in criteria)  # look at the source's rows alone
    return {"target": batches, "joint": settings.joint_forward and not others}


def _teachers(models: Any) -> list[nn.Module]:
    if models is None:
        return []
    if isinstance(models, Mapping):
        return list(models.values())
    return list(models) if isinstance(models, (list, tuple)) else [models]


def _is_ours(part: Any) -> bool:
    return any(part is made for made in _OURS)  # by identity: a user's loader may have no hash


def _loader(distiller: Any, ranks: Ranks) -> Any:
    loader, conf = distiller.train_dataloader, distiller.conf
    settings = conf.settings.distillation.train.dataloader
    if loader is not None and not _is_ours(loader):
        return loader
    if settings is None:
        raise UsageError(
            "there is nothing to train on: set distiller.train_dataloader, or name a dataset in "
            "distillation.train.dataloader"
        )
    loader = training_loader(conf, ranks.rank, ranks.size, shares=ranks.size > 1)
    _OURS.add(loader)
    distiller.train_dataloader = loader
    return loader


def training_loader(conf: DistillationConf, rank: int = 0, world_size: int = 1, *, shares: bool = False) -> Any:
    """The loader that ``distillation.train.dataloader`` describes.

    Args:
        conf: the configuration.
        rank: of this process.
        world_size: how many there are.
        shares: whether each rank sees its own share, whatever ``distributed`` says.

    Raises:
        ConfigError, DataError: it can't be made.
    """
    settings: Any = conf.settings.distillation.train.dataloader
    settings = replace(settings, distributed=True) if shares else settings
    return located(
        conf,
        "distillation.train.dataloader",
        lambda: build_dataloader(settings, seed=data_seed(conf), train=True, rank=rank, world_size=world_size),
    )


def _by_factor(distiller: Any) -> dict[float, list[nn.Parameter]] | None:
    finetune = distiller.conf.settings.finetune
    if finetune is None or not finetune.lr_factors:
        return None
    from kdhooks.torch.transfer.groups import by_factor
    from kdhooks.transfer import located as transfer_located

    with transfer_located(distiller.conf):
        return by_factor(distiller.student_model, finetune.lr_factors)


def _optimizer(distiller: Any, device: torch.device) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer | None = distiller.optimizer
    student = unwrap(distiller.student_model)
    if optimizer is None or _is_ours(optimizer):
        fused = left_to_us(distiller.conf.settings.distillation.train, student, device)
        optimizer = build_optimizer(distiller.conf, student.parameters(), _by_factor(distiller), fused=fused)
        _OURS.add(optimizer)
        return optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(f"distiller.optimizer must be an optimizer of torch, not {type(optimizer).__name__}")
    own = {id(parameter) for parameter in student.parameters()}
    if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise ModelError("distiller.optimizer holds no parameter of the student: make it from student.parameters()")
    if optimizer.state:  # casts what the user's earlier steps left to where the parameters are now
        optimizer.load_state_dict(optimizer.state_dict())
    return optimizer


def _rate(distiller: Any, optimizer: torch.optim.Optimizer, data: TrainingData) -> RateSchedule:
    lengths = run_lengths(distiller.conf.settings.distillation.train, data.length())
    higher = score_is_higher_better(distiller)
    return build_rate_schedule(distiller.conf, optimizer, higher_is_better=higher, **lengths)


def _forward(student: nn.Module, device: torch.device, ranks: Ranks, *, compiled: bool) -> Callable[..., Any]:
    model = ranks.wrap(student, device)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs)

    # a function, because compiling a module leaves an attribute on it
    return torch.compile(forward) if compiled else model
