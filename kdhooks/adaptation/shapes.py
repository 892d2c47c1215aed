"""Which shapes adapters take, and the messages where they don't fit: one wording for all backends.

A shape is a sequence of sizes, batch first. None is a size that is not known before a graph runs; it fits any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdhooks.errors import ModelError, UsageError

Shape = Sequence[int | None]


def check_layers(adapter: str, count: int, layers: tuple[int, int | None]) -> None:
    """ModelError where an adapter gets another number of features than it looks at."""
    least, most = layers
    if least <= count and (most is None or count <= most):
        return
    if most is None:
        needs = f"{least} layer{'s' * (least > 1)} or more"
    elif least == most:
        needs = f"{least} layer{'s' * (least > 1)}" if least else "no layer, only logits"
    else:
        needs = f"{least} or {most} layers"
    raise ModelError(f"the adapter {adapter!r} looks at {needs}, and gets features of {count}")


def check_counts(adapter: str, source: int, target: int) -> None:
    """ModelError where the domains have features of different numbers of layers."""
    if source != target:
        raise ModelError(
            f"the adapter {adapter!r} needs features of the same layers in both domains, and gets {source} of the "
            f"source and {target} of the target"
        )


def check_rows(adapter: str, domain: str, what: str, shape: Shape) -> None:
    """ModelError where a tensor has no batch axis and another one, or the batch has no row."""
    if len(shape) < 2:
        raise ModelError(f"the adapter {adapter!r} needs {what} of shape [N, ...]; the {domain}'s has {list(shape)}")
    if shape[0] == 0:
        raise ModelError(f"the adapter {adapter!r}: the {domain}'s batch has no row, its {what} is {list(shape)}")


def check_widths(adapter: str, what: str, source: Shape, target: Shape) -> None:
    """ModelError where source and target differ in more than the number of rows."""
    check_rows(adapter, "source", what, source)
    check_rows(adapter, "target", what, target)
    if len(source) == len(target) and all(
        one is None or other is None or one == other for one, other in zip(source[1:], target[1:], strict=True)
    ):
        return
    advice = "" if len(source) != len(target) or len(source) < 3 else "; pool: mean takes the mean over space or tokens"
    raise ModelError(
        f"the adapter {adapter!r} needs {what} of one width in both domains; the source's has shape {list(source)} "
        f"and the target's {list(target)}{advice if what == 'features' else ''}"
    )


def check_classes(adapter: str, shape: Shape, axis: int) -> None:
    """ModelError where logits have fewer than two classes."""
    classes = shape[axis]
    if classes is not None and classes < 2:
        raise ModelError(f"the adapter {adapter!r} needs two classes or more; the logits have shape {list(shape)}")


def check_plain_logits(adapter: str, shape: Shape) -> None:
    """ModelError where logits are not [N, C]."""
    if len(shape) != 2:
        raise ModelError(
            f"the adapter {adapter!r} needs logits [N, C], and they have shape {list(shape)}; for segmentation use cac"
        )


def check_made_for(part: str, adapter: str, made: int, width: int | None) -> None:
    """ModelError where what was made at the first batch gets rows of another width."""
    if width is not None and width != made:
        raise ModelError(
            f"the {part} of {adapter!r} was made for rows of {made} numbers, and gets rows of {width}; "
            "the first batch decides, so make a new adapter for another model"
        )


def check_labels(adapter: str, labels: Shape | None, logits: Shape, axis: int) -> None:
    """UsageError where the source has no labels, ModelError where they don't fit the logits."""
    if labels is None:
        raise UsageError(f"the adapter {adapter!r} needs the source's labels: pass target= to on_after_compute_loss")
    expected = [size for at, size in enumerate(logits) if at != axis % len(logits)]
    if len(labels) != len(expected) or any(
        one is not None and other is not None and one != other for one, other in zip(labels, expected, strict=True)
    ):
        raise ModelError(
            f"the adapter {adapter!r} needs class numbers of shape {expected} for logits of shape {list(logits)}, "
            f"and the source's labels have {list(labels)}"
        )


def a_distance(accuracy: Any) -> Any:
    """The proxy A-distance 2 (1 - 2 ε) of a discriminator with this accuracy 1 - ε, 0 for guessing and 2 at most.

    A number gives a number, a tensor of any framework a tensor. Ben-David et al. 2007, "Analysis of Representations for
    Domain Adaptation", section 4.

    >>> a_distance(0.5), a_distance(1.0)
    (0.0, 2.0)
    """
    return 2 * (1 - 2 * (1 - accuracy))
