"""`BasicFinetunner`: weight transfer in one call, for programs without a configuration."""

from __future__ import annotations

from typing import Any

from kdhooks.config.finetune_settings import FinetuneSettings
from kdhooks.transfer import TransferReport, chosen
from kdhooks_tf.transfer.freezing import Freezer
from kdhooks_tf.transfer.weights import settings_of, transfer_weights


class BasicFinetunner:
    """Puts the weights of a pretrained model into others, and freezes them if wanted.

    Args:
        pretrained_model: a Keras model, a file of weights, or a mapping of arrays.
        is_frozen: whether weights that are transferred as they are stay as they are, and BatchNorm keeps its
            statistics, until `release`.
        options: of ``finetune``, as the YAML has them; ``freeze`` names further weights.

    Attributes:
        report: of the last transfer, or None.

    Raises:
        ConfigError: a wrong option.

    Example:
        >>> import keras
        >>> def model(classes):
        ...     layers = [keras.layers.Dense(8, name="body"), keras.layers.Dense(classes, name="head")]
        ...     return keras.Sequential([keras.Input((4,)), *layers])
        >>> finetunner = BasicFinetunner(model(100), is_frozen=True)
        >>> student = finetunner.finetune_network(model(3))
        >>> [variable.path.split("/", 1)[1] for variable in student.trainable_variables]
        ['head/kernel', 'head/bias']
    """

    def __init__(self, pretrained_model: Any, is_frozen: bool = False, **options: Any) -> None:
        self.pretrained_model, self.is_frozen = pretrained_model, is_frozen
        self.settings: FinetuneSettings = settings_of(**options)
        self.report: TransferReport | None = None
        self._freezers: list[Freezer] = []

    def finetune_network(self, model: Any) -> Any:
        """Transfer, freeze, and return the very model.

        Raises:
            TransferError: nothing fits, or a rule is wrong.
            DataError: the file holds no weights.
        """
        self.report = transfer_weights(model, self.pretrained_model, self.settings)
        freezer = Freezer(model, self.settings.freeze_batch_norm)
        names = set(chosen(self.settings.freeze, freezer.names()))
        if self.is_frozen:
            names |= set(self.report.transferred)
        if names or self.settings.freeze_batch_norm:
            freezer.freeze(names)
            self._freezers.append(freezer)
        return model

    __call__ = finetune_network

    def release(self) -> None:
        """Set free what was frozen; a second call does nothing."""
        freezers, self._freezers = self._freezers, []
        for freezer in freezers:
            freezer.release()
