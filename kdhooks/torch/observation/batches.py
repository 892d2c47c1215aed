"""What can be seen of batches and their loader without a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdhooks.check import DataFacts, InputFacts
from kdhooks.config import DistillationConf
from kdhooks.config.model import DataloaderSettings
from kdhooks.datasets.order import BatchOrder
from kdhooks.errors import DataError, UsageError
from kdhooks.loop.batches import TARGET_FIELDS, Batch, split_batch
from kdhooks.torch.observation.untouched import untouched
from kdhooks.torch.placement import data_seed


def loader_of(distiller: Any, dataloader: Any) -> Any:
    """What to look at: what was handed in, the distiller's own, or the YAML's.

    Raises:
        UsageError: there is none, or it is an iterator, whose batches would be used up.
    """
    train = distiller.conf.settings.distillation.train
    found = dataloader if dataloader is not None else distiller.train_dataloader
    if found is None and train.dataloader is not None:
        from kdhooks.torch.data import build_dataloader

        return build_dataloader(train.dataloader, seed=distiller.conf.settings.tuning.random_seed or 0)
    if found is None:
        raise UsageError("check() needs batches: pass a dataloader, set train_dataloader, or describe one in the YAML")
    if isinstance(found, Iterator):  # iter() would already begin an epoch
        raise UsageError("check() would use up this iterator's batches: pass a dataloader that can be iterated again")
    return found


def parts_of(batch: Any, distiller: Any) -> Batch:
    """A batch as `fit()` splits it; one without a target is a batch for distillation alone."""
    settings = distiller.conf.settings
    return _parts(batch, settings.model.inputs, settings.distillation.train.dataloader)


def first_inputs(dataloader: Any, conf: DistillationConf, backend: Any) -> Any:
    """The model's inputs in the first batch of a loader, or None; see `kdhooks.backend.Backend.first_inputs`.

    Raises:
        UsageError: the loader is an iterator, whose batch would be lost.
        DataError: a batch has a form that `fit()` would not take either.
    """
    settings = conf.settings
    described = settings.distillation.train.dataloader
    if isinstance(dataloader, DataloaderSettings):
        from kdhooks.torch.data import build_dataloader

        described, dataloader = dataloader, build_dataloader(dataloader, seed=data_seed(conf), train=False)
    if isinstance(dataloader, Iterator):  # iter() would already begin an epoch
        raise UsageError("a batch of this iterator would be lost: pass a dataloader that can be iterated again")
    with untouched((), dataloader, backend):
        batch = next(iter(dataloader), None)
    return None if batch is None else _parts(batch, settings.model.inputs, described).input


def _parts(batch: Any, inputs: Sequence[str], dataloader: DataloaderSettings | None) -> Batch:
    columns = () if dataloader is None else dataloader.input_columns
    if isinstance(batch, Tensor):
        return Batch(batch, None)
    if isinstance(batch, (tuple, list)) and len(batch) == 1 and not columns:
        return Batch(batch[0], None)
    if isinstance(batch, Mapping) and not any(field in batch for field in TARGET_FIELDS):
        return Batch({name: batch[name] for name in inputs or batch}, None)
    return split_batch(batch, inputs=inputs, input_columns=columns)


class SeenData:
    """Gathers `DataFacts` batch by batch."""

    def __init__(self, ignore_index: int | None) -> None:
        self._ignore = -100 if ignore_index is None else ignore_index
        self._inputs: dict[str, _SeenInput] = {}
        self._labels: list[Any] = []
        self._count, self._rows, self._first_rows = 0, 0, 0
        self._dtype, self._soft, self._are_inputs = "", False, True
        self._shape: tuple[int, ...] = ()
        self._by_row = True

    def add(self, batch: Batch, target: Any) -> None:
        """One more batch, and its labels as the student's loss sees them."""
        rows = 0
        for name, tensor in tensors_of(batch.input):
            self._inputs.setdefault(name, _SeenInput(name, tensor)).add(tensor, self._count)
            rows = rows or (len(tensor) if tensor.ndim else 1)
        self._first_rows = self._first_rows or rows
        self._rows += rows
        self._count += 1
        self._are_inputs = self._are_inputs and labels_are_inputs(batch)
        if isinstance(target, Tensor):
            self._add_labels(target.detach().cpu())

    def _add_labels(self, target: Tensor) -> None:
        self._dtype = self._dtype or str(target.dtype).removeprefix("torch.")
        self._shape = self._shape or tuple(target.shape)
        if target.is_floating_point():
            self._soft = is_distribution(target)
            if not self._soft:
                return
            target = target.argmax(-1)
        self._by_row = self._by_row and target.numel() == len(target)
        self._labels.append(target.flatten().numpy().astype(np.int64))

    def facts(self, dataloader: Any, steps_at_most: int | None, repeats: bool | None) -> DataFacts:
        """All that was seen, and what the loader says of itself."""
        steps = _length(dataloader)
        return DataFacts(
            batches=self._count,
            rows=self._rows,
            steps=steps if steps is None or steps_at_most is None else min(steps, steps_at_most),
            batch_size=self._first_rows,
            last_rows=_last_rows(dataloader),
            inputs=tuple(seen.facts() for seen in self._inputs.values()),
            labels=np.concatenate(self._labels) if self._labels else np.zeros(0, dtype=np.int64),
            label_dtype=self._dtype,
            label_shape=self._shape,
            soft_labels=self._soft,
            row_labels=self._by_row,
            labels_are_inputs=bool(self._labels) and self._are_inputs,
            ignore_index=self._ignore,
            repeats=repeats,
        )


class _SeenInput:
    def __init__(self, name: str, tensor: Tensor) -> None:
        self._name, self._shape = name, tuple(tensor.shape)
        self._dtype, self._floating = str(tensor.dtype).removeprefix("torch."), tensor.is_floating_point()
        self._low, self._high, self._sum, self._squares, self._count = np.inf, -np.inf, 0.0, 0.0, 0
        self._bad: list[int] = []

    def add(self, tensor: Tensor, number: int) -> None:
        values = tensor.detach().cpu().double().flatten()
        finite = values[torch.isfinite(values)]
        if len(finite) < len(values):
            self._bad.append(number)
        if len(finite):
            self._low, self._high = min(self._low, float(finite.min())), max(self._high, float(finite.max()))
            self._sum, self._count = self._sum + float(finite.sum()), self._count + len(finite)
            self._squares += float(finite.square().sum())

    def facts(self) -> InputFacts:
        count = max(1, self._count)
        mean = self._sum / count
        return InputFacts(
            name=self._name,
            shape=self._shape,
            dtype=self._dtype,
            floating=self._floating,
            low=self._low if self._count else 0.0,
            high=self._high if self._count else 0.0,
            mean=mean,
            std=float(np.sqrt(max(0.0, self._squares / count - mean * mean))) if self._low < self._high else 0.0,
            non_finite=tuple(self._bad),
        )


def tensors_of(value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an input with their names: ``input``, ``input[1]``, or keywords."""
    if isinstance(value, Tensor):
        yield "input", value
    elif isinstance(value, Mapping):
        yield from ((str(name), item) for name, item in value.items() if isinstance(item, Tensor))
    elif isinstance(value, (tuple, list)):
        yield from ((f"input[{index}]", item) for index, item in enumerate(value) if isinstance(item, Tensor))


def is_distribution(target: Tensor) -> bool:
    """Whether rows of floating-point labels sum to 1."""
    if target.ndim < 2 or target.shape[-1] < 2:
        return False
    return bool((target >= 0).all() and ((target.double().sum(-1) - 1).abs() < 1e-2).all())


def labels_are_inputs(batch: Batch) -> bool:
    """Whether the labels repeat the input tokens: a causal language model that shifts them by itself."""
    target = batch.target
    if not isinstance(target, Tensor) or target.is_floating_point() or target.ndim < 2:
        return False
    for _, tensor in tensors_of(batch.input):
        if tensor.shape == target.shape and not tensor.is_floating_point():
            here = target >= 0
            if bool(here.any()) and bool((tensor.to(target.device)[here] == target[here]).all()):
                return True
    return False


def same_batch(one: Any, other: Any, distiller: Any) -> bool:
    """Whether two batches have the same inputs, number for number."""
    try:
        first, second = (dict(tensors_of(parts_of(batch, distiller).input)) for batch in (one, other))
    except DataError:
        return False
    return bool(first) and first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def _length(dataloader: Any) -> int | None:
    try:
        return len(dataloader)
    except TypeError:
        return None


def _last_rows(dataloader: Any) -> int | None:
    """How many rows the last batch of an epoch has."""
    sampler = getattr(dataloader, "batch_sampler", None)
    if isinstance(sampler, BatchOrder):
        return sampler.rows % sampler.step or sampler.step if sampler.last_batch == "keep" else sampler.batch_size
    size = getattr(dataloader, "batch_size", None)
    rows = _length(getattr(dataloader, "sampler", None))
    if not isinstance(size, int) or rows is None:
        return None
    return size if getattr(dataloader, "drop_last", False) else rows % size or size
