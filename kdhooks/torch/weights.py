"""Files of weights for the command line: safetensors, or torch's own without unpickling anything."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.errors import DataError, MissingPackageError, ModelError

_INNER = ("state_dict", "model", "model_state_dict", "student")


def read_weights(model: nn.Module, path: Path) -> None:
    """Load a file of weights into a model.

    A ``.safetensors`` file, or one that ``torch.save`` wrote of a ``state_dict``, bare or under
    ``state_dict``, ``model``, ``model_state_dict`` or ``student``; a ``module.`` before every name is
    taken off.

    Raises:
        DataError: the file is missing, damaged, or holds no weights.
        ModelError: the weights belong to another model.
        MissingPackageError: a safetensors file, and no safetensors.
    """
    weights = _weights(file_content(path), path)
    if weights and all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    own = model.state_dict()
    # safetensors keeps tied weights once: what is missing but shares its memory with something there is no loss
    there = {own[name].data_ptr() for name in weights if isinstance(own.get(name), Tensor)}
    missing = [name for name in own if name not in weights and _tied(own[name]) not in there]
    differences = [
        *_first("the file has no {}", missing),
        *_first("the file has {}, which the model has not", (name for name in weights if name not in own)),
        *(
            f"{name!r} is of shape {list(value.shape)} there and {list(own[name].shape)} here"
            for name, value in weights.items()
            if isinstance(own.get(name), Tensor) and own[name].shape != value.shape
        ),
    ][:3]
    if differences:
        raise ModelError(f"{path} does not fit {type(model).__name__}: {'; '.join(differences)}")
    model.load_state_dict(weights, strict=False)


def write_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights; the file is whole or not there.

    Raises:
        MissingPackageError: a ``.safetensors`` file, and no safetensors.
        DataError: the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            safetensors().save_model(model, str(temporary))
        else:
            torch.save(model.state_dict(), temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"the weights can't be written to {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def file_content(path: Path, *, mapped: bool = False) -> Any:
    """What a file of weights holds; nothing in it is run.

    Args:
        path: of the file.
        mapped: whether tensors of torch's own files stay on disk until they are read.

    Raises:
        DataError: the file is missing, damaged, or holds other objects than tensors and plain data.
        MissingPackageError: a safetensors file, and no safetensors.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors().load_file(str(path))
        if mapped and zipfile.is_zipfile(path):  # the older format can't be mapped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from None
    except MissingPackageError:
        raise
    except Exception:  # whatever a foreign or damaged file makes of the readers
        raise no_weights(path) from None


def no_weights(path: Path) -> DataError:
    """The error of a file that can't be read as weights."""
    cure = "it is damaged or of another kind"
    if path.suffix != ".safetensors" and zipfile.is_zipfile(path):
        cure = "save model.state_dict() alone, since other objects would be run when loaded"
    return DataError(f"{path} holds no plain weights: {cure}")


def _weights(content: Any, path: Path) -> dict[str, Tensor]:
    for inner in (content, *(content.get(key) for key in _INNER if isinstance(content, Mapping))):
        if isinstance(inner, Mapping) and inner and all(isinstance(value, Tensor) for value in inner.values()):
            return {str(name): value for name, value in inner.items()}
    raise DataError(f"{path} holds no weights: it must be a state_dict, or have one under {', '.join(_INNER)}")


def _tied(value: Any) -> int | None:
    return value.data_ptr() if isinstance(value, Tensor) else None


def _first(words: str, names: Iterable[str]) -> list[str]:
    found = list(names)
    return [words.format(repr(found[0]) + (f" and {len(found) - 1} more" if len(found) > 1 else ""))] if found else []


def safetensors() -> Any:
    """The module ``safetensors.torch``, or a MissingPackageError."""
    try:
        import safetensors.torch
    except ImportError:
        raise MissingPackageError("safetensors", "a .safetensors file", "export") from None
    return safetensors.torch
