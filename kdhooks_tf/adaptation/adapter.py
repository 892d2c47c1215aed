"""What adapters share: two batches in, one scalar out, and variables that are made for the first batches.

An adapter never runs the student and never touches its variables; features and logits are handed to it, channels and
classes last. What it owns comes from stateless operations, so no generator of the user's moves. Everything is computed
in float32 or wider, and the two batches may have different sizes: every mean is taken within its domain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf

from kdhooks.adaptation import ADAPTER_RULES
from kdhooks.adaptation.shapes import check_layers, check_rows, check_widths
from kdhooks.names import Table
from kdhooks_tf.losses.features import rows
from kdhooks_tf.losses.positions import shape_of
from kdhooks_tf.losses.table import unconverted
from kdhooks_tf.matcher_training import outside_of_graphs

Tensor = Any
Coefficient = float | Tensor


@dataclass(frozen=True, slots=True)
class DomainBatch:
    """What one domain's batch gave in a step.

    Attributes:
        features: at the adapter's layers, in their order, each [N, ...] with channels last.
        logits: the student's output, [N, C] or [N, ..., C].
        labels: class numbers [N] or [N, ...]; None for an unlabelled domain.
    """

    features: tuple[Tensor, ...]
    logits: Tensor
    labels: Tensor | None = None


class Adapter(tf.Module):  # type: ignore[misc]
    """One term that brings two domains together: ``adapter(source, target, coefficient=c)`` is a scalar.

    ``trainable_variables`` are what learns, ``variables`` what a state holds, both in an order that doesn't change.

    Args:
        options: those of `kdhooks.adaptation.ADAPTER_RULES`.

    Attributes:
        name: in the table `ADAPTERS`.
        adversarial: whether `coefficient`, the strength of the gradient's reversal, matters.
        layers: fewest and most layers that it looks at; 0 where logits are enough, None where any number goes.
        made_for: the sizes that its variables were made for; None before the first batch.

    Raises:
        UsageError: an unknown option, or one out of its range.
    """

    name: ClassVar[str]
    adversarial: ClassVar[bool] = False
    layers: ClassVar[tuple[int, int | None]] = (0, 0)

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = ADAPTER_RULES[self.name].read(options)
        self.made_for: dict[str, Any] | None = None
        self._measures: dict[str, Tensor] = {}

    def build(self, source: DomainBatch, target: DomainBatch) -> None:
        """Make what the adapter owns, for the shapes of the first batch; building again does nothing.

        Raises:
            ModelError: shapes that the method can't do with.
        """
        if self.made_for is None:
            self._check(source, target)
            self.make({**self._sizes(source), "dtype": parameter_dtype(source)})

    def make(self, sizes: dict[str, Any]) -> None:
        """Make the variables for these sizes, as `made_for` has them."""
        with outside_of_graphs():
            self._make(sizes)
        self.made_for = sizes

    def __call__(self, source: DomainBatch, target: DomainBatch, *, coefficient: Coefficient = 1.0) -> Tensor:
        """The unweighted loss of this step, a scalar in float32 or wider.

        Args:
            source: the source's batch.
            target: the target's, of any size.
            coefficient: of the gradient reversal, a number or a scalar tensor.

        Raises:
            ModelError: shapes that don't fit.
        """
        self.build(source, target)
        self._check(source, target)
        self._measures = {}
        run: Callable[..., Tensor] = unconverted(self._loss)
        return run(widened(source), widened(target), coefficient)

    def measures(self) -> dict[str, Tensor]:
        """What the last call measured, scalars without a gradient: ``domain_accuracy`` of adversarial methods."""
        return dict(self._measures)

    def _check(self, source: DomainBatch, target: DomainBatch) -> None:
        """ModelError for what the method can't take."""
        check_layers(self.name, len(source.features), self.layers)
        for ours, theirs in zip(source.features, target.features, strict=True):
            pooled = [_pooled_shape(one, self.options.get("pool")) for one in (ours, theirs)]
            check_widths(self.name, "features", *pooled)
        check_widths(self.name, "logits", shape_of(source.logits), shape_of(target.logits))

    def _sizes(self, source: DomainBatch) -> dict[str, Any]:
        """What the variables are made for, plain data."""
        return {}

    def _make(self, sizes: dict[str, Any]) -> None:
        """Make the variables; nothing to do for formulas."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        """The formula, of batches in float32 or wider."""
        raise NotImplementedError

    def _rows(self, feature: Tensor) -> Tensor:
        """A feature as one row a sample, [N, D], as the option ``pool`` says."""
        return pooled_rows(feature, self.options.get("pool", "flatten"))


ADAPTERS: Table[type[Adapter]] = Table("adapter")
"""The adapters of TensorFlow by their lower-case names; compared without case, ``_`` and ``-``."""


def named(name: str) -> Callable[[type[Adapter]], type[Adapter]]:
    """Enter an adapter in `ADAPTERS`, with what the core knows of it."""

    def put(kind: type[Adapter]) -> type[Adapter]:
        known = ADAPTER_RULES[name]
        kind.name, kind.adversarial, kind.layers = known.name, known.adversarial, known.layers
        ADAPTERS.add(name, kind)
        return kind

    return put


def pooled_rows(feature: Tensor, pool: str) -> Tensor:
    """[N, D] of [N, ..., C]: all numbers of a sample, or with ``mean`` their mean over space or tokens."""
    if pool == "mean" and len(shape_of(feature)) > 2:
        feature = tf.reduce_mean(feature, list(range(1, len(shape_of(feature)) - 1)))
    return rows(feature)


def two_domains(adapter: str, source: Tensor, target: Tensor, pool: str) -> tuple[Tensor, Tensor]:
    """Rows of both domains, in one dtype of float32 or wider; ModelError where they have not one width."""
    source, target = (wide(tf.convert_to_tensor(one)) for one in (source, target))
    check_widths(adapter, "features", _pooled_shape(source, pool), _pooled_shape(target, pool))
    return pooled_rows(source, pool), pooled_rows(tf.cast(target, source.dtype), pool)


def _pooled_shape(feature: Tensor, pool: str | None) -> list[int | None]:
    shape = shape_of(feature)
    return [shape[0], shape[-1]] if pool == "mean" and len(shape) > 2 else shape


def row_width(adapter: str, feature: Tensor, pool: str) -> int | None:
    """The numbers of a sample's row, or None where that is not known before a graph runs."""
    check_rows(adapter, "source", "features", shape_of(feature))
    sizes: Sequence[int | None] = _pooled_shape(feature, pool)[1:]
    width = 1
    for size in sizes:
        if size is None:
            return None
        width *= size
    return width


def parameter_dtype(batch: DomainBatch) -> str:
    """float32, or float64 where a feature is."""
    return "float64" if any(one.dtype == tf.float64 for one in (*batch.features, batch.logits)) else "float32"


def widened(batch: DomainBatch) -> DomainBatch:
    """The batch in float32 or wider."""
    return DomainBatch(tuple(wide(one) for one in batch.features), wide(batch.logits), batch.labels)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider."""
    return tf.cast(tensor, tf.float32) if tensor.dtype in (tf.float16, tf.bfloat16) else tensor
