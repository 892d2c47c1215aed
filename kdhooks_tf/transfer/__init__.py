"""Weight transfer in TensorFlow, for programs that do it themselves; in a run the section ``finetune`` does."""

from __future__ import annotations

from kdhooks.transfer import TransferReport
from kdhooks_tf.transfer.finetuner import BasicFinetunner
from kdhooks_tf.transfer.freezing import Freezer
from kdhooks_tf.transfer.names import named_weights
from kdhooks_tf.transfer.starting_point import L2SP
from kdhooks_tf.transfer.weights import transfer_weights

__all__ = ["L2SP", "BasicFinetunner", "Freezer", "TransferReport", "named_weights", "transfer_weights"]
