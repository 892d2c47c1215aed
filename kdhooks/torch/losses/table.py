"""The table of losses by name, and what each compares: logits, features, or either.

One name has one entry in `LOSSES`. MSE, L1, KL and CE have a meaning on features too, which
`FEATURE_LOSSES` holds; both give the same numbers where logits and features have the same axes.
An entry is a function, or a class whose instances own parameters or memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdhooks.losses import LossTables
from kdhooks.losses.tables import Kind, Loss
from kdhooks.names import Table

TABLES = LossTables()
"""Both tables, and what is asked of them by name."""

LOSSES: Table[Loss] = TABLES.losses
"""Every loss by name; names are compared without case, ``_`` and ``-``."""

FEATURE_LOSSES: Table[Loss] = TABLES.feature_losses
"""The losses that compare features; a class here is made from two shapes (`build_feature_loss`)."""

on_features = TABLES.on_features


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


def build_feature_loss(name: str, student_shape: Any, teacher_shape: Any, **options: Any) -> Callable[..., Any]:
    """A loss on features with its options set, ready to be called with two features.

    Args:
        name: of `FEATURE_LOSSES`, or registered.
        student_shape: the shape of the student's feature, batch first; for losses of several layers
            (``fsp``, ``review``) a list of shapes.
        teacher_shape: the same of the teacher.
        options: of the loss, such as ``convention="common"``.

    Returns:
        A function, or an `nn.Module` where the loss owns parameters or memory.

    Raises:
        UsageError: an unknown loss, or an option that it doesn't have.
    """
    return TABLES.build(name, student_shape, teacher_shape, **options)
