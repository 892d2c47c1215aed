"""A state of plain data and tensors as one file: tensors as ``.npy`` members, the rest as JSON; nothing is pickled."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.errors import CheckpointError

_TREE = "tree"
Arrays = dict[str, np.ndarray[Any, Any]]


def write_state(path: Path, state: Any) -> None:
    """Write a state whole or not at all.

    Args:
        path: of the file.
        state: nested mappings, lists and tuples of None, booleans, numbers, strings, arrays and tensors.
    """
    arrays: Arrays = {}
    tree = json.dumps(_packed(state, arrays))
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_TREE: np.array(tree)}, **arrays)
    os.replace(beside, path)


def read_state(path: Path) -> Any:
    """Read what `write_state` wrote; arrays come back as NumPy arrays.

    Raises:
        CheckpointError: a damaged file, or one that is not ours.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            arrays = {name: members[name] for name in members.files}
        return _unpacked(json.loads(str(arrays[_TREE])), arrays)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged or no state of kdhooks: {error}") from None


def _packed(value: Any, arrays: Arrays) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value.item()
    if isinstance(value, Mapping):
        return {"map": [[_packed(key, arrays), _packed(item, arrays)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list" if isinstance(value, list) else "tuple": [_packed(item, arrays) for item in value]}
    array = value.numpy() if hasattr(value, "numpy") else np.asarray(value)
    if array.dtype.kind not in "biufcU" and array.dtype != tf.bfloat16.as_numpy_dtype:
        raise TypeError(f"a state holds {type(value).__name__}, which is no plain data and no tensor")
    name = f"array{len(arrays)}"
    wide = array.dtype == tf.bfloat16.as_numpy_dtype  # NumPy's files know no bfloat16
    arrays[name] = array.view(np.uint16) if wide else array
    return {"bfloat16" if wide else "array": name}


def _unpacked(value: Any, arrays: Arrays) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "map":
        return {_unpacked(key, arrays): _unpacked(item, arrays) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_unpacked(item, arrays) for item in content]
        return items if kind == "list" else tuple(items)
    return arrays[content].view(tf.bfloat16.as_numpy_dtype) if kind == "bfloat16" else arrays[content]
