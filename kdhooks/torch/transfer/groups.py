"""Factors of the learning rate as parameter groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kdhooks.torch.wrappers import inside
from kdhooks.transfer import check_patterns, grouped


def by_factor(model: nn.Module, factors: Mapping[str, float]) -> dict[float, list[nn.Parameter]]:
    """The trained parameters by the factor of their learning rate; of two names of one, the first counts.

    Raises:
        TransferError: a pattern fits no parameter.
    """
    root = inside(model)
    named = {name.replace("_orig_mod.", ""): one for name, one in root.named_parameters()}
    check_patterns(factors, named, "lr_factors", type(root).__name__)
    groups = grouped((name for name, one in named.items() if one.requires_grad), factors)
    return {factor: [named[name] for name in names] for factor, names in groups.items()}


def parameter_groups(
    model: nn.Module, factors: Mapping[str, float], *, lr: float, **options: Any
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: one for each factor of the learning rate.

    Make them before `on_train_begin` freezes layers that will be set free later: what has ``requires_grad=False`` is
    left out.

    Args:
        model: the student.
        factors: pattern -> factor, as in ``finetune.lr_factors``; the first pattern that fits counts.
        lr: the learning rate of factor 1.
        options: of all groups, as ``weight_decay``.

    Raises:
        TransferError: a pattern fits no parameter.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        >>> groups = parameter_groups(model, {"0": 0.1}, lr=0.5)
        >>> [(group["lr"], len(group["params"])) for group in groups]
        [(0.05, 2), (0.5, 2)]
    """
    return [{"params": several, "lr": lr * factor, **options} for factor, several in by_factor(model, factors).items()]
