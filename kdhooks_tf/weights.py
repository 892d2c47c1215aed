"""Files of weights for the command line: Keras's own, or safetensors; nothing is unpickled and nothing runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdhooks.errors import DataError, MissingPackageError, ModelError

SUFFIXES = (".weights.h5", ".keras", ".safetensors")
"""The kinds of files, by how their names end."""


def read_weights(model: Any, path: Path) -> None:
    """Load a file of weights into a model.

    A ``.weights.h5`` file of ``model.save_weights``, a ``.keras`` file of ``model.save`` (its weights only; no code of
    it runs), or a ``.safetensors`` file that `write_weights` wrote.

    Raises:
        DataError: the file is missing, damaged, or holds no weights.
        ModelError: the weights belong to another model, or the model is not built.
        MissingPackageError: a safetensors file, and no safetensors.
    """
    _check_built(model)
    _check_suffix(path)
    if not path.is_file():
        raise DataError(f"{path} can't be read: No such file or directory")
    if path.suffix == ".safetensors":
        _put(model, _content(path), path)
        return
    before = [np.array(variable.numpy()) for variable in model.variables]
    try:
        model.load_weights(str(path))
    except Exception as error:  # whatever a foreign or damaged file makes of the readers
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
        told = (str(error).splitlines() or [""])[0]
        if isinstance(error, ValueError):
            raise ModelError(f"{path} does not fit {type(model).__name__}: {told}") from None
        raise DataError(f"{path} holds no weights: {told}") from None


def write_weights(model: Any, path: Path) -> None:
    """Write a model's weights; the file is whole or not there.

    Raises:
        MissingPackageError: a ``.safetensors`` file, and no safetensors.
        DataError: the folder can't be written, or the file's name ends otherwise.
    """
    _check_suffix(path)
    temporary = path.with_name(f".tmp.{path.name}")  # Keras looks at how the name ends
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            _safetensors().save_file(_named(model), str(temporary))
        elif path.suffix == ".keras":
            model.save(str(temporary))
        else:
            model.save_weights(str(temporary))
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"the weights can't be written to {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _check_suffix(path: Path) -> None:
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: weights of a Keras model are files of {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def _check_built(model: Any) -> None:
    if not model.built:
        raise ModelError(f"{type(model).__name__} is not built yet, so it has no weights: call it on a batch first")


def _content(path: Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = _safetensors().load_file(str(path))
    except MissingPackageError:
        raise
    except Exception:  # whatever a foreign or damaged file makes of the reader
        raise DataError(f"{path} holds no plain weights: it is damaged or of another kind") from None
    return found


def _named(model: Any) -> dict[str, Any]:
    """The weights by name and place; names alone need not differ, and layers' names count up in a process."""
    return {
        f"{place}.{weight.name}": np.ascontiguousarray(weight.numpy()) for place, weight in enumerate(model.weights)
    }


def _put(model: Any, weights: Mapping[str, Any], path: Path) -> None:
    own = _named(model)
    differences = [
        *_first("the file has no {}", (name for name in own if name not in weights)),
        *_first("the file has {}, which the model has not", (name for name in weights if name not in own)),
        *(
            f"{name!r} is of shape {list(value.shape)} there and {list(own[name].shape)} here"
            for name, value in weights.items()
            if name in own and own[name].shape != value.shape
        ),
    ][:3]
    if differences:
        raise ModelError(f"{path} does not fit {type(model).__name__}: {'; '.join(differences)}")
    for name, weight in zip(own, model.weights, strict=True):
        weight.assign(weights[name])


def _first(words: str, names: Iterable[str]) -> list[str]:
    found = list(names)
    return [words.format(repr(found[0]) + (f" and {len(found) - 1} more" if len(found) > 1 else ""))] if found else []


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise MissingPackageError("safetensors", "a .safetensors file", "export") from None
    return safetensors.numpy
