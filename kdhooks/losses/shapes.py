"""Which shapes a loss takes, and the messages where they don't fit: one wording for all backends.

A shape is a sequence of sizes. None is a size that is not known before a graph runs; it fits any.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdhooks.errors import ModelError

Shape = Sequence[int | None]


def fits(first: Shape, second: Shape) -> bool:
    """Whether two shapes are, or may turn out to be, the same.

    >>> fits([None, 10], [8, 10]), fits([4, 3], [1, 3])
    (True, False)
    """
    if len(first) != len(second):
        return False
    return all(a is None or b is None or a == b for a, b in zip(first, second, strict=True))


def without(shape: Shape, axis: int) -> list[int | None]:
    """A shape without one axis: the positions of logits, or of features.

    >>> without([2, 5, 3, 4], 1)
    [2, 3, 4]
    """
    positions = list(shape)
    positions.pop(axis)  # torch 2.8 can compile this, and not a del
    return positions


def check_logits(student: Shape, teacher: Shape) -> None:
    """ModelError where logits are not of one shape, so that nothing broadcasts by accident."""
    if not fits(student, teacher):
        raise ModelError(
            f"the student's logits have shape {list(student)} and the teacher's {list(teacher)}; "
            "both need the same positions and the same classes in the same order"
        )


def check_classes(loss: str, shape: Shape, axis: int) -> None:
    """ModelError where there are fewer than two classes."""
    classes = shape[axis]
    if classes is not None and classes < 2:
        raise ModelError(f"the loss {loss!r} needs two classes or more; the logits have shape {list(shape)}")


def check_mask(mask: Shape, shape: Shape, axis: int, what: str, along: str) -> None:
    """ModelError where a mask has not the shape of the positions.

    Args:
        mask: its shape.
        shape: of what is masked.
        axis: of the classes, or channels.
        what: ``logits`` or ``features``.
        along: ``classes`` or ``channels``.
    """
    positions = without(shape, axis)
    if not fits(mask, positions):
        raise ModelError(
            f"the mask has shape {list(mask)}; for {what} of shape {list(shape)} with the {along} "
            f"on axis {axis} it must be {positions}"
        )


def check_target(target: Shape, shape: Shape, axis: int) -> None:
    """ModelError where class indices have not the shape of the positions."""
    positions = without(shape, axis)
    if not fits(target, positions):
        raise ModelError(
            f"the target has shape {list(target)}; for logits of shape {list(shape)} with the classes "
            f"on axis {axis} it must be {positions}"
        )


def check_tokens(mask: Shape, expected: Shape) -> None:
    """ModelError where the mask of an attention has not the shape of samples and tokens."""
    if not fits(mask, expected):
        raise ModelError(f"the mask has shape {list(mask)}; it must be {list(expected)}: the samples and their tokens")


def check_fit(loss: str, student: Shape, teacher: Shape, good: bool, need: str) -> None:
    """ModelError that names the loss and the shapes of both features, unless they are `good`."""
    if not good:
        raise ModelError(
            f"the loss {loss!r} needs {need}; the student's feature has shape {list(student)} "
            f"and the teacher's {list(teacher)}"
        )


def check_same_shape(loss: str, student: Shape, teacher: Shape) -> None:
    """ModelError where two features are not of one shape."""
    check_fit(loss, student, teacher, fits(student, teacher), "two features of one shape (a feature matcher)")


def check_same_batch(loss: str, student: Shape, teacher: Shape) -> None:
    """ModelError where two features are not of one batch."""
    check_fit(loss, student, teacher, fits(student[:1], teacher[:1]), "two features of one batch")


def check_same_positions(loss: str, student: Shape, teacher: Shape, axis: int) -> None:
    """ModelError where two features differ in batch, number of axes, space or tokens; channels may differ."""
    good = len(student) == len(teacher) > 1 and fits(without(student, axis), without(teacher, axis))
    check_fit(loss, student, teacher, good, "two features of one batch, space or number of tokens")
