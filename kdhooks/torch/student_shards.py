"""`fit()` with ``strategy: fsdp2``: a copy that the ranks share out is trained in place of the user's student.

Rules: the user's own student is whole and plain before and afterwards, where its user put it, and has the learned
weights when the loop is over. It has them too when the loop was stopped by a signal, or by a loss that is not finite,
which all ranks do at the same step; after any other error it is as it was, since the others may not be there any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from kdhooks.errors import ModelError, NonFiniteLossError, UsageError
from kdhooks.messages import logger
from kdhooks.torch.sharding import whole_state
from kdhooks.torch.shards import data_ranks, sharded_copy
from kdhooks.torch.weights_in_memory import unwrap


@contextmanager
def student_in_shards(distiller: Any, teachers: Iterable[nn.Module], device: torch.device) -> Iterator[nn.Module]:
    """Within the block the distiller's student is a copy that the ranks share out.

    Args:
        distiller: the `Distillation`.
        teachers: of it.
        device: where it trains.

    Raises:
        ModelError: the student can't be copied or sharded, or has modules that a teacher has too.
    """
    own = unwrap(distiller.student_model)
    _check(own, teachers)
    distiller.transfer_now()  # weights of another model, while the student is whole
    twin = sharded_copy(own, data_ranks(device))
    learned = False
    with distiller.standing_in(twin):
        try:
            yield twin
            learned = True
        except (KeyboardInterrupt, SystemExit, NonFiniteLossError):
            learned = True
            raise
        finally:
            if learned:
                write_back(twin, own)
            else:
                logger.warning("the student has the weights from before fit(): those that were learned are in shards")


def write_back(twin: nn.Module, own: nn.Module) -> None:
    """Give a whole model the weights and buffers of its copy in shards; every rank calls this."""
    own.load_state_dict(whole_state(twin))
    with torch.no_grad():
        for buffer, other in zip(own.buffers(), twin.buffers(), strict=True):  # those that no state has as well
            buffer.copy_(other)


def _check(student: nn.Module, teachers: Iterable[nn.Module]) -> None:
    mine = {id(one) for one in (*student.modules(), *student.parameters())}
    for teacher in teachers:
        if any(id(one) in mine for one in (*teacher.modules(), *teacher.parameters())):
            raise ModelError(
                f"the teacher {type(teacher).__name__} has modules or weights that are the student's too, and "
                "strategy: fsdp2 trains a copy of the student. Write strategy: ddp, or set a teacher of its own"
            )


def refuse_optimizer() -> UsageError:
    """The error of an optimizer that was made of the whole student's parameters."""
    return UsageError(
        "distiller.optimizer holds the parameters of the whole student, and strategy: fsdp2 trains a copy that is "
        "shared out. Name the optimizer in distillation.train.optimizer, or call fully_shard on the student yourself, "
        "before you make the optimizer"
    )
