"""The k largest logits of each row, and the mass of all others: enough to softmax once, and never twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TopK:
    """Logits of which the k largest are known, and of the others their logsumexp.

    Values are logits as the teacher gave them, not probabilities. A softmax over `dense` gives the kept
    classes the very probabilities that they have under the whole of the logits.

    Attributes:
        values: [..., k] float32, the largest first.
        indices: [..., k] int64, their classes.
        rest: [...] float32, the logsumexp of all other logits; -inf where k is the number of classes.
        classes: how many classes there are.

    >>> import numpy as np
    >>> logits = np.array([[2.0, 0.0, 1.0, -1.0]], np.float32)
    >>> kept = TopK.of(logits, 2)
    >>> kept.indices.tolist(), np.allclose(kept.log_mass(), np.log(np.exp(logits).sum(-1)))
    ([[0, 2]], True)
    """

    values: NDArray[np.float32]
    indices: NDArray[np.int64]
    rest: NDArray[np.float32]
    classes: int

    @classmethod
    def of(cls, logits: NDArray[Any], k: int) -> TopK:
        """Keep the k largest of logits [..., C]; of equal ones those of lower class."""
        logits = np.ascontiguousarray(logits, dtype=np.float32)
        classes = logits.shape[-1]
        rows = logits.reshape(int(np.prod(logits.shape[:-1], dtype=np.int64)), classes)
        indices = _largest(rows, k)
        values = np.take_along_axis(rows, indices, axis=1)
        others = rows.copy()
        np.put_along_axis(others, indices, -np.inf, axis=1)
        lead = logits.shape[:-1]
        rest = _logsumexp(others).astype(np.float32)
        return cls(values.reshape(*lead, k), indices.reshape(*lead, k), rest.reshape(lead), classes)

    def dense(self) -> NDArray[np.float32]:
        """All logits [..., C]: the kept ones, and the rest spread evenly over the other classes."""
        others = self.classes - self.values.shape[-1]
        share = self.rest - np.float32(np.log(others)) if others else np.full_like(self.rest, -np.inf)
        full = np.repeat(share[..., None], self.classes, axis=-1).astype(np.float32, copy=False)
        np.put_along_axis(full, self.indices, self.values, axis=-1)
        return full

    def log_mass(self) -> NDArray[np.float32]:
        """The logsumexp over all classes, [...]."""
        together = np.concatenate([self.values, self.rest[..., None]], axis=-1).astype(np.float64)
        shape = self.rest.shape
        return _logsumexp(together.reshape(-1, together.shape[-1])).reshape(shape).astype(np.float32)


def _largest(rows: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The columns of the k largest of each row, the largest first, of equal ones the left one."""
    count, classes = rows.shape
    hidden = np.isnan(rows)
    ranked = np.where(hidden, np.inf, rows) if hidden.any() else rows  # a NaN must not hide among the rest
    if k == classes or count == 0:
        return np.argsort(-ranked, axis=1, kind="stable")[:, :k].astype(np.int64)
    columns = np.argpartition(ranked, classes - k, axis=1)[:, classes - k :]
    bound = np.take_along_axis(ranked, columns, axis=1).min(axis=1)[:, None]
    drawn = np.flatnonzero((ranked >= bound).sum(axis=1) > k)  # rows where more are equal than there is room for
    if len(drawn):
        columns[drawn] = _leftmost(ranked[drawn], bound[drawn], k)
    columns.sort(axis=1)
    order = np.argsort(-np.take_along_axis(ranked, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1).astype(np.int64)


def _leftmost(ranked: NDArray[np.float32], bound: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """The columns of those above a bound [R, 1], and of those that are equal to it the left ones, k in all."""
    above, equal = ranked > bound, ranked == bound
    keep = above | (equal & (np.cumsum(equal, axis=1) <= k - above.sum(axis=1, keepdims=True)))
    return np.nonzero(keep)[1].reshape(len(ranked), k)


def _logsumexp(rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Over the last axis of [R, C]; -inf where all are."""
    top = rows.max(axis=1)
    safe = np.where(np.isneginf(top), np.zeros_like(top), top)
    with np.errstate(divide="ignore", invalid="ignore"):  # log(0) is -inf, as it should be
        total: NDArray[np.float64] = np.log(np.exp(rows - safe[:, None]).sum(axis=1, dtype=np.float64)) + safe
    return total
