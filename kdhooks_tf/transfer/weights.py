"""The transfer itself: from a Keras model, a file or a mapping of arrays into the weights of a student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kdhooks.config.finetune_settings import FinetuneSettings
from kdhooks.errors import ModelError
from kdhooks.transfer import Layout, Move, TransferReport, plan, resized, settings_of
from kdhooks_tf.layer_names import require_built
from kdhooks_tf.transfer.files import Held, opened
from kdhooks_tf.transfer.names import named_weights

LAYOUT = Layout(inputs=-2, classes=-1)
"""Kernels are [..., inputs, outputs]; heads [inputs, classes] and [classes]."""


def transfer_weights(
    student: Any, source: Any, settings: FinetuneSettings | None = None, **options: Any
) -> TransferReport:
    """Give a student the weights of a source where they fit; nothing is touched where the whole is an error.

    Args:
        student: a built Keras model.
        source: a built Keras model, the path of a file (see `kdhooks_tf.transfer.files`), or a mapping from names to
            arrays or tensors.
        settings: of ``finetune``.
        options: the same by keyword, as the YAML has them: ``rename``, ``prefixes``, ``by_order``, ``exclude``,
            ``on_mismatch``, ``class_map``.

    Returns:
        What became of each weight.

    Raises:
        TransferError: nothing fits, or rules and shapes are at fault.
        ConfigError: a wrong option.
        ModelError: a model that is not built, or a source that is none of these.
        DataError, MissingPackageError: of a file.

    Example:
        >>> layers = keras.layers
        >>> small = keras.Sequential([keras.Input((4,)), layers.Dense(8, name="body"), layers.Dense(3, name="head")])
        >>> large = keras.Sequential([keras.Input((4,)), layers.Dense(8, name="body"), layers.Dense(9, name="head")])
        >>> report = transfer_weights(small, large)
        >>> report.transferred, report.skipped
        (('body/kernel', 'body/bias'), ('head/kernel', 'head/bias'))
    """
    settings = settings_of(**options) if settings is None else settings
    require_built(student, "student")
    own = named_weights(student)
    with arrays_of(source, student) as (held, words):
        shapes = {name: tuple(one.shape) for name, one in own.items()}
        theirs = {name: tuple(one.shape) for name, one in held.items()}
        made = plan(shapes, theirs, settings, LAYOUT, names=(words, type(student).__name__))
        for move in made.moves:
            _put(own[move.target], held[move.source], move)
    return made.report


def _put(variable: Any, held: Held, move: Move) -> None:
    value = np.asarray(held)
    if move.resize is not None:
        before = np.array(variable.numpy())
        value = resized(move.resize, value.astype(before.dtype), before)
    variable.assign(value)


@contextmanager
def arrays_of(source: Any, student: Any) -> Iterator[tuple[Mapping[str, Held], str]]:
    """What a source holds by name, and the source in words; files stay open for as long as the block lasts."""
    if isinstance(source, keras.Layer):
        require_built(source, "pretrained_model")
        yield {name: _Variable(one) for name, one in named_weights(source).items()}, f"the {type(source).__name__}"
    elif isinstance(source, Mapping):
        yield {str(name): _array(str(name), one) for name, one in source.items()}, "the mapping of arrays"
    elif isinstance(source, (str, Path)):
        with opened(Path(source), student) as held:
            yield held, Path(source).name
    else:
        raise ModelError(
            f"weights come from a Keras model, a file or a mapping of arrays, and not from {type(source).__name__}"
        )


class _Variable:
    """A weight of another model, read when it is moved."""

    def __init__(self, variable: Any) -> None:
        self._variable, self.shape = variable, variable.shape

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self._variable.numpy(), dtype)


def _array(name: str, value: Any) -> Held:
    if isinstance(value, keras.Variable):
        return _Variable(value)
    found = np.asarray(value)
    if found.dtype == object:
        raise ModelError(f"{name!r} is no array but {type(value).__name__}")
    return found
