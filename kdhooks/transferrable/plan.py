"""What a `TransferrableModel` was made of: the parts and their weights, checked together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from kdhooks.config.model import Schedulable
from kdhooks.errors import UsageError
from kdhooks.schedules import parse_schedule
from kdhooks.torch.transfer import BasicFinetunner
from kdhooks.transferrable.distillers import BasicDistiller
from kdhooks.transferrable.strategy import TransferStrategy

Loss = Callable[[Any, Any], Tensor]
"""(output of the backbone, label) -> scalar."""


@dataclass(frozen=True)
class Plan:
    """The parts of a transfer, and what each of them weighs.

    Attributes:
        strategy: which of the parts work together, the others are put aside; None lets all work that are there.
        finetunner: brings pretrained weights; has ``finetune_network(model)``.
        distiller: brings the teacher.
        adapter: brings the terms of domain adaptation.
        enable_target_training_label: whether labels of the target domain are used where there is one, and otherwise
            whether those are that the student is trained with; None is False with a target domain, else True.
        backbone_loss_weight: of the user's own loss.
        distiller_loss_weight: of the distiller's.
        adapter_loss_weight: of the adapter's.

    Raises:
        UsageError: a part that the strategy needs is missing, or nothing would be trained.
    """

    strategy: TransferStrategy | None = None
    finetunner: BasicFinetunner | None = None
    distiller: BasicDistiller | None = None
    adapter: Any = None
    enable_target_training_label: bool | None = None
    backbone_loss_weight: Schedulable = 1.0
    distiller_loss_weight: Schedulable = 1.0
    adapter_loss_weight: Schedulable = 1.0

    def __post_init__(self) -> None:
        strategy = self.strategy
        if strategy is not None:
            self._take(strategy)
        if self.finetunner is None and self.distiller is None and self.adapter is None:
            raise UsageError("there is nothing to transfer: give a finetunner, a distiller or an adapter")
        self._check_kinds()
        labels = self.enable_target_training_label
        object.__setattr__(self, "enable_target_training_label", self.adapter is None if labels is None else labels)
        if not self.uses_labels and self.distiller is None:
            raise UsageError(f"{self.name} learns from labels only: leave enable_target_training_label at True")
        weights = {"backbone_loss_weight": self.student_weight}
        weights |= {"distiller_loss_weight": self.distiller_loss_weight} if self.distiller is not None else {}
        weights |= {"adapter_loss_weight": self.adapter_loss_weight} if self.adapter is not None else {}
        for name, weight in weights.items():
            _check_weight(name, weight)
        if all(_is_zero(weight) for weight in weights.values()):
            raise UsageError(f"{self.name}: all weights are 0, so nothing would be trained")

    def _take(self, strategy: TransferStrategy) -> None:
        """Put aside what the strategy does not use; UsageError for what it lacks."""
        if not isinstance(strategy, TransferStrategy):
            raise UsageError(
                f"transfer_strategy must be a TransferStrategy, not {strategy!r}; what stands behind it is best given "
                "by name, as in enable_target_training_label=False, backbone_loss_weight=1.0, adapter_loss_weight=1.0"
            )
        parts = (
            ("finetunner", strategy.finetunes, "a BasicFinetunner"),
            ("distiller", strategy.distills, "a BasicDistiller, KD or DKD"),
            ("adapter", strategy.adapts, "by its name, as in {'DANN': {'layer': 'avgpool'}}"),
        )
        for word, used, example in parts:
            if used and getattr(self, word) is None:
                raise UsageError(f"{strategy.name} needs {_a(word)}: {example}")
            if not used:
                object.__setattr__(self, word, None)

    def _check_kinds(self) -> None:
        finetunner, distiller = self.finetunner, self.distiller
        if finetunner is not None and not isinstance(finetunner, BasicFinetunner):
            raise UsageError(f"the finetunner must be a BasicFinetunner, not {_kind(finetunner)}")
        later = ("unfreeze", "lr_factors", "l2_sp", "delta")
        asked = [] if finetunner is None else [name for name in later if getattr(finetunner.settings, name)]
        if asked:
            raise UsageError(
                f"BasicFinetunner({asked[0]}=...) acts during a run: write it in the section finetune of a Distillation"
            )
        if distiller is not None and not isinstance(distiller, BasicDistiller):
            raise UsageError(
                f"the distiller must be a BasicDistiller, KD or DKD, not {_kind(distiller)}: KD(teacher) makes one"
            )

    @property
    def name(self) -> str:
        """The strategy, or what works together where the five have no name for it."""
        parts = {"Finetune": self.finetunner, "Distillation": self.distiller, "DomainAdaption": self.adapter}
        found = [word for word, part in parts.items() if part is not None]
        return ("Only" if len(found) == 1 else "") + "And".join(found) + "Strategy"

    @property
    def named_strategy(self) -> TransferStrategy | None:
        """That of the five which the parts make; None where they make none of them."""
        return TransferStrategy.__members__.get(self.name)

    @property
    def uses_labels(self) -> bool:
        """Whether the user's own loss is computed; the source of a target domain always has labels."""
        return bool(self.enable_target_training_label) or self.adapter is not None

    @property
    def student_weight(self) -> Schedulable:
        """Of the user's own loss; 0 where no labels are used."""
        return self.backbone_loss_weight if self.uses_labels else 0.0


def _check_weight(name: str, weight: Any) -> None:
    try:
        parse_schedule(weight, at_least=0.0)
    except UsageError as error:
        raise UsageError(str(error).replace("schedule:", f"{name}:", 1)) from None


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _kind(value: object) -> str:
    return _a(value.__name__ if isinstance(value, type) else type(value).__name__)


def _is_zero(weight: Any) -> bool:
    return isinstance(weight, Real) and weight == 0
