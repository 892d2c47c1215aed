"""The state of a distillation in a file beside another trainer's checkpoint.

Rules: a file is whole or not there; it holds plain data and tensors, and is read with ``weights_only=True``, so nothing
in it is run. A file is judged before anything of it is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdhooks.errors import CheckpointError

VERSION = 1


def written(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A state with its kind and version, as `checked` wants it."""
    return {"format": kind, "version": VERSION, **content}


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state; the folder is made where it is missing.

    Raises:
        CheckpointError: the file can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(state), temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"{path} can't be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, kind: str) -> dict[str, Any]:
    """The state in a file, checked.

    Raises:
        CheckpointError: the file is damaged, not of this kind, or of a newer version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}") from None
    except Exception:  # whatever a damaged file makes of the reader
        raise CheckpointError(f"{path} is damaged, or holds other things than a state of kdhooks") from None
    return checked(state, kind, str(path))


def checked(state: Any, kind: str, place: str) -> dict[str, Any]:
    """The state, where it is one of this kind that this version reads.

    Raises:
        CheckpointError: it is not.
    """
    if not isinstance(state, Mapping) or state.get("format") != kind or not isinstance(state.get("version"), int):
        raise CheckpointError(f"{place} is not a state of {kind}")
    if state["version"] > VERSION:
        raise CheckpointError(
            f"{place} is of version {state['version']}, and this kdhooks reads up to version {VERSION}: update kdhooks"
        )
    return dict(state)
