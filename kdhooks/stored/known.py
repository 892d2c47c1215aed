"""What only a backend knows of a teacher and its tensors, for `kdhooks.stored.teacher` to build on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.criterion import Step, Term
from kdhooks.pairs.selection import Values
from kdhooks.stored.looks import Wants

if TYPE_CHECKING:
    from kdhooks.cache import TopK

Tensor = Any
Narrow = Callable[[Any], Any]
"""(mask or None) -> the mask without positions of padding."""


class KnownByBackend(ABC):
    """A teacher and its tensors, by a backend.

    Attributes:
        values: what the backend knows of what layers return.
    """

    values: Values

    @abstractmethod
    def array(self, tensor: Tensor) -> NDArray[Any]:
        """A tensor of floats, or a mask, as an array on the host; float32 where NumPy has no such dtype."""

    @abstractmethod
    def tensor(self, array: NDArray[np.float32], beside: Tensor) -> Tensor:
        """An array as a tensor on the device of another one."""

    @abstractmethod
    def dense(self, kept: TopK, beside: Tensor) -> Tensor:
        """All logits [..., C] of the largest ones: the mass of the rest is spread evenly over the other classes."""

    @abstractmethod
    def take(self, tensor: Tensor, places: NDArray[np.intp]) -> Tensor:
        """Some rows of a tensor."""

    @abstractmethod
    def keys(self, value: Any) -> list[bytes]:
        """The keys of a batch by its content, one a row: `kdhooks.cache.row_keys` of its arrays."""

    @abstractmethod
    def logits(self, output: Any, keys: Sequence[str]) -> Tensor:
        """The logits in what the teacher returned; ModelError where there are none."""

    @abstractmethod
    def narrowing(self, mask: Tensor) -> Narrow:
        """A function that takes positions of padding [N, T] out of a mask, or out of none."""

    @abstractmethod
    def effect(self, value: Any) -> str:
        """The precision that the teacher computes in at this call."""

    @abstractmethod
    def fingerprint(self, effect: str, wants: Wants) -> str:
        """The name of the space of this teacher in this precision, by `kdhooks.cache.fingerprint`."""

    @abstractmethod
    def version(self) -> object:
        """Something cheap that is another one once the teacher's weights were changed in place or replaced."""

    @abstractmethod
    def obstacle(self) -> str:
        """Why the outputs of this teacher can't be stored, as a part of a sentence; empty where they can."""

    @abstractmethod
    def whole_batches(self) -> bool:
        """Whether the teacher is fast for batches of one size only, as a compiled one is."""

    @abstractmethod
    def value_of(self, term: Term, step: Step) -> float:
        """A term's value at a step, without a graph and without a trace in generators or modules."""
