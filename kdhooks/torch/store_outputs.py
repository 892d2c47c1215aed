"""Fills a store with a teacher's logits from a program, where there is no student and no configuration yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Literal

from torch import nn

from kdhooks.config import DistillationConf
from kdhooks.stored.building import Filled, fill_spaces
from kdhooks.torch.backend import BACKEND
from kdhooks.torch.criteria import KnowledgeDistillationLoss


def store_outputs(
    teacher: nn.Module,
    inputs: Iterable[Any],
    store: str | os.PathLike[str],
    *,
    sample_ids: Iterable[Any] | None = None,
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32",
    top_k: int | None = None,
    options: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = (),
    progress: Callable[[int], Any] | None = None,
) -> Filled:
    """Store the logits of a teacher, where they are not stored yet, in the order of their keys.

    What it writes is what `distillation.cache` reads with the same teacher and the same options, and what
    `StoredOutputs` hands out where no teacher is loaded. An interrupted call goes on where it was at the next one.

    Args:
        teacher: runs in eval mode without gradients, where it is; afterwards it is as it was.
        inputs: batches as the teacher takes them: a tensor [N, ...], a tuple or list of arguments, or a mapping.
        store: the folder; it is made where it is missing.
        sample_ids: for each batch one number or name a row, by which rows are found in place of their content.
        dtype: of stored logits.
        top_k: keep so many of the largest logits, and the mass of the rest; None keeps all.
        options: as ``distillation.teacher`` of a configuration: ``{"precision": "bf16"}``.
        outputs: keys or attributes in which the teacher's output holds its logits.
        progress: called with how many rows were done.

    Returns:
        How many rows there were and how many were computed, and the name under which they lie.

    Raises:
        ConfigError: an option that is none, or the packages of a store are missing.
        StoreError: the store can't be written, or this teacher can't be stored.
        ModelError: no logits in what the teacher returns.

    Example:
        >>> import tempfile, torch
        >>> teacher = torch.nn.Linear(4, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for _ in range(2):
        ...         filled = store_outputs(teacher, [torch.eye(4), torch.ones(2, 4)], folder)
        ...         print(filled.rows, filled.computed)
        6 5
        6 0
    """
    cache = {"path": os.fspath(store), "dtype": dtype, "top_k": top_k}
    said = {"model": {"outputs": list(outputs)}, "distillation": {"cache": cache, "teacher": dict(options or {})}}
    stored = BACKEND.teachers({"teacher": teacher}, nn.Module(), DistillationConf(said))["teacher"]
    stored.follow_criteria((KnowledgeDistillationLoss(outputs=outputs),))
    given = zip(inputs, repeat(None), strict=False) if sample_ids is None else zip(inputs, sample_ids, strict=True)
    stored.on_train_begin()
    try:
        return fill_spaces({"teacher": stored}, given, progress or (lambda rows: None))
    finally:
        stored.on_train_end()
