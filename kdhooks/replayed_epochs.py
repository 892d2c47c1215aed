"""Tells datasets whose augmentation is replayed which epoch of a run is under way.

Rules: only datasets of ours are told; a user's samplers and datasets are left to the user.
"""

from __future__ import annotations

from typing import Any

from kdhooks.datasets.replayed import replayed_in
from kdhooks.hooks import Hook


class ReplayedEpochs(Hook):
    """Calls ``set_epoch`` of every `ReplayedAugmentation` in the training data, before each epoch.

    Args:
        distiller: whose ``train_dataloader`` and ``epoch`` are looked at when an epoch begins or ends.
    """

    def __init__(self, distiller: Any) -> None:
        self._distiller = distiller

    def on_train_begin(self) -> None:
        """The first epoch comes."""
        self.on_epoch_begin(self._distiller.epoch)

    def on_epoch_begin(self, epoch: int) -> None:
        """This epoch comes, or goes on after a resume."""
        for dataset in replayed_in(self._distiller.train_dataloader):
            dataset.set_epoch(epoch)

    def on_epoch_end(self) -> None:
        """The next epoch comes, whether or not the loop will say so."""
        self.on_epoch_begin(self._distiller.epoch + 1)
