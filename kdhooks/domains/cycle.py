"""The target domain's batches beside the source's: passed over again and again, and continued where a run stood."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdhooks.domains.batches import split_target
from kdhooks.errors import DataError


class TargetBatches:
    """One batch of the target for each of the source; a pass that ends is followed by the next one.

    Args:
        data: a backend's `kdhooks.loop.training_data.TrainingData`.
        inputs, input_columns: how a batch is split.
        labels: whether labels are served.
    """

    def __init__(self, data: Any, *, inputs: Any = (), input_columns: Any = (), labels: bool = False) -> None:
        self._data, self._inputs, self._columns, self._labels = data, inputs, input_columns, labels
        self._pass, self._served = 0, 0
        self._batches: Iterator[Any] | None = None

    def next(self) -> tuple[Any, Any]:
        """The next batch: its input, and its labels or None.

        Raises:
            DataError: the loader has no batch.
        """
        if self._batches is None:
            self._batches = self._data.epoch(self._pass)
        batch = next(self._batches, None)
        if batch is None:
            if not self._served:
                raise DataError("the target_dataloader had no batch; a generator can be iterated over only once")
            self._pass, self._served, self._batches = self._pass + 1, 0, None
            return self.next()
        self._served += 1
        given, labels = split_target(batch, inputs=self._inputs, input_columns=self._columns)
        return given, labels if self._labels else None

    def state(self) -> dict[str, Any]:
        """Where the cycle stands, as plain data and tensors."""
        return {"pass": self._pass, "served": self._served, "start": self._data.start, "now": self._data.states()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where a saved cycle stood; the generators end as they were saved."""
        self._pass, self._served = state["pass"], state["served"]
        self._batches = None
        if self._served:
            self._batches = self._data.rest_of_epoch(self._pass, self._served, state["start"], state["now"])
