"""Settings of speed that mean something else in TensorFlow than in PyTorch, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from kdhooks.config import DistillationConf
from kdhooks.messages import logger
from kdhooks_tf.replicas import is_distributed, strategy_of
from kdhooks_tf.teacher import layers_of


def check_teacher(conf: DistillationConf, models: Mapping[str, Any], student: Any) -> None:
    """``distillation.teacher`` of a TensorFlow run.

    Raises:
        ConfigError: something that Keras does not have, at its line.
    """
    path, settings = "distillation.teacher", conf.settings.distillation.teacher
    _check(conf, path, settings, models)
    if settings.compile and strategy_of(student).num_replicas_in_sync > 1:
        for role, model in models.items():
            if not is_distributed(model):
                raise conf.problem(
                    f"{path}.compile",
                    f"XLA reads no weights of another device, and the {role} {type(model).__name__} has them on one",
                    "Make it in the scope of the student's strategy, or leave compile out.",
                )
    if settings.precision != "auto":
        return
    if settings.ema is not None:
        raise conf.problem(
            f"{path}.precision",
            "auto is for a teacher that stays as it is, and with ema it is an average of the student",
            "Write fp32, bf16 or fp16.",
        )
    if isinstance(strategy_of(student), tf.distribute.MultiWorkerMirroredStrategy):
        raise conf.problem(
            f"{path}.precision",
            "auto is chosen by timing, and several workers of TensorFlow could choose differently",
            "Write fp32, bf16 or fp16.",
        )


def check_train(conf: DistillationConf, student: Any) -> None:
    """``distillation.train`` of the built-in loop.

    Raises:
        ConfigError: something that Keras does not have, at its line.
    """
    path, settings = "distillation.train", conf.settings.distillation.train
    _check(conf, path, settings, {"student": student})
    if settings.precision == "auto":
        raise conf.problem(
            f"{path}.precision", "auto is for PyTorch, and this is a TensorFlow model", "Write fp32, bf16 or fp16."
        )


def _check(conf: DistillationConf, path: str, settings: Any, models: Mapping[str, Any]) -> None:
    if settings.ipex is True:
        raise conf.problem(
            f"{path}.ipex",
            "Intel's extension is for PyTorch, and this is a TensorFlow model",
            "Leave it out: TensorFlow has oneDNN inside of it.",
        )
    if settings.channels_last is not True:
        return
    for role, model in models.items():
        first = next((layer for layer in layers_of(model) if _data_format(layer) == "channels_first"), None)
        if first is not None:
            raise conf.problem(
                f"{path}.channels_last",
                f"the {role} {type(model).__name__} has layers of data_format='channels_first', {first.name!r} the "
                "first of them, and Keras lays out no model anew",
                "Make the model with data_format='channels_last'.",
            )
    logger.info("%s.channels_last changes nothing in TensorFlow: maps lie as [N, H, W, C] there already", path)


def _data_format(layer: Any) -> str | None:
    return getattr(layer, "data_format", None)
