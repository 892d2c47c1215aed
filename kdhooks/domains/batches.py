"""What a batch of the target domain holds: the model's input, and labels where there are some.

Rules: those of `kdhooks.loop.batches`, but that a target need not be there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdhooks.config.model import AdaptationSettings
from kdhooks.loop.batches import TARGET_FIELDS, split_batch


def split_target(
    batch: Any, *, inputs: Sequence[str] = (), input_columns: tuple[int, ...] | tuple[str, ...] = ()
) -> tuple[Any, Any]:
    """The input of a batch, and its labels or None.

    Args:
        batch: an input alone, ``(input,)``, ``(input, labels)``, a mapping with or without labels, or a longer tuple.
        inputs: the fields of a mapping that go to the model.
        input_columns: what the columns of a tuple are.

    Raises:
        DataError: the batch has another form.

    >>> split_target("x"), split_target(("x",)), split_target(("x", "y")), split_target({"a": 1})
    (('x', None), ('x', None), ('x', 'y'), ({'a': 1}, None))
    """
    if isinstance(batch, Mapping) and not any(field in batch for field in TARGET_FIELDS if field not in inputs):
        found = split_batch({**batch, TARGET_FIELDS[0]: None}, inputs=inputs, input_columns=input_columns)
        return found.input, None
    if not isinstance(batch, (Mapping, tuple, list)):
        return batch, None
    if isinstance(batch, (tuple, list)) and len(batch) == 1 and not input_columns:
        return batch[0], None
    parts = split_batch(batch, inputs=inputs, input_columns=input_columns)
    return parts.input, parts.target


def columns_of(settings: AdaptationSettings) -> tuple[int, ...] | tuple[str, ...]:
    """``input_columns`` of the target's loaders."""
    loader = settings.eval_dataloader or settings.dataloader
    return () if loader is None else loader.input_columns
