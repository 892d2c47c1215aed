"""A dataset whose samples come with what a teacher said of them, read from a store: no teacher is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from kdhooks.errors import UsageError
from kdhooks.loop.batches import split_batch
from kdhooks.stored.batches import tokens_in
from kdhooks.stored.looks import LOGITS
from kdhooks.stored.spaces import StoredSpace, one_row
from kdhooks.torch.fingerprints import float_array
from kdhooks.torch.stored_teacher import content_keys, dense_logits


class Taught(NamedTuple):
    """A sample, or a collated batch of such, with the teacher's logits."""

    input: Any
    target: Any
    teacher_output: Any


class TaughtLayers(NamedTuple):
    """The same with hidden features of the teacher, by layer, in place of logits."""

    input: Any
    target: Any
    teacher_features: Any


class TaughtWhole(NamedTuple):
    """The same with both."""

    input: Any
    target: Any
    teacher_output: Any
    teacher_features: Any


class StoredOutputs(Dataset[Any]):
    """A dataset with the stored outputs of its samples, for loops that hand them in and load no teacher.

    A sample ``(input, target)`` becomes a named tuple ``(input, target, teacher_output)``, with ``teacher_features``
    where the store holds hidden layers; a sample that is a mapping gets these as further keys. Both are what the
    built-in loop takes, and what `on_after_compute_loss` is handed. It can be pickled, and works in workers of a
    ``DataLoader`` however they are started; each of them opens the store by itself.

    Args:
        dataset: samples by number: ``(input, target)``, or mappings with ``labels`` or ``target``.
        store: the folder that ``distillation.cache`` or ``kdhooks cache build`` has filled.
        teacher: the name of the teacher's rows, as ``kdhooks cache info`` shows it, or how it begins; None where the
            store has one teacher.
        by: ``content`` finds a row by what the sample's input is after all transforms; ``index`` by its number, where
            the store was filled with these numbers as `sample_ids`.
        input: gives a sample's input as the teacher got it, one row without the batch; None takes the sample's first
            part, or the fields of a mapping that are not ours.

    Raises:
        UsageError: the dataset has no numbers, or it is not said which teacher is meant.
        StoreError: there is no store.

    Example:
        >>> import tempfile
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from kdhooks import Distillation
        >>> data = TensorDataset(torch.randn(8, 4), torch.randint(3, (8,)))
        >>> student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        >>> with tempfile.TemporaryDirectory() as store:
        ...     conf = {"distillation": {"cache": {"path": store}}}
        ...     with Distillation(conf, student_model=student, teacher_model=teacher) as distiller:
        ...         for x, y in DataLoader(data, batch_size=4):
        ...             output = student(x)
        ...             loss = distiller.on_after_compute_loss(x, output, output.sum())
        ...     x, y, teacher_output = next(iter(DataLoader(StoredOutputs(data, store), batch_size=2)))
        >>> torch.allclose(teacher_output, teacher(x), atol=1e-6)
        True
    """

    def __init__(
        self,
        dataset: Any,
        store: str | os.PathLike[str],
        *,
        teacher: str | None = None,
        by: Literal["content", "index"] = "content",
        input: Callable[[Any], Any] | None = None,
    ) -> None:
        if (
            isinstance(dataset, IterableDataset)
            or not hasattr(dataset, "__getitem__")
            or not hasattr(dataset, "__len__")
        ):
            raise UsageError("StoredOutputs needs a dataset whose samples have numbers: __getitem__ and __len__")
        if by not in ("content", "index"):
            raise UsageError(f"by must be 'content' or 'index', not {by!r}")
        self.dataset, self.by, self._input = dataset, by, input
        self.space = StoredSpace(store, teacher)
        self._layers = self.space.layers

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        fetch = getattr(self.dataset, "__getitems__", None)
        samples = fetch(list(indices)) if callable(fetch) else [self.dataset[index] for index in indices]
        said = self.space.read(self._keys(samples, indices), indices)
        return [
            self._with(sample, {name: one_row(value, place) for name, value in said.items()})
            for place, sample in enumerate(samples)
        ]

    def _keys(self, samples: Sequence[Any], indices: Sequence[int]) -> list[bytes]:
        from kdhooks.cache import id_keys

        if self.by == "index":
            return id_keys([int(index) % len(self) for index in indices])
        return [key for sample in samples for key in content_keys(_batch_of_one(self._input_of(sample)))]

    def _input_of(self, sample: Any) -> Any:
        return split_batch(sample).input if self._input is None else self._input(sample)

    def _with(self, sample: Any, said: Mapping[str, Any]) -> Any:
        tensors = {name: self._tensor(value, sample) for name, value in said.items()}
        ours: dict[str, Any] = {}
        if LOGITS in tensors:
            ours["teacher_output"] = tensors[LOGITS]
        if self._layers:
            ours["teacher_features"] = {layer: tensors[name] for layer, name in self._layers.items()}
        if isinstance(sample, Mapping):
            return {**sample, **ours}
        parts = split_batch(sample)
        kind: Any = TaughtWhole if len(ours) == 2 else Taught if "teacher_output" in ours else TaughtLayers
        return kind(parts.input, parts.target, **ours)

    def _tensor(self, value: Any, sample: Any) -> Tensor:
        """One row of a stored output, by its positions where it is stored by tokens."""
        from kdhooks.cache import Tokens, TopK

        if isinstance(value, Tokens):
            tokens = tokens_in(_batch_of_one(self._input_of(sample)), float_array)
            value = value.values if tokens is None else value.padded(tokens.kept)
            if tokens is None:
                return dense_logits(value, _CPU) if isinstance(value, TopK) else torch.from_numpy(np.array(value))
        tensor = dense_logits(value, _CPU) if isinstance(value, TopK) else torch.from_numpy(np.array(value))
        return tensor[0]


_CPU = torch.empty(0)


def _batch_of_one(value: Any) -> Any:
    """A sample's input as a loader would collate it alone."""
    if isinstance(value, Tensor):
        return value.unsqueeze(0)
    if isinstance(value, np.ndarray):
        return torch.as_tensor(value).unsqueeze(0)
    if isinstance(value, Mapping):
        return {key: _batch_of_one(item) for key, item in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, (bool, int, float)) for item in value):
        return torch.tensor([value])
    if isinstance(value, (tuple, list)):
        return tuple(_batch_of_one(item) for item in value)
    return default_collate([value])
