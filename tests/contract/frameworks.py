"""What the contract's rules need of a framework: models, loops and what can be seen of them.

Each framework gives the same small models and the same user's loop; what is compared is NumPy or plain Python. A
loop of TensorFlow is run eagerly and, as a framework of its own, inside a `tf.function`. A new framework adds one
object to `FRAMEWORKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tests.contract.tensorflow_framework import TensorFlowFramework
from tests.contract.torch_framework import TorchFramework

Array = NDArray[Any]
Model = Any
Tensor = Any


class Framework(Protocol):
    """One framework and one way to run a step in it.

    Attributes:
        name: as ``model.framework`` calls it.
        traced: whether a step's Python code runs only once, in a function that is traced.
        argument: what the classifier calls its input.
    """

    name: str
    traced: bool
    argument: str

    def classifier(self, seed: int, width: int = 8, *, classes: int = 4, dropout: float = 0.25, **names: str) -> Model:
        """[N, 6] to [N, classes]: layers ``body`` (of this width), BatchNorm, ReLU, dropout and ``head``."""

    def two_inputs(self, seed: int) -> Model:
        """``first`` [N, 6] and ``second`` [N, 3], by name or by place, to [N, 4]."""

    def infinite(self) -> Model:
        """A teacher whose logits are infinite."""

    def counting(self, model: Model) -> Model:
        """The model with an attribute ``calls``, which counts its forwards and reads as a number."""

    def inputs(self, rows: int = 8, features: int = 6, seed: int = 7) -> Tensor:
        """Floats [rows, features]."""

    def labels(self, rows: int = 8, seed: int = 7) -> Tensor:
        """Class numbers [rows]."""

    def seed(self, number: int) -> None:
        """Seed the user's generators."""

    def drawn(self) -> list[float]:
        """A number from each of the user's generators."""

    def optimizer(self, model: Model, rate: float = 0.1) -> Any:
        """SGD with momentum."""

    def stepping(self, student: Model, distiller: Any, optimizer: Any) -> Callable[[int], Tensor]:
        """The step of a user's loop, for the number of a batch; the same function for the whole loop."""

    def train(self, student: Model, *, steps: int = 10, distiller: Any = None, optimizer: Any = None) -> list[float]:
        """A user's loop over five batches, with or without the hooks; the losses that it stepped on."""

    def total(self, distiller: Any, student: Model, **given: Any) -> Tensor:
        """A forward of the first batch and the total loss."""

    def very_tensor(self, distiller: Any, student: Model) -> bool:
        """Whether the total loss is the very tensor that was handed in."""

    def logits(self, model: Model, inputs: Any) -> Array:
        """What a model says of inputs in evaluation mode."""

    def constant(self, values: Array) -> Tensor:
        """An array as a tensor."""

    def number(self, tensor: Tensor) -> float:
        """A scalar."""

    def weights(self, model: Model) -> dict[str, Array]:
        """All parameters, buffers and counters."""

    def parameters(self, values: Iterable[Any]) -> list[Array]:
        """Copies of parameters."""

    def surface(self, model: Model) -> Any:
        """All that a user can see of a model besides its numbers: attributes, hooks, flags, modes."""

    def rough(self, model: Model) -> None:
        """Set flags of its own on a teacher: one layer frozen."""

    def ordinary(self, model: Model, distiller: Any) -> None:
        """Assert that what leaves the teacher's forward can stand in any later graph, without a gradient to it."""

    def wrapped_output(self, form: str, inputs: Any) -> Any:
        """What a model says of inputs, as ``tuple``, ``mapping`` or ``object``."""

    def returning(self, model: Model, form: str) -> Model:
        """The model with outputs in this form: ``tuple``, ``mapping`` or ``object``."""

    def copies(self, model: Model, folder: Any) -> Sequence[Model]:
        """The model through deepcopy, a file of its state, and export; each callable by `logits`."""

    def not_waiting(self) -> AbstractContextManager[None]:
        """Within it every read of a tensor's value fails."""

    def batch_columns(self, rows: int, seed: int = 7) -> dict[str, Any]:
        """``x`` and ``y`` of one batch, as a loader serves them."""


FRAMEWORKS: dict[str, Framework] = {
    "torch": TorchFramework(),
    "tensorflow": TensorFlowFramework(traced=False),
    "tensorflow-function": TensorFlowFramework(traced=True),
}
"""Every rule's test runs once for each."""


def same(one: dict[str, Array], other: dict[str, Array]) -> bool:
    """Whether two models have the same weights, bit for bit."""
    return list(one) == list(other) and all(np.array_equal(one[name], other[name]) for name in one)


def kd_conf(weights: Sequence[Any] = (0.5, 0.5), **options: Any) -> dict[str, Any]:
    """A configuration as a dict: KD at T = 2 with these weights."""
    given = {"temperature": 2.0, "loss_weights": list(weights), **options}
    return {"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": given}}}}


def pair_conf(weight: Any = 1.0, layers: Sequence[str] = ("body", "body"), **options: Any) -> dict[str, Any]:
    """A configuration as a dict: one pair of layers beside the loop's own loss."""
    given = {"layer_mappings": [list(layers)], "loss_types": ["MSE"], "loss_weights": [weight], **options}
    pairs = {"add_origin_loss": True, **given}
    return {"distillation": {"train": {"criterion": {"IntermediateLayersKnowledgeDistillationLoss": pairs}}}}
