"""What a teacher is known by: its rows lie in a space of this name, so another teacher can never find them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdhooks.cache.codec import Codec
from kdhooks.cache.folder import FORMAT
from kdhooks.cache.packages import xxhash


class Weight(NamedTuple):
    """One parameter or buffer of a teacher.

    Attributes:
        name: its name in the model.
        array: its values, or their bits where NumPy has no such dtype.
        dtype: the framework's name of the dtype, where the array's own is another.
    """

    name: str
    array: NDArray[Any]
    dtype: str = ""


def fingerprint(
    weights: Iterable[Weight],
    *,
    code: Iterable[type] = (),
    precision: str = "fp32",
    layers: Iterable[str] = (),
    codecs: Mapping[str, Codec] | None = None,
    more: Iterable[str] = (),
) -> str:
    """The name of a teacher's space: 32 hexadecimal digits of xxh3-128.

    Args:
        weights: all parameters and buffers, always in the same order.
        code: classes of the teacher; their names count, and their source where it can be read.
        precision: what the teacher computes in.
        layers: names of tapped layers, each with its selector.
        codecs: how each output is stored, by its name.
        more: whatever else changes the teacher's output, a seed of its own for instance.
    """
    state = xxhash.xxh3_128()
    parts = [f"format {FORMAT}", f"precision {precision}"]
    parts += [f"layer {layer}" for layer in layers]
    parts += [f"output {name} {codec.to_dict()}" for name, codec in sorted((codecs or {}).items())]
    parts += sorted(f"code {described(kind)}" for kind in set(code))
    parts += [f"more {text}" for text in more]
    for part in parts:
        _add(state, part.encode())
    for weight in weights:
        array = np.ascontiguousarray(weight.array)
        _add(state, f"{weight.name}|{weight.dtype or array.dtype.str}|{array.shape}".encode())
        if array.size:
            data: Any = array.reshape(-1).view(np.uint8)
            state.update(data)
    return state.hexdigest()


def described(kind: type) -> str:
    """A class by its qualified name and, where it can be read, its source."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        return f"{name}\n{inspect.getsource(kind)}"
    except (OSError, TypeError):  # built in, or typed at a prompt
        return name


def _add(state: Any, part: bytes) -> None:
    """Add a part with its length, so that two parts can't be read as one."""
    state.update(len(part).to_bytes(8, "little"))
    state.update(part)
