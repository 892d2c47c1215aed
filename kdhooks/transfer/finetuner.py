"""What `BasicFinetunner` is in both backends: weight transfer in one call, for programs without a configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from kdhooks.transfer.begin import settings_of
from kdhooks.transfer.freezing import chosen
from kdhooks.transfer.report import TransferReport


class Finetuner(ABC):
    """Puts the weights of a pretrained model into others, and freezes them if wanted.

    Args:
        pretrained_model: what a backend takes weights from.
        is_frozen: whether tensors that are transferred as they are stay as they are.
        options: of ``finetune``, as the YAML has them.

    Attributes:
        report: of the last transfer, or None.

    Raises:
        ConfigError: a wrong option.
    """

    def __init__(self, pretrained_model: Any, is_frozen: bool = False, **options: Any) -> None:
        self.pretrained_model, self.is_frozen = pretrained_model, is_frozen
        self.settings = settings_of(**options)
        self.report: TransferReport | None = None
        self._freezers: list[Any] = []

    @abstractmethod
    def _transfer(self, model: Any) -> TransferReport:
        """Write the pretrained weights into a model."""

    @abstractmethod
    def _freezer(self, model: Any) -> Any:
        """What freezes a model's tensors by name."""

    def finetune_network(self, model: Any) -> Any:
        """Transfer, freeze, and return the very model.

        Raises:
            TransferError: nothing fits, or a rule is wrong.
            DataError: the file holds no weights.
        """
        self.report = self._transfer(model)
        return self.freeze_network(model)

    def freeze_network(self, model: Any) -> Any:
        """Freeze a model as the last transfer did, without a transfer; for a copy, which carries no hook of ours."""
        freezer = self._freezer(model)
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

    def release(self) -> None:
        """Set free what was frozen, and take every hook off; a second call does nothing."""
        freezers, self._freezers = self._freezers, []
        for freezer in freezers:
            freezer.release()
