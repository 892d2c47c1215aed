"""What distillation costs in a script with Accelerate: `Distilled` against the same script with the loss by hand.

Run: python -m benchmarks.trainers_accelerate [--steps 40] [--rounds 30]
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.alternate import Side
from benchmarks.trainers_parts import CONF, ROWS, by_hand, compared, main, rows, student, teacher
from kdhooks.integrations.accelerate import Distilled


def script(steps: int, *, hooks: bool) -> Side:
    """A training script; a call is an epoch of these steps."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator: Any = Accelerator(cpu=True)
    model, taught = student(), teacher()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loader = DataLoader(TensorDataset(*rows(steps)), batch_size=ROWS)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    taught.eval()
    if hooks:
        Distilled(accelerator, CONF, teacher_model=taught)

    def total(x: Tensor, output: Tensor, loss: Tensor) -> Tensor:
        if hooks:
            return loss  # the terms join it in accelerator.backward
        with torch.no_grad():
            said = taught(x)
        return by_hand(output, said, loss)

    def epoch(_: int) -> None:
        for x, y in loader:
            output = model(x)
            loss = total(x, output, F.cross_entropy(output, y))
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def run(steps: int, rounds: int) -> dict[str, Any]:
    """Times of an epoch of so many steps and their ratio, as `benchmarks.alternate.figures` has them."""
    return compared("Accelerate", script(steps, hooks=False), script(steps, hooks=True), rounds)


if __name__ == "__main__":
    main("Accelerate", __doc__, run)
