"""Weight transfer in PyTorch, for programs that do it themselves; in a run the section ``finetune`` does."""

from __future__ import annotations

from kdhooks.torch.transfer.behaviour import DELTA, channel_weights, feature_distance
from kdhooks.torch.transfer.finetuner import BasicFinetunner
from kdhooks.torch.transfer.freezing import Freezer
from kdhooks.torch.transfer.groups import parameter_groups
from kdhooks.torch.transfer.starting_point import L2SP
from kdhooks.torch.transfer.transfer import transfer_weights
from kdhooks.transfer import TransferReport

__all__ = [
    "DELTA",
    "L2SP",
    "BasicFinetunner",
    "Freezer",
    "TransferReport",
    "channel_weights",
    "feature_distance",
    "parameter_groups",
    "transfer_weights",
]
