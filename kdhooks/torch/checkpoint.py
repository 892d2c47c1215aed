"""The checkpoint file of a run, as ``torch.save`` writes it and read without unpickling anything.

Rules: those of `kdhooks.loop.checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdhooks.errors import CheckpointError
from kdhooks.loop import checkpoint
from kdhooks.loop.checkpoint import VERSION, check_processes, check_weights
from kdhooks.messages import logger

__all__ = [
    "NAME",
    "VERSION",
    "CheckpointFile",
    "check_optimizer",
    "check_processes",
    "check_ranks",
    "check_student",
    "optimizer_state",
]

NAME = "checkpoint.pt"


class CheckpointFile(checkpoint.CheckpointFile):
    """One file that is replaced again and again.

    Args:
        path: of the file; its folder is made when it is first written.

    >>> import tempfile
    >>> file = CheckpointFile(Path(tempfile.mkdtemp(), "checkpoint.pt"))
    >>> file.write(dict.fromkeys(("student", "optimizer", "rate", "scaler", "distiller", "position", "ranks"), 1))
    >>> file.read()["position"]
    1
    """

    keys: tuple[str, ...] = ("student", "optimizer", "rate", "scaler", "distiller", "position", "ranks")

    def save(self, content: dict[str, Any], file: Any) -> None:
        """By ``torch.save``, with the checksums that `read` depends on."""
        before = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(True)
        try:
            torch.save(content, file)
        finally:
            torch.serialization.set_crc32_options(before)

    def load(self, path: Path) -> Any:
        """By ``torch.load``, plain data and tensors only."""
        return torch.load(path, map_location="cpu", weights_only=True)


def check_student(student: nn.Module, saved: Mapping[str, Any], path: Path) -> None:
    """CheckpointError where the weights belong to another model; says the first difference of each kind."""
    check_weights(student.state_dict(), saved, path)


def check_ranks(size: int, content: Mapping[str, Any], path: Path) -> None:
    """CheckpointError where a run of another number of processes stopped in the middle of an epoch.

    Between two epochs any number goes on; their generators begin anew where a process has none in the file.
    """
    saved = len(content["ranks"])
    if content["position"]["batch"]:
        check_processes(size, content["ranks"], path)
    elif saved != size:
        logger.warning(
            "the checkpoint %s was written by %d processes, and this run has %d: the next epoch's batches have other "
            "rows, unless batch_size times processes is the same",
            path,
            saved,
            size,
        )


def optimizer_state(optimizer: Any) -> dict[str, Any]:
    """An optimizer's state with the name of its class."""
    return {"kind": type(optimizer).__name__, "state": optimizer.state_dict()}


def check_optimizer(optimizer: Any, saved: Mapping[str, Any], path: Path) -> None:
    """CheckpointError where the state belongs to another optimizer."""
    kind = type(optimizer).__name__
    if saved["kind"] != kind:
        raise CheckpointError(
            f"the checkpoint {path} belongs to the optimizer {saved['kind']}, and this run has {kind}"
        )
    groups = [len(group["params"]) for group in optimizer.state_dict()["param_groups"]]
    others = [len(group["params"]) for group in saved["state"]["param_groups"]]
    if groups != others:
        raise CheckpointError(
            f"the checkpoint {path} belongs to an optimizer with {_counts(others)} parameters, and this run's has "
            f"{_counts(groups)}"
        )


def _counts(groups: list[int]) -> str:
    return " + ".join(map(str, groups))
