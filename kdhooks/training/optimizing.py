"""Optimizers and learning rates by the names of the Knowledge-Distillation-Toolkit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, LRScheduler

OPTIMIZERS: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "sgd": (torch.optim.SGD, {}),
    "adam_wav2vec2.0": (torch.optim.Adam, {"betas": (0.9, 0.98), "eps": 1e-6}),
    "adam_distilBert": (torch.optim.Adam, {"eps": 1e-6}),
    "adamW_distilBert": (torch.optim.AdamW, {"betas": (0.9, 0.98), "eps": 1e-6}),
}
"""Class and options by the value of ``optimize_method``."""

LINEAR, COSINE = "linear_decay_with_warm_up", "cosine_anneal"
SCHEDULERS = ("", LINEAR, COSINE)
"""The values of ``scheduler_method``."""

RESTART, LOWEST = 9, 1e-6
"""Of ``cosine_anneal``: the epochs from one restart to the next, and the rate it goes down to."""


def build_optimizer(name: str, parameters: Iterable[nn.Parameter], learning_rate: float) -> Optimizer:
    """The optimizer of a name, over the parameters that require a gradient."""
    kind, options = OPTIMIZERS[name]
    make: Callable[..., Optimizer] = kind
    return make([one for one in parameters if one.requires_grad], lr=learning_rate, **options)


def build_scheduler(name: str, optimizer: Optimizer, *, epochs: int, warm_up: int) -> LRScheduler | None:
    """The learning rate's schedule of a name, one step an epoch; None for a rate that stays."""
    if name == LINEAR:
        return LambdaLR(optimizer, lambda epoch: linear_factor(epoch, epochs=epochs, warm_up=warm_up))
    if name == COSINE:
        return CosineAnnealingWarmRestarts(optimizer, T_0=RESTART, eta_min=LOWEST)
    return None


def linear_factor(epoch: int, *, epochs: int, warm_up: int) -> float:
    """The learning rate of an epoch as a share of the full one: up to 1 in the warm-up's last epoch, then down to 0.

    Args:
        epoch: counted from 0; the first one of a warm-up has 1 / `warm_up`, so that no epoch has a rate of 0.
        epochs: of the run; 0 is reached behind its last one.
        warm_up: the epochs of the warm-up.

    >>> [linear_factor(epoch, epochs=6, warm_up=2) for epoch in range(7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if epoch < warm_up:
        return (epoch + 1) / warm_up
    return max(0.0, (epochs - epoch) / max(1, epochs - warm_up))
