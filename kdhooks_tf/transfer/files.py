"""Files of pretrained Keras weights, read as arrays: no model is made of them, nothing is unpickled, nothing runs.

Keras' own files (``.weights.h5``, ``.keras``) know a layer's variables by their number only. Where such a file would
keep each weight of a model is asked of Keras itself, which writes numbers in their place.
"""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdhooks.errors import DataError, MissingPackageError
from kdhooks_tf.layer_names import Layer
from kdhooks_tf.transfer.names import is_made_up, own_variables

Array = Any
SUFFIXES = (".weights.h5", ".keras", ".h5", ".safetensors", ".npz")
"""The kinds of files, by how their names end."""


def read_arrays(path: Path) -> tuple[dict[str, Array], bool]:
    """The arrays of a file by name, and whether the names end in the number of a layer's variable.

    Raises:
        DataError: the file is missing, damaged, of another kind, or holds no arrays.
        MissingPackageError: a safetensors file, and no safetensors.
    """
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: pretrained weights of a Keras model are files of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path} can't be read: No such file or directory")
    try:
        found, numbered = _read(path)
    except (DataError, MissingPackageError):
        raise
    except Exception:  # whatever a foreign or damaged file makes of the readers
        raise DataError(f"{path} holds no plain weights: it is damaged or of another kind") from None
    if not found:
        raise DataError(f"{path} holds no weights")
    return found, numbered


def _read(path: Path) -> tuple[dict[str, Array], bool]:
    if path.suffix == ".safetensors":
        try:
            from safetensors.numpy import load_file
        except ImportError:
            raise MissingPackageError("safetensors", "a .safetensors file", "export") from None
        return dict(load_file(str(path))), False
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}, False
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            return _numbered(io.BytesIO(archive.read("model.weights.h5"))), True
    return _of_hdf5(path)


def _of_hdf5(path: Path) -> tuple[dict[str, Array], bool]:
    import h5py

    with h5py.File(path, "r") as file:
        root = file["model_weights"] if "model_weights" in file else file
        if "layer_names" in root.attrs:
            return dict(_classic(root)), False
    return _numbered(path), True


def _classic(root: Any) -> Iterator[tuple[str, Array]]:
    """Keras' older files: the weights' names stand in attributes, behind those of their layers."""
    for layer in map(_text, root.attrs["layer_names"]):
        for weight in map(_text, root[layer].attrs["weight_names"]):
            last = weight.split("/")[-1].partition(":")[0]
            inner = [part for part in weight.split("/")[:-1] if part != layer]
            nested = inner if layer in weight.split("/")[:-1] and inner and weight.startswith(f"{layer}/") else []
            yield "/".join([layer, *nested, last]), np.asarray(root[layer][weight])


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _numbered(source: Any) -> dict[str, Array]:
    """The arrays of Keras' own file: ``block/conv/0``."""
    import h5py

    found: dict[str, Array] = {}
    with h5py.File(source, "r") as file:
        for path, dataset in _datasets(file, ()):
            *layers, number = path
            found["/".join([*layers, number])] = np.asarray(dataset)
    return found


def _datasets(group: Any, path: tuple[str, ...], *, listed: bool = False) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The variables of a group and of those in it, by the names of their layers.

    A layer that stands in a list of layers is found by the name that its author gave it, where there is one.
    """
    import h5py

    held = group.get("vars")
    if isinstance(held, h5py.Group):
        for number in sorted(held, key=int):
            yield (*path, number), held[number]
    for key, inner in group.items():
        if not isinstance(inner, h5py.Group) or key == "vars" or "seed_generator" in key:
            continue
        if key == "layers":
            yield from _datasets(inner, path, listed=True)
            continue
        yield from _datasets(inner, (*path, _given_name(key, inner) if listed else key))


def _given_name(key: str, group: Any) -> str:
    held = group.get("vars")
    name = _text(held.attrs.get("name", key)) if held is not None else key
    return key if is_made_up(name, re.sub(r"_\d+$", "", key)) else name.replace("/", "_")


def numbered_weights(model: Layer) -> dict[str, Any]:
    """The weights of a model by the names that `read_arrays` finds in Keras' own file of such a model."""
    layers = list(model._flatten_layers())
    places = [layer for layer in layers if own_variables(layer)]
    for place, layer in enumerate(places):
        layer.__dict__["save_own_variables"] = _Marking(place, len(own_variables(layer)))
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "places.weights.h5"
            model.save_weights(str(path))
            marked = _numbered(path)
    finally:
        for layer in places:
            del layer.__dict__["save_own_variables"]
    return {name: own_variables(places[int(mark[0])])[int(mark[1])] for name, mark in marked.items()}


class _Marking:
    """Stands for a layer's `save_own_variables`: writes where a variable is instead of its value."""

    def __init__(self, place: int, count: int) -> None:
        self._marks = {str(number): np.array([place, number]) for number in range(count)}

    def __call__(self, store: Mapping[str, Any]) -> None:
        for number, mark in self._marks.items():
            store[number] = mark  # type: ignore[index]
