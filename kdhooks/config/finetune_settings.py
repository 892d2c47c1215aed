"""The settings of ``finetune``: frozen, with every default filled in; see `kdhooks.config.model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Mismatch = Literal["skip", "error", "slice", "repeat", "interpolate", "linear", "grid"]
"""What happens to a tensor of another shape."""

Scheduled = float | Mapping[str, Any] | Callable[[int], float]
"""A number, a schedule as the YAML writes it, or a function of the step."""


@dataclass(frozen=True)
class StartingPointSettings:
    """``finetune.l2_sp``: weights stay near those that they began from (Li, Grandvalet & Davoine 2018).

    Attributes:
        weight: alpha, of half the squared distance to the starting point.
        new_weight: beta, of half the squared norm of what was not transferred.
    """

    weight: Scheduled = 0.01
    new_weight: Scheduled = 0.01


@dataclass(frozen=True)
class BehaviourSettings:
    """``finetune.delta``: features stay near those of the starting point (Li et al. 2019).

    Attributes:
        layers: whose outputs are compared.
        weight: alpha, of the distance between feature maps.
        new_weight: beta, of half the squared norm of what was not transferred.
        channel_weights: by layer, one number a channel; all alike where there are none.
    """

    layers: tuple[str, ...] = ()
    weight: Scheduled = 0.01
    new_weight: Scheduled = 0.01
    channel_weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class FinetuneSettings:
    """``finetune``: the student begins with weights of another model.

    A pattern is a name with ``*``, ``?`` and ``[...]``, and means all that is below it; see `kdhooks.names.pattern_of`.

    Attributes:
        pretrained: a file of weights; None where the program sets ``pretrained_model``, or nothing is transferred.
        rename: regular expressions and what takes the place of what they find in the source's names, in order; None
            leaves the tensor out.
        prefixes: ``auto`` finds what stands before the names of one side only; ``none`` looks for nothing; or a list
            of prefixes as in ``module.``.
        by_order: whether what has found nothing by its name is matched by order and shape.
        exclude: patterns of the student's tensors that keep their own values.
        on_mismatch: what happens to tensors of another shape: one for all, or by pattern, of which the first that
            fits counts (``skip`` where none does).
        class_map: by pattern, which of the source's classes a class of the student begins from; several are averaged.
        freeze: patterns of what is not trained.
        freeze_batch_norm: whether every BatchNorm is frozen; None freezes those in frozen layers, and False lets
            their statistics move.
        unfreeze: epoch -> patterns of what is trained from then on; before, it is frozen.
        lr_factors: pattern -> factor of the learning rate; the first pattern that fits counts.
        l2_sp, delta: regularisers; None has none.
    """

    pretrained: str | None = None
    rename: Mapping[str, str | None] = field(default_factory=dict)
    prefixes: Literal["auto", "none"] | tuple[str, ...] = "auto"
    by_order: bool = False
    exclude: tuple[str, ...] = ()
    on_mismatch: Mismatch | Mapping[str, Mismatch] = "skip"
    class_map: Mapping[str, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    freeze_batch_norm: bool | None = None
    unfreeze: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    l2_sp: StartingPointSettings | None = None
    delta: BehaviourSettings | None = None
