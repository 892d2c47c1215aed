"""What ``TrainingArguments`` of transformers mean in the section ``train`` of a configuration.

Rules: any object with their attributes will do, so transformers is not imported. What has no counterpart is said,
and never dropped in silence. The configuration comes first: these fill in what it is silent about.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.errors import UsageError
from kdhooks.messages import logger
from kdhooks.names import did_you_mean

TRAIN = "auto_distillation.train"

_OPTIMIZERS = {
    "adamw_torch": "AdamW",
    "adamw_torch_fused": "AdamW",
    "adamw_hf": "AdamW",
    "adafactor": "Adafactor",
    "adagrad": "Adagrad",
    "rmsprop": "RMSprop",
    "sgd": "SGD",
}
_SCHEDULERS = {
    "linear": "Linear",
    "cosine": "CosineAnnealing",
    "polynomial": "Polynomial",
    "constant": "Constant",
    "constant_with_warmup": "Constant",
}
_SAID_BY_ARGS = ("optimizer", "scheduler", "epoch", "end_epoch", "steps")
_NOT_USED = ("label_smoothing_factor", "neftune_noise_alpha", "deepspeed", "fsdp", "gradient_checkpointing")


@dataclass(frozen=True)
class DefaultArguments:
    """What holds where a `kdhooks.search.Trainer` has no ``args``: a small student is trained from random weights.

    Attributes have the names that ``TrainingArguments`` of transformers have.
    """

    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 32
    num_train_epochs: float = 3.0
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    optim: str = "adamw_torch"
    lr_scheduler_type: str = "linear"
    seed: int = 42


def fill_in(conf: DistillationConf, args: Any, batches: int | None, *, seed: int) -> None:
    """Put into a configuration what it is silent about and the arguments say.

    Args:
        conf: is changed; ``distillation.train`` is filled in where it, and no ``auto_distillation.train``, is there.
        args: ``TrainingArguments``, or an object with some of their attributes.
        batches: of an epoch, where that is known.
        seed: of the search.

    Raises:
        UsageError: an optimizer or a scheduler that has no counterpart, and the configuration names none.
    """
    base = "distillation.train" if conf.has("distillation.train") and not conf.has(TRAIN) else TRAIN
    silent = {name: not conf.has(f"{base}.{name}") for name in _SAID_BY_ARGS}
    found: dict[str, Any] = {}
    if silent["optimizer"]:
        found["optimizer"] = optimizer(args)
    if silent["scheduler"]:
        found["scheduler"] = scheduler(args, batches)
    if all(silent[name] for name in ("epoch", "end_epoch", "steps")):
        found |= length(args, batches)
    found |= _others(args)
    for name, value in found.items():
        if value is not None and not conf.has(f"{base}.{name}"):
            conf[f"{base}.{name}"] = value
    for path, value in {"auto_distillation.search.seed": seed, **_elsewhere(args)}.items():
        if value is not None and not conf.has(path):
            conf[path] = value
    unused = [name for name in _NOT_USED if getattr(args, name, None)]
    if unused:
        logger.warning("the built-in training of candidates does not use args.%s", ", args.".join(unused))


def optimizer(args: Any) -> dict[str, Any]:
    """``train.optimizer``. Weight decay acts on all parameters alike, also on biases and normalisations."""
    asked = _word(args, "optim", "adamw_torch")
    name = _counterpart("optim", asked, _OPTIMIZERS, "optimizer")
    options: dict[str, Any] = {"learning_rate": float(getattr(args, "learning_rate", 5e-5))}
    if getattr(args, "weight_decay", 0.0):
        options["weight_decay"] = float(args.weight_decay)
    if name == "AdamW" and hasattr(args, "adam_beta1"):
        options |= {"betas": [float(args.adam_beta1), float(args.adam_beta2)], "eps": float(args.adam_epsilon)}
    return {name: options}


def scheduler(args: Any, batches: int | None) -> dict[str, Any] | None:
    """``train.scheduler``; None keeps the learning rate."""
    asked = _word(args, "lr_scheduler_type", "linear")
    name = _counterpart("lr_scheduler_type", asked, _SCHEDULERS, "scheduler")
    options = dict(getattr(args, "lr_scheduler_kwargs", None) or {})
    warmup = None if asked == "constant" else _warmup(args, batches)
    if warmup:
        options["warmup_steps"] = warmup
    return None if name == "Constant" and not options else {name: options}


def length(args: Any, batches: int | None) -> dict[str, Any]:
    """``train.end_epoch``, or ``steps`` where the arguments ask for steps or for a part of an epoch."""
    steps, epochs = _steps(args, batches), float(getattr(args, "num_train_epochs", 3.0))
    if steps is not None and (int(getattr(args, "max_steps", -1)) > 0 or not epochs.is_integer()):
        return {"steps": max(1, steps)}
    return {"end_epoch": max(1, math.ceil(epochs))}


def _others(args: Any) -> dict[str, Any]:
    precision = "bf16" if getattr(args, "bf16", False) else "fp16" if getattr(args, "fp16", False) else None
    accumulated = int(getattr(args, "gradient_accumulation_steps", 1))
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return {
        "dataloader": {"distributed": True} if several else None,  # the launcher's processes train one student
        "gradient_accumulation": accumulated if accumulated > 1 else None,
        "gradient_clipping": getattr(args, "max_grad_norm", None) or None,
        "precision": precision,
    }


def _elsewhere(args: Any) -> dict[str, Any]:
    """What stands in other sections: the device, the run's folder."""
    return {
        "device": "cpu" if getattr(args, "use_cpu", False) else None,
        "tuning.workspace.path": getattr(args, "output_dir", None),
    }


def _steps(args: Any, batches: int | None) -> int | None:
    """Batches of the whole training, or None where that can't be known."""
    accumulated = int(getattr(args, "gradient_accumulation_steps", 1))
    most = int(getattr(args, "max_steps", -1))
    if most > 0:
        return most * accumulated
    return None if batches is None else math.ceil(batches * float(getattr(args, "num_train_epochs", 3.0)))


def _warmup(args: Any, batches: int | None) -> int:
    """Optimizer steps of warm-up; below 1 it is a share of the training."""
    asked = float(getattr(args, "warmup_steps", 0) or 0) or float(getattr(args, "warmup_ratio", 0) or 0)
    if asked >= 1 or not asked:
        return int(asked)
    steps = _steps(args, batches)
    return 0 if steps is None else math.ceil(asked * steps / int(getattr(args, "gradient_accumulation_steps", 1)))


def _word(args: Any, name: str, default: str) -> str:
    value = getattr(args, name, default)
    return str(getattr(value, "value", value))


def _counterpart(name: str, asked: str, table: Mapping[str, str], key: str) -> str:
    if asked not in table:
        raise UsageError(
            f"args.{name} is {asked!r}, which has no counterpart in the built-in training of candidates: name one in "
            f"auto_distillation.train.{key}. {did_you_mean(asked, table, what='Those of args that have')}"
        )
    return table[asked]
