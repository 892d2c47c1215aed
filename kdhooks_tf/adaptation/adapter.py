"""What adapters share: two batches in, one scalar out, and variables that are made for the first batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf

from kdhooks.errors import ModelError
from kdhooks_tf.losses.positions import shape_of
from kdhooks_tf.losses.table import unconverted

Tensor = Any
Coefficient = float | Tensor


@dataclass(frozen=True, slots=True)
class DomainBatch:
    """What one domain's batch gave in a step.

    Attributes:
        features: at the adapter's layers, in their order, each [N, ...] with channels last.
        logits: the student's output, [N, C] or [N, ..., C].
        labels: class numbers, -1 or below where a row has none; None where none has.
    """

    features: tuple[Tensor, ...]
    logits: Tensor
    labels: Tensor | None = None


class Adapter(tf.Module):  # type: ignore[misc]
    """One term that brings two domains together: ``adapter(source, target, coefficient=c)`` is a scalar.

    Variables are made by `build`, from a private generator, so that neither the user's random state nor a model that
    is not built yet is in the way. ``trainable_variables`` are what learns, ``variables`` what a state holds, both in
    an order that doesn't change.

    Attributes:
        name: as the YAML and `ADAPTERS` have it.
        adversarial: whether `coefficient`, the strength of the gradient's reversal, matters.
        layers: the fewest and most layers that it looks at besides the logits; None is no limit.
    """

    kind: ClassVar[str] = ""
    adversarial: ClassVar[bool] = False
    layers: ClassVar[tuple[int, int | None]] = (0, 0)

    def __init__(self) -> None:
        super().__init__()
        self.made_for: list[list[int | None]] | None = None
        self._measures: dict[str, Tensor] = {}

    def build(self, source: DomainBatch, target: DomainBatch) -> None:
        """Make the variables for batches of these shapes; a second call does nothing.

        Raises:
            ModelError: the shapes of both domains, or of what a saved state was made for, don't go together.
        """
        shapes = [widths(one) for one in (*source.features, source.logits)]
        if self.made_for is None:
            self._make(shapes, parameter_dtype(source))
            self.made_for = shapes

    def make(self, shapes: Sequence[Sequence[int | None]], dtype: str) -> None:
        """Make the variables for features and logits of these widths, as a saved state has them."""
        self._make([list(one) for one in shapes], dtype)
        self.made_for = [list(one) for one in shapes]

    def _make(self, shapes: list[list[int | None]], dtype: str) -> None:
        """Make the variables; nothing to do for formulas."""

    def __call__(self, source: DomainBatch, target: DomainBatch, *, coefficient: Coefficient = 1.0) -> Tensor:
        """The unweighted term of this step, a scalar of float32 or wider.

        Raises:
            ModelError: features of both domains that don't fit each other.
        """
        check_domains(self.kind, source, target)
        self.build(source, target)
        run: Callable[..., Tensor] = unconverted(self._loss)
        return run(widened(source), widened(target), coefficient)

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        raise NotImplementedError

    def measures(self) -> dict[str, Tensor]:
        """What the last call found out besides its value, scalars by name without a gradient."""
        return dict(self._measures)


def check_domains(kind: str, source: DomainBatch, target: DomainBatch) -> None:
    """ModelError where the two domains differ in more than the number of their rows."""
    for ours, theirs in zip((*source.features, source.logits), (*target.features, target.logits), strict=True):
        if len(shape_of(ours)) != len(shape_of(theirs)) or any(
            one is not None and other is not None and one != other
            for one, other in zip(shape_of(ours)[1:], shape_of(theirs)[1:], strict=True)
        ):
            raise ModelError(
                f"{kind} compares features of one width: the source's have shape {shape_of(ours)} and the target's "
                f"{shape_of(theirs)}; only the number of rows may differ"
            )


def widths(feature: Tensor) -> list[int | None]:
    """The shape of one row."""
    return shape_of(feature)[1:]


def parameter_dtype(batch: DomainBatch) -> str:
    """float32, or float64 where a feature is."""
    return "float64" if any(one.dtype == tf.float64 for one in (*batch.features, batch.logits)) else "float32"


def widened(batch: DomainBatch) -> DomainBatch:
    """The batch in float32 or wider."""
    features = tuple(_wide(one) for one in batch.features)
    return DomainBatch(features, _wide(batch.logits), batch.labels)


def _wide(tensor: Tensor) -> Tensor:
    return tf.cast(tensor, tf.float32) if tensor.dtype in (tf.float16, tf.bfloat16) else tensor
