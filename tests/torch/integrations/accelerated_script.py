"""A script with an `Accelerator`, as people write it, and what tests need around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import Distillation
from kdhooks.errors import UsageError
from kdhooks.torch import KnowledgeDistillationLoss
from tests.torch.hidden_models import Net, criterion
from tests.torch.small_models import made


class Dropping(Net):
    """A net with dropout, which draws from the generator."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = F.dropout(super().forward(x), 0.1, self.training)
        return output


def distillation(zero: bool = False, teacher: nn.Module | None = None) -> Distillation:
    """KL and a followed layer, whose matcher trains; or the student's own loss alone."""
    distiller = Distillation()
    weights = [1.0, 0.0] if zero else [0.5, 0.5]
    distiller.criterion = [KnowledgeDistillationLoss(2.0, ["CE", "KL"], weights)]
    if not zero:
        distiller.criterion += [criterion(add_origin_loss=False)]
    distiller.teacher_model = made(2, lambda: Net(12)) if teacher is None else teacher
    return distiller


def loader(batch_size: int = 4, *, shuffle: bool = True) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    rows = TensorDataset(torch.randn(40, 6, generator=generator), torch.randint(4, (40,), generator=generator))
    own = None if shuffle else torch.Generator().manual_seed(5)  # an iterator draws one number of the global one
    return DataLoader(rows, batch_size, shuffle=shuffle, generator=own)


def script(
    accelerator: Accelerator,
    start: Callable[..., Any] = lambda *prepared: None,
    *,
    epochs: int = 2,
    model: nn.Module | None = None,
    total: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda x, output, loss: loss,
    after: Callable[[int], None] = lambda step: None,
    shuffle: bool = True,
    batch_size: int = 4,
    skip: int = 0,
) -> Any:
    """Train as a script does.

    Args:
        accelerator: the script's.
        start: called with the prepared model and optimizer, before the loop.
        epochs: to train.
        model: to train.
        total: what the loss becomes, in a loop that calls hooks itself.
        after: called after each batch with its number.
        shuffle: the rows.
        batch_size: of one process.
        skip: batches of the first epoch that an earlier run has had.

    Returns:
        The unwrapped model, the prepared model, and the optimizer.
    """
    torch.manual_seed(11)
    model = made(1, Dropping) if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    model, optimizer, data, scheduler = accelerator.prepare(
        model, optimizer, loader(batch_size, shuffle=shuffle), scheduler
    )
    start(model, optimizer)
    number = skip
    for epoch in range(epochs):
        model.train()
        batches = accelerator.skip_first_batches(data, skip) if skip and epoch == 0 else data
        for x, y in batches:
            with accelerator.accumulate(model):
                output = model(x)
                loss = F.cross_entropy(output, y)
                loss = total(x, output, loss)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            number += 1
            after(number)
    return accelerator.unwrap_model(model), model, optimizer


@pytest.fixture(autouse=True)
def own_accelerator() -> Iterator[None]:
    """`Accelerator` keeps its choices in a global; each test makes its own."""
    from accelerate.state import AcceleratorState, GradientState

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    reset()
    yield
    reset()


def accelerator(accumulation: int = 2, **options: Any) -> Accelerator:
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(cpu=True, gradient_accumulation_steps=accumulation, **options)


def error_of(function: Any, kind: type[Exception] = UsageError) -> str:
    with pytest.raises(kind) as caught:
        function()
    return str(caught.value)
