"""The table of losses by name, and what each compares: logits, features, or either.

One name has one entry in `LOSSES`. MSE, L1, KL and CE have a meaning on features too, which
`FEATURE_LOSSES` holds; both give the same numbers. An entry is a function, or a class whose instances
own variables. AutoGraph leaves the functions alone: none of them branches in Python on a tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import tensorflow as tf

from kdhooks.losses import LossTables
from kdhooks.losses.tables import Kind, Loss
from kdhooks.names import Table

Entry = TypeVar("Entry", bound=Loss)

TABLES = LossTables()
"""Both tables, and what is asked of them by name."""

LOSSES: Table[Loss] = TABLES.losses
"""Every loss by name; names are compared without case, ``_`` and ``-``."""

FEATURE_LOSSES: Table[Loss] = TABLES.feature_losses
"""The losses that compare features; a class here is made from two shapes (`build_feature_loss`)."""

on_features = TABLES.on_features


def unconverted(function: Entry) -> Entry:
    """The function, which AutoGraph doesn't rewrite: tracing is quicker and errors keep their text."""
    return cast(Entry, tf.autograph.experimental.do_not_convert(function))


def on_logits(name: str, *aliases: str) -> Callable[[Entry], Entry]:
    """Enter a loss on logits in `LOSSES`."""

    def put(loss: Entry) -> Entry:
        entry = unconverted(loss)
        LOSSES.add(name, entry, aliases=aliases)
        return entry

    return put


def loss_kind(name: str) -> Kind:
    """What a loss of `LOSSES` compares; UsageError where there is none of this name."""
    return TABLES.kind(name)


def logit_loss(name: str, /, **options: Any) -> Loss:
    """The loss on logits of a name in `LOSSES`, or one that was registered, with its options set.

    Raises:
        UsageError: there is none, it compares features, or it has no such option.
    """
    return TABLES.logit_loss(name, **options)


def feature_loss(name: str) -> Loss:
    """The loss on features of a name in `FEATURE_LOSSES`, or one that was registered.

    Returns:
        A function ``f(student_feature, teacher_feature, *, ...)``, or a class that is called with the
        two shapes first.

    Raises:
        UsageError: there is none, or it compares logits.
    """
    return TABLES.feature_loss(name)


def takes_sample_weight(name: str) -> bool:
    """Whether a loss on features is a mean over samples, which ``sample_weight=`` can weigh.

    >>> takes_sample_weight("hint"), takes_sample_weight("rkd")
    (True, False)
    """
    return "sample_weight" in TABLES.options(name)


def build_feature_loss(name: str, student_shape: Any, teacher_shape: Any, **options: Any) -> Callable[..., Any]:
    """A loss on features with its options set, ready to be called with two features.

    Args:
        name: of `FEATURE_LOSSES`, or registered.
        student_shape: the shape of the student's feature, batch first and channels last; for losses of
            several layers (``fsp``, ``review``) a list of shapes.
        teacher_shape: the same of the teacher.
        options: of the loss, such as ``convention="common"``.

    Returns:
        A function, or a `LossModule` where the loss owns variables.

    Raises:
        UsageError: an unknown loss, or an option that it doesn't have.
    """
    return TABLES.build(name, student_shape, teacher_shape, **options)
