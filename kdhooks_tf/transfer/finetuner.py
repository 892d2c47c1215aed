"""`BasicFinetunner`: weight transfer in one call, for programs without a configuration."""

from __future__ import annotations

from typing import Any

from kdhooks.transfer import Finetuner, TransferReport
from kdhooks_tf.transfer.freezing import Freezer
from kdhooks_tf.transfer.weights import transfer_weights


class BasicFinetunner(Finetuner):
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

    def _transfer(self, model: Any) -> TransferReport:
        return transfer_weights(model, self.pretrained_model, self.settings)

    def _freezer(self, model: Any) -> Freezer:
        return Freezer(model, self.settings.freeze_batch_norm)
