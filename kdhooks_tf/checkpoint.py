"""The checkpoint file of a run: arrays and JSON in one zip archive, read without unpickling anything.

Rules: those of `kdhooks.loop.checkpoint`. Arrays are ``.npy`` records; everything else stands in ``content.json``.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks.errors import CheckpointError
from kdhooks.loop import checkpoint
from kdhooks.loop.checkpoint import check_weights
from kdhooks_tf.optimizers import inner_optimizer

NAME = "checkpoint.npz"
_CONTENT = "content.json"


class CheckpointFile(checkpoint.CheckpointFile):
    """One file that is replaced again and again.

    Args:
        path: of the file; its folder is made when it is first written.

    >>> import tempfile
    >>> file = CheckpointFile(Path(tempfile.mkdtemp(), "checkpoint.npz"))
    >>> content = dict.fromkeys(("student", "optimizer", "rate", "distiller", "position", "ranks"), 1)
    >>> file.write(content | {"student": {"kernel": np.ones(2)}})
    >>> file.read()["student"]["kernel"].tolist()
    [1.0, 1.0]
    """

    keys = ("student", "optimizer", "rate", "distiller", "position", "ranks")

    def save(self, content: dict[str, Any], file: Any) -> None:
        """As a zip archive, which has a checksum for each record."""
        arrays: list[Any] = []
        told = json.dumps(_plain(content, arrays))
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_CONTENT, told)
            for number, array in enumerate(arrays):
                with archive.open(f"{number}.npy", "w", force_zip64=True) as record:
                    np.lib.format.write_array(record, array, allow_pickle=False)

    def load(self, path: Path) -> Any:
        """The content with NumPy arrays."""
        with zipfile.ZipFile(path) as archive:
            told = json.loads(archive.read(_CONTENT))

            def array(number: int) -> Any:
                with archive.open(f"{number}.npy") as record:
                    return np.lib.format.read_array(record, allow_pickle=False)

            return _whole(told, array)


def _plain(value: Any, arrays: list[Any]) -> Any:
    """A value as JSON; its arrays are put into a list and stand there by number."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {"m": [[_plain(name, arrays), _plain(item, arrays)] for name, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_plain(item, arrays) for item in value]
    if isinstance(value, (np.ndarray, np.generic, tf.Tensor, tf.Variable, keras.Variable)):
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        own = array.dtype.kind not in "biufcSU"  # bfloat16 and its kin, which .npy does not know
        arrays.append(np.ascontiguousarray(array).reshape(array.shape).view(f"u{array.itemsize}") if own else array)
        return {"a": len(arrays) - 1, "dtype": array.dtype.name if own else ""}
    raise TypeError(f"a checkpoint holds plain data and arrays, not {type(value).__name__}")


def _whole(value: Any, array: Any) -> Any:
    if isinstance(value, list):
        return [_whole(item, array) for item in value]
    if not isinstance(value, dict):
        return value
    if "m" in value:
        return {_whole(name, array): _whole(item, array) for name, item in value["m"]}
    found = array(value["a"])
    return found.view(tf.as_dtype(value["dtype"]).as_numpy_dtype) if value["dtype"] else found


def student_state(student: Any) -> dict[str, Any]:
    """All variables of a model, the states of its random layers too, by their place and name."""
    return {f"{place} {variable.name}": np.array(variable.numpy()) for place, variable in enumerate(student.variables)}


def put_student_state(student: Any, state: Mapping[str, Any]) -> None:
    """Put a state that `check_student` found to fit into a model."""
    for variable, value in zip(student.variables, state.values(), strict=True):
        variable.assign(value)


def check_student(student: Any, saved: Mapping[str, Any], path: Path) -> None:
    """CheckpointError where the variables belong to another model; says the first difference of each kind."""
    check_weights(student_state(student), saved, path)


def optimizer_state(optimizer: Any) -> dict[str, Any]:
    """An optimizer's variables with the name of its class."""
    return {"kind": _kind(optimizer), "variables": [np.array(variable.numpy()) for variable in optimizer.variables]}


def put_optimizer_state(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Put a state that `check_optimizer` found to fit into an optimizer."""
    for variable, value in zip(optimizer.variables, saved["variables"], strict=True):
        variable.assign(value)


def check_optimizer(optimizer: Any, saved: Mapping[str, Any], path: Path) -> None:
    """CheckpointError where the state belongs to another optimizer."""
    kind = _kind(optimizer)
    if saved["kind"] != kind:
        raise CheckpointError(
            f"the checkpoint {path} belongs to the optimizer {saved['kind']}, and this run has {kind}"
        )
    own, others = ([tuple(one.shape) for one in side] for side in (optimizer.variables, saved["variables"]))
    if own != others:
        raise CheckpointError(
            f"the checkpoint {path} belongs to an optimizer with {len(others)} variables, and this run's has "
            f"{len(own)}{'' if len(own) != len(others) else ' of other shapes'}"
        )


def _kind(optimizer: Any) -> str:
    return type(inner_optimizer(optimizer)).__name__
