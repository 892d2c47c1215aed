"""Tensors of another shape: what is done to them, decided by shapes and computed in NumPy for all backends.

Rules: a decision knows names and shapes only; `resized` gets the source's array and the student's own, of which it
keeps what the source has nothing for. Interpolation is that of Pillow and of `torch.nn.functional.interpolate` with
``antialias=True``: a kernel that widens where the size shrinks; cubic convolution with a = -1/2 (Keys 1981).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.config.finetune_settings import Mismatch
from kdhooks.resampling import resampling
from kdhooks.transfer.report import Shape

Array = NDArray[np.floating[Any]]


class Unfit(Exception):
    """A tensor that this way of resizing can't make fit; the message says why."""


@dataclass(frozen=True)
class Layout:
    """Where a framework's weights have which axis.

    Attributes:
        inputs: the axis of input channels or features.
        classes: the axis of a classifier's outputs.
    """

    inputs: int
    classes: int


@dataclass(frozen=True)
class Resize:
    """How an array of one shape becomes one of another.

    Attributes:
        kind: ``slice``, ``repeat``, ``linear``, ``bicubic``, ``grid`` or ``classes``.
        words: the same for people.
        axes: that change.
        preserves: whether the sum over a repeated axis is kept.
        kept: tokens at the beginning of a grid that are taken as they are.
        grids: sides of the old and of the new grid.
        classes: the student's class -> the source's.
    """

    kind: str
    words: str
    axes: tuple[int, ...] = ()
    preserves: bool = False
    kept: int = 0
    grids: tuple[int, int] = (0, 0)
    classes: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


def decide(action: Mismatch, name: str, source: Shape, target: Shape, layout: Layout, *, named: bool) -> Resize:
    """What makes a tensor of the source fit.

    Args:
        action: what the user asked for.
        name: of the student's tensor.
        source: the shape there.
        target: the shape here.
        layout: of the framework.
        named: whether the user named this tensor by a pattern, and did not just ask it of all.

    Raises:
        Unfit: it can't; the message says why.
    """
    if len(source) != len(target):
        raise Unfit(f"{len(source)} axes there and {len(target)} here")
    axes = tuple(axis for axis, (one, other) in enumerate(zip(source, target, strict=True)) if one != other)
    if action == "slice":
        return Resize("slice", _slice_words(source, target), axes)
    if action == "repeat":
        return _repeat(axes, source, target, layout)
    channels = {layout.inputs % 4, layout.classes % 4}
    meant = named or _is_position(name)
    return _interpolate(action, name, axes, source, target, meant=meant, spatial=channels.isdisjoint(axes))


def _slice_words(source: Shape, target: Shape) -> str:
    larger = any(one < other for one, other in zip(source, target, strict=True))
    return "slice" + (", the rest at initialisation" if larger else "")


def _repeat(axes: tuple[int, ...], source: Shape, target: Shape, layout: Layout) -> Resize:
    if len(axes) != 1:
        raise Unfit(f"repeat changes one axis, and {len(axes)} differ")
    inputs = len(target) > 1 and axes[0] == layout.inputs % len(target)
    if not inputs and source[axes[0]] > target[axes[0]]:
        raise Unfit("repeat makes an axis longer, and this one is shorter here")
    return Resize("repeat", "repeat, the sum over input channels kept" if inputs else "repeat", axes, inputs)


def _is_position(name: str) -> bool:
    """Whether a name says that a tensor holds positions, as pos_embed, embed_positions and wpe do.

    >>> [_is_position(name) for name in ("vit.pos_embed", "embed_positions.weight", "transposed.weight")]
    [True, True, False]
    """
    words = re.split("[^a-z0-9]+", name.casefold())
    return any(word in ("pos", "wpe") or word.startswith(("position", "posemb")) for word in words)


def _interpolate(
    action: Mismatch, name: str, axes: tuple[int, ...], source: Shape, target: Shape, *, meant: bool, spatial: bool
) -> Resize:
    beside = len(axes) == 2 and axes[1] == axes[0] + 1 and len(target) == 4
    if action == "interpolate" and beside and (spatial or meant):
        sizes = [f"{shape[axes[0]]}×{shape[axes[1]]}" for shape in (source, target)]
        return Resize("bicubic", f"bicubic {sizes[0]} -> {sizes[1]}", axes)
    if len(axes) != 1 or len(target) < 2:
        raise Unfit("interpolate changes one axis of positions or two of a map, and neither differs")
    if not meant:
        raise Unfit("interpolate is for positions and kernels; name this tensor by a pattern if it is meant")
    grid = None if action == "linear" else _grid(action, name, source[axes[0]], target[axes[0]], len(target))
    if grid is not None:
        kept, old, new = grid
        tokens = f", {kept} token{'s' if kept > 1 else ''} kept" if kept else ""
        return Resize("grid", f"bicubic {old}×{old} -> {new}×{new}{tokens}", axes, kept=kept, grids=(old, new))
    if action == "grid":
        raise Unfit("its positions are no square grids with as many tokens before both")
    return Resize("linear", f"linear {source[axes[0]]} -> {target[axes[0]]}", axes)


def _grid(action: Mismatch, name: str, source: int, target: int, axes: int) -> tuple[int, int, int] | None:
    """Tokens before the grid, and the sides of both; None where the positions stand in a line.

    [1, N, D] is how models of images hold positions; of a table [N, D], which may be one of words, a class token
    before two squares, or the name of relative positions, says that it is one.
    """
    least = 0 if action == "grid" or axes == 3 or "relative_position" in name else 1
    for kept in range(least, 3):
        old, new = math.isqrt(max(source - kept, 0)), math.isqrt(max(target - kept, 0))
        if old > 1 and new > 1 and old * old == source - kept and new * new == target - kept:
            return kept, old, new
    return None


def by_classes(classes: Mapping[int, tuple[int, ...]], source: Shape, target: Shape, layout: Layout) -> Resize:
    """A classifier's weights, class by class.

    Raises:
        Unfit: other axes than that of the classes differ, or a class is not there.
    """
    if len(source) != len(target) or not target:
        raise Unfit(f"{len(source)} axes there and {len(target)} here")
    axis = layout.classes % len(target)
    if any(one != other for at, (one, other) in enumerate(zip(source, target, strict=True)) if at != axis):
        raise Unfit("class_map changes the axis of classes, and another one differs")
    for mine, theirs in classes.items():
        if mine >= target[axis]:
            raise Unfit(f"class_map names class {mine}, and there are {target[axis]} here")
        beyond = [one for one in theirs if one >= source[axis]]
        if beyond:
            raise Unfit(f"class_map names class {beyond[0]} of the source, which has {source[axis]}")
    rest = target[axis] - len(classes)
    words = f"{len(classes)} classes" + (f", {rest} at initialisation" if rest else "")
    return Resize("classes", words, (axis,), classes=classes)


def resized(resize: Resize, source: Array, own: Array) -> Array:
    """The values that the student begins with, of its shape.

    Args:
        resize: what was decided for these shapes.
        source: the source's array.
        own: the student's, of the same dtype.
    """
    if resize.kind == "slice":
        common = tuple(slice(min(one, other)) for one, other in zip(source.shape, own.shape, strict=True))
        result = own.copy()
        result[common] = source[common]
        return result
    if resize.kind == "repeat":
        return _repeated(source, resize.axes[0], own.shape[resize.axes[0]], preserves=resize.preserves)
    if resize.kind == "classes":
        return _mapped(resize, source, own)
    if resize.kind == "grid":
        return _regridded(resize, source)
    for axis in resize.axes:
        matrix = resampling(source.shape[axis], own.shape[axis], cubic=resize.kind == "bicubic")
        source = _along(source, axis, matrix)
    return source


def _repeated(source: Array, axis: int, size: int, *, preserves: bool) -> Array:
    """Copies in turn; where the sum is kept each is divided by their number, and what is too much is folded in."""
    old = source.shape[axis]
    if size < old:
        folded = np.zeros((size, old))
        folded[np.arange(old) % size, np.arange(old)] = 1
        return _along(source, axis, folded)
    index = np.arange(size) % old
    result: Array = np.take(source, index, axis)
    if not preserves:
        return result
    shares = (1 / np.bincount(index, minlength=old)[index]).reshape(
        [-1 if at == axis else 1 for at in range(source.ndim)]
    )
    scaled: Array = (result * shares).astype(source.dtype)
    return scaled


def _mapped(resize: Resize, source: Array, own: Array) -> Array:
    result, (axis,) = np.moveaxis(own.copy(), resize.axes[0], 0), resize.axes
    theirs = np.moveaxis(source, axis, 0)
    for mine, several in resize.classes.items():
        result[mine] = theirs[list(several)].mean(0)
    return np.moveaxis(result, 0, axis)


def _regridded(resize: Resize, source: Array) -> Array:
    axis, (old, new) = resize.axes[0], resize.grids
    tokens, cells = np.split(source, [resize.kept], axis)
    shape = list(cells.shape)
    cells = cells.reshape([*shape[:axis], old, old, *shape[axis + 1 :]])
    matrix = resampling(old, new, cubic=True)
    cells = _along(_along(cells, axis, matrix), axis + 1, matrix)
    return np.concatenate([tokens, cells.reshape([*shape[:axis], new * new, *shape[axis + 1 :]])], axis)


def _along(array: Array, axis: int, matrix: Array) -> Array:
    """An axis multiplied by a matrix [new, old]."""
    result = np.moveaxis(np.tensordot(matrix, array.astype(matrix.dtype), (1, axis)), 0, axis)
    return result.astype(array.dtype)
