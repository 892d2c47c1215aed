"""What the contract needs of a backend: NumPy in, NumPy out. A new backend adds one class to `BACKENDS`.

Logits have their classes where `axis` says. Features are [N, C, H, W], [N, T, D] or [N, D] here and in the
oracle; a backend whose channels are last turns maps round on the way in and on the way out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tests.contract.tensorflow_backend import TensorFlow
from tests.contract.torch_backend import Torch

Array = NDArray[Any]
Features = Any
"""An array, or a list of arrays for a loss of several layers."""


class ContractModule(Protocol):
    """A loss that owns parameters, in float64.

    Attributes:
        numbers: its parameters and memory by the names that `feature_oracle_modules` reads.
    """

    numbers: dict[str, Array]

    def run(self, student: Features, teacher: Features, dtype: str = "float64") -> tuple[float, Features]:
        """Value and gradient with respect to the student's feature of a training step."""

    def slopes(self, student: Features, teacher: Features) -> dict[str, Array]:
        """The gradients of the parameters by name, of a training step."""

    def mask(self, student: Array, teacher: Array) -> Array:
        """The mask that MGD draws for its next step."""

    def negatives(self, student: Array) -> Array:
        """The rows [N, K] that CRD draws for its next step."""


class ContractBackend(Protocol):
    """One framework, seen through NumPy.

    Attributes:
        epsilon: dtype name -> the machine epsilon of that dtype.
    """

    epsilon: dict[str, float]

    def kinds(self) -> dict[str, str]:
        """Every name of the table of losses, and what it compares."""

    def round(self, values: Array, dtype: str) -> Array:
        """The values as a tensor of this dtype holds them, in float64."""

    def loss(
        self,
        name: str,
        student: Array,
        teacher: Array,
        *,
        mask: Array | None = None,
        target: Array | None = None,
        dtype: str = "float64",
        **options: Any,
    ) -> tuple[float, Array]:
        """Value and gradient with respect to the student's logits of the backend's own loss."""

    def feature(
        self,
        name: str,
        student: Features,
        teacher: Features,
        *,
        mask: Array | None = None,
        dtype: str = "float64",
        **options: Any,
    ) -> tuple[float, Features]:
        """Value and gradient with respect to the student's feature of a loss without parameters."""

    def module(self, name: str, student_shape: Any, teacher_shape: Any, **options: Any) -> ContractModule:
        """A loss that owns parameters."""

    def criterion(self, **options: Any) -> Any:
        """The backend's `KnowledgeDistillationLoss`."""

    def evaluate(self, criterion: Any, student: Any, teacher: Any, *, target: Any = None, mask: Any = None) -> float:
        """A criterion's value for arrays, or for lists and mappings of arrays, in float64."""


def each(features: Features, change: Callable[[Array], Any]) -> Any:
    """A change of an array, or of every array of a list."""
    return [change(one) for one in features] if isinstance(features, list) else change(features)


def as_list(features: Features) -> list[Array]:
    return features if isinstance(features, list) else [features]


def wide(features: Features) -> Any:
    return each(features, lambda one: one.astype(np.longdouble))


BACKENDS: dict[str, ContractBackend] = {"torch": Torch(), "tensorflow": TensorFlow()}
