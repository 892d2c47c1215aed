"""What the built-in loop needs, from what the user set or the configuration names; training begins here.

Rules: what the user set is used as it is. What we made for an earlier `fit()` is made anew, so that a second run
does not begin with the momentum, or with the variables, of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import keras
import tensorflow as tf

from kdhooks.config import DistillationConf
from kdhooks.domains.cycle import TargetBatches
from kdhooks.errors import ModelError, UsageError
from kdhooks.loop.parts import located, looks_inside, resumed
from kdhooks.loop.rates import RateSchedule, run_lengths
from kdhooks_tf.checkpoint import NAME
from kdhooks_tf.data import build_dataloader
from kdhooks_tf.domains.data import target_batches
from kdhooks_tf.evaluation import score_is_higher_better
from kdhooks_tf.optimizers import build_optimizer, build_rate_schedule
from kdhooks_tf.placement import check_student, data_seed, seed_generators
from kdhooks_tf.postprocess import build_postprocess
from kdhooks_tf.student_loss import build_student_loss
from kdhooks_tf.training_data import TrainingData

_OURS: WeakSet[Any] = WeakSet()
"""Optimizers and loaders that were made here; all others are the users'."""


@dataclass(frozen=True)
class Parts:
    """What a loop is made of.

    Attributes:
        traced: whether a step is a ``tf.function``.
        student_loss: (output, target, mask, sample_weight) -> scalar.
        optimizer: of the student's variables.
        rate: the learning rate's schedule.
        data: the batches.
        inputs, input_columns: how a batch is split.
        checkpoint: the file that is written.
        resume: the file that is continued, or None.
        target: the target domain's batches, or None.
    """

    traced: bool
    student_loss: Callable[..., Any]
    optimizer: Any
    rate: RateSchedule
    data: TrainingData
    inputs: tuple[str, ...]
    input_columns: Any
    checkpoint: Path
    resume: Path | None
    target: TargetBatches | None = None


def prepare(distiller: Any) -> Parts:
    """Seed, make what is not set, and begin training on the distiller.

    Raises:
        UsageError, ConfigError, DataError, ModelError: something is missing or doesn't fit.
    """
    conf, student = distiller.conf, distiller.student_model
    train, tuning = conf.settings.distillation.train, conf.settings.tuning
    check_student(student)
    if tuning.random_seed is not None:
        seed_generators(tuning.random_seed)
    data = TrainingData(_loader(distiller), distiller.backend, train.iteration)
    postprocess = located(conf, "distillation.train.postprocess", lambda: build_postprocess(train.postprocess))
    optimizer = _optimizer(distiller)
    distiller.on_train_begin(optimizer=optimizer)
    first = distiller.summed_criteria()[0]
    loader = train.dataloader
    from_logits = getattr(first, "from_logits", True)
    student_loss: Any = build_student_loss(conf, first.student_label, postprocess, from_logits=from_logits)
    return Parts(
        traced=is_traced(conf, student),
        student_loss=_no_loss if looks_inside(distiller) else student_loss,
        optimizer=optimizer,
        rate=_rate(distiller, optimizer, data),
        data=data,
        inputs=conf.settings.model.inputs,
        input_columns=() if loader is None else loader.input_columns,
        checkpoint=conf.workspace / NAME,
        resume=resumed(conf.workspace, tuning.resume, NAME),
        target=target_batches(distiller),
    )


def _no_loss(*_: Any) -> Any:
    """The loop's own loss where it has weight 0; a graph then leaves out what only the student's output needs."""
    return tf.zeros(())


def is_traced(conf: DistillationConf, student: Any) -> bool:
    """Whether steps run in a graph: unless the file says ``execution_mode: eager``, or Keras or TensorFlow say so."""
    train = conf.to_dict().get("distillation", {}).get("train", {})
    eager = train.get("execution_mode") == "eager"
    return not (eager or student.run_eagerly or tf.config.functions_run_eagerly())


def _is_ours(part: Any) -> bool:
    return any(part is made for made in _OURS)  # by identity: a user's loader may have no hash


def _loader(distiller: Any) -> Any:
    loader, conf = distiller.train_dataloader, distiller.conf
    settings = conf.settings.distillation.train.dataloader
    if loader is not None and not _is_ours(loader):
        return loader
    if settings is None:
        raise UsageError(
            "there is nothing to train on: set distiller.train_dataloader, or name a dataset in "
            "distillation.train.dataloader"
        )
    loader = training_loader(conf)
    _OURS.add(loader)
    distiller.train_dataloader = loader
    return loader


def training_loader(conf: DistillationConf) -> Any:
    """The loader that ``distillation.train.dataloader`` describes.

    Raises:
        ConfigError, DataError: it can't be made.
    """
    settings: Any = conf.settings.distillation.train.dataloader
    path = "distillation.train.dataloader"
    return located(conf, path, lambda: build_dataloader(settings, seed=data_seed(conf), train=True))


def _optimizer(distiller: Any) -> Any:
    optimizer, student = distiller.optimizer, distiller.student_model
    if optimizer is None or _is_ours(optimizer):
        optimizer = build_optimizer(distiller.conf, student.trainable_variables)
        _OURS.add(optimizer)
        return optimizer
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise UsageError(f"distiller.optimizer must be an optimizer of Keras, not {type(optimizer).__name__}")
    if not optimizer.built:
        optimizer.build(student.trainable_variables)
    try:
        optimizer._check_variables_are_known(student.trainable_variables)
    except ValueError:
        raise ModelError(
            "distiller.optimizer was built for other variables than the student's: make a new one"
        ) from None
    except AttributeError:  # its place is Keras's own affair; applying the gradient says so as well
        pass
    return optimizer


def _rate(distiller: Any, optimizer: Any, data: TrainingData) -> RateSchedule:
    lengths = run_lengths(distiller.conf.settings.distillation.train, data.length())
    higher = score_is_higher_better(distiller)
    return build_rate_schedule(distiller.conf, optimizer, higher_is_better=higher, **lengths)
