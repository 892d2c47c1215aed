"""Files of pretrained weights, read as arrays: no model is made of them, nothing is unpickled, nothing runs.

Keras' own files (``.weights.h5``, ``.keras``) know a layer's variables by their number only. Where such a file would
keep each weight of the student is asked of Keras itself, which writes numbers in their place.
"""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kdhooks.errors import DataError, MissingPackageError
from kdhooks_tf.layer_names import Layer
from kdhooks_tf.transfer.names import guessed_names, is_made_up, made_up_names, named_weights, own_variables

Held = Any
"""What has a `shape` and becomes an array by `numpy.asarray`, which reads it."""

SUFFIXES = (".weights.h5", ".keras", ".h5", ".safetensors", ".npz")
"""The kinds of files, by how their names end."""


@contextmanager
def opened(path: Path, model: Layer) -> Iterator[dict[str, Held]]:
    """The weights in a file by their names in a model like this one, each read when it is asked for.

    Raises:
        DataError: the file is missing, damaged, of another kind, or holds no weights.
        MissingPackageError: a safetensors file, and no safetensors.
    """
    if not path.name.endswith(SUFFIXES):
        kinds = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise DataError(f"{path}: pretrained weights of a Keras model are files of {kinds}")
    if not path.is_file():
        raise DataError(f"{path} can't be read: No such file or directory")
    whole = f"{path} holds no plain weights: it is damaged or of another kind"
    try:
        content = _content(path, model)
        found = content.__enter__()
    except MissingPackageError:
        raise
    except Exception:  # whatever a foreign or damaged file makes of the readers
        raise DataError(whole) from None
    try:
        if not found:
            raise DataError(f"{path} holds no weights")
        yield found
    finally:
        content.__exit__(None, None, None)


@contextmanager
def _content(path: Path, model: Layer) -> Iterator[dict[str, Held]]:
    if path.suffix == ".safetensors":
        with _safetensors(path) as file:
            yield {name: _Slice(file, name) for name in file.keys()}  # noqa: SIM118
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            yield dict(file)
    elif path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive, _hdf5(io.BytesIO(archive.read("model.weights.h5"))) as file:
            yield _named(_numbered(file), model)
    else:
        with _hdf5(path) as file:
            root = file.get("model_weights", file)
            yield dict(_classic(root)) if "layer_names" in root.attrs else _named(_numbered(file), model)


def _safetensors(path: Path) -> Any:
    try:
        from safetensors import safe_open
    except ImportError:
        raise MissingPackageError("safetensors", "a .safetensors file", "export") from None
    return safe_open(str(path), "numpy")


class _Slice:
    """A tensor of a safetensors file."""

    def __init__(self, file: Any, name: str) -> None:
        self._file, self._name = file, name
        self.shape = tuple(file.get_slice(name).get_shape())

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self._file.get_tensor(self._name), dtype)


def _hdf5(source: Any) -> Any:
    import h5py

    return h5py.File(source, "r")


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _classic(root: Any) -> Iterator[tuple[str, Held]]:
    """Keras' older files: the weights' names stand in attributes of their layers' groups."""
    counts: dict[str, int] = {}
    for layer in map(_text, root.attrs["layer_names"]):
        kind = re.sub(r"_\d+$", "", layer)
        own = layer
        if kind in made_up_names():
            count = counts[kind] = counts.get(kind, -1) + 1
            own = f"{kind}_{count}" if count else kind
        for weight in map(_text, root[layer].attrs["weight_names"]):
            *inner, last = weight.partition(":")[0].split("/")
            inner = inner[inner.index(layer) + 1 :] if layer in inner else inner
            yield "/".join([own, *inner, last]), root[layer][weight]


# ---- Keras' own files ------------------------------------------------------------------------------


def _named(numbered: dict[str, Held], model: Layer) -> dict[str, Held]:
    """The weights by the model's names where it has such, by what Keras mostly calls them otherwise."""
    theirs = {id(variable): name for name, variable in named_weights(model).items()}
    places = {place: theirs[id(variable)] for place, variable in _places(model).items() if id(variable) in theirs}
    layers: dict[str, list[str]] = {}
    for place in numbered:
        layers.setdefault(place.rpartition("/")[0], []).append(place)
    found: dict[str, Held] = {}
    for layer, several in layers.items():
        guessed = guessed_names(layer, [tuple(numbered[place].shape) for place in several])
        for place, guess in zip(several, guessed, strict=True):
            name = places.get(place, f"{layer}/{guess}".lstrip("/"))
            found[name if name not in found else place] = numbered[place]
    ranks = {name: rank for rank, name in enumerate(theirs.values())}  # the file's order is that of the alphabet
    return dict(sorted(found.items(), key=lambda item: ranks.get(item[0], len(ranks))))


def _numbered(file: Any) -> dict[str, Held]:
    """What Keras' own file holds, by the layer's place and the variable's number: ``block/conv/0``."""
    return {"/".join(path): dataset for path, dataset in _datasets(file, ())}


def _datasets(group: Any, path: tuple[str, ...], *, listed: bool = False) -> Iterator[tuple[tuple[str, ...], Held]]:
    """The variables of a group and of those in it.

    Args:
        group: of the file.
        path: to it.
        listed: whether it is Keras' own list of layers, whose members have the name that their author gave them.
    """
    held = group.get("vars")
    if held is not None:
        for number in sorted(held, key=int):
            yield (*path, number), held[number]
    for key, inner in group.items():
        if key == "vars" or not hasattr(inner, "keys") or "seed_generator" in key:
            continue
        if key == "layers":
            yield from _datasets(inner, path, listed=True)
        else:
            yield from _datasets(inner, (*path, _given_name(key, inner) if listed else key))


def _given_name(key: str, group: Any) -> str:
    held = group.get("vars")
    name = _text(held.attrs.get("name", key)) if held is not None else key
    return key if is_made_up(name, re.sub(r"_\d+$", "", key)) else name.replace("/", "_")


def _places(model: Layer) -> dict[str, Any]:
    """The weights of a model by where Keras' own file of it would keep them."""
    layers = [layer for layer in model._flatten_layers() if own_variables(layer)]
    for place, layer in enumerate(layers):
        layer.__dict__["save_own_variables"] = _Marking(place, len(own_variables(layer)))
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "places.weights.h5"
            model.save_weights(str(path))
            with _hdf5(path) as file:
                marked = {name: np.asarray(mark) for name, mark in _numbered(file).items()}
    finally:
        for layer in layers:
            layer.__dict__.pop("save_own_variables", None)
    return {name: own_variables(layers[int(mark[0])])[int(mark[1])] for name, mark in marked.items()}


class _Marking:
    """Stands for a layer's `save_own_variables`: writes which variable is where instead of its value."""

    def __init__(self, place: int, count: int) -> None:
        self._marks = {str(number): np.array([place, number]) for number in range(count)}

    def __call__(self, store: Mapping[str, Any]) -> None:
        for number, mark in self._marks.items():
            store[number] = mark  # type: ignore[index]
