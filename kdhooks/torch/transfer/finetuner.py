"""`BasicFinetunner`: weight transfer in one call, for programs without a configuration."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdhooks.config.finetune_settings import FinetuneSettings
from kdhooks.torch.transfer.freezing import Freezer
from kdhooks.torch.transfer.transfer import settings_of, transfer_weights
from kdhooks.transfer import TransferReport, chosen


class BasicFinetunner:
    """Puts the weights of a pretrained model into others, and freezes them if wanted.

    Args:
        pretrained_model: a model, a state_dict, or the path of a file of weights.
        is_frozen: whether tensors that are transferred as they are stay as they are: parameters get no gradient, and
            BatchNorm keeps its statistics, until `release`.
        options: of ``finetune``, as the YAML has them; ``freeze`` names further tensors.

    Attributes:
        report: of the last transfer, or None.

    Raises:
        ConfigError: a wrong option.

    Example:
        >>> pretrained = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 100))
        >>> student = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> finetunner = BasicFinetunner(pretrained, is_frozen=True)
        >>> student = finetunner.finetune_network(student)
        >>> [name for name, one in student.named_parameters() if one.requires_grad]
        ['2.weight', '2.bias']
    """

    def __init__(self, pretrained_model: Any, is_frozen: bool = False, **options: Any) -> None:
        self.pretrained_model, self.is_frozen = pretrained_model, is_frozen
        self.settings: FinetuneSettings = settings_of(**options)
        self.report: TransferReport | None = None
        self._freezers: list[Freezer] = []

    def finetune_network(self, model: nn.Module) -> nn.Module:
        """Transfer, freeze, and return the very model.

        Raises:
            TransferError: nothing fits, or a rule is wrong.
            DataError: the file holds no weights.
        """
        self.report = transfer_weights(model, self.pretrained_model, self.settings)
        return self.freeze_network(model)

    def freeze_network(self, model: nn.Module) -> nn.Module:
        """Freeze a model as the last transfer did, without a transfer; for a copy, which carries no hook of ours."""
        freezer = Freezer(model, self.settings.freeze_batch_norm)
        names = set(chosen(self.settings.freeze, freezer.names()))
        if self.is_frozen and self.report is not None:
            names |= set(self.report.transferred)
        if names or self.settings.freeze_batch_norm:
            freezer.freeze(names)
            self._freezers.append(freezer)
        return model

    __call__ = finetune_network

    @property
    def finetuned_state_keys(self) -> list[str]:
        """The names of all tensors that the last transfer took as they are."""
        return [] if self.report is None else list(self.report.transferred)

    def __deepcopy__(self, memo: Any) -> BasicFinetunner:
        """A copy has the same pretrained model, which nothing changes, and has frozen nothing yet."""
        twin = type(self).__new__(type(self))
        vars(twin).update(self.__getstate__())
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_freezers": []}

    def release(self) -> None:
        """Set free what was frozen, and take every hook off; a second call does nothing."""
        freezers, self._freezers = self._freezers, []
        for freezer in freezers:
            freezer.release()
