"""What distillation costs in a skorch net: the callback against a net whose loss is written by hand.

Run: python -m benchmarks.trainers_skorch [--steps 40] [--rounds 30]
"""

from __future__ import annotations

from typing import Any

import torch
from skorch import NeuralNetClassifier
from torch import Tensor, nn

from benchmarks.alternate import Side
from benchmarks.trainers_parts import CONF, ROWS, by_hand, compared, main, rows, student, teacher
from kdhooks.integrations.skorch import DistillationCallback


class ByHand(NeuralNetClassifier):  # type: ignore[misc]
    """A net with the loss as people add it: a subclass that knows its teacher."""

    taught: Any = None

    def get_loss(self, y_pred: Tensor, y_true: Any, X: Any = None, training: bool = False) -> Tensor:
        loss: Tensor = super().get_loss(y_pred, y_true, X=X, training=training)
        if not training:
            return loss
        with torch.no_grad():
            said = self.taught(X)
        return by_hand(y_pred, said, loss)


def net(steps: int, *, hooks: bool) -> Side:
    """A net; a call is an epoch of these steps."""
    taught = teacher().eval()
    options: dict[str, Any] = {"criterion": nn.CrossEntropyLoss, "optimizer__momentum": 0.9, "lr": 0.01, "verbose": 0}
    options |= {"batch_size": ROWS, "train_split": None}
    if hooks:
        made = NeuralNetClassifier(student(), callbacks=[DistillationCallback(taught, CONF)], **options)
    else:
        made = ByHand(student(), **options)
        ByHand.taught = taught
    made.initialize()
    x, y = rows(steps)
    return lambda _: made.partial_fit(x, y, epochs=1)


def run(steps: int, rounds: int) -> dict[str, Any]:
    """Times of an epoch of so many steps and their ratio, as `benchmarks.alternate.figures` has them."""
    return compared("skorch", net(steps, hooks=False), net(steps, hooks=True), rounds)


if __name__ == "__main__":
    main("skorch", __doc__, run)
