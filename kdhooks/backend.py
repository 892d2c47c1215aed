"""What the core asks of a framework, and how the right backend is found without importing the others.

A model's backend is found by the names of its base classes, so looking never imports a framework;
the backend's own module is imported only when a model of it is there.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from kdhooks.clock import Clock
from kdhooks.errors import MissingPackageError, ModelError
from kdhooks.ledger import Stopwatch

_MODULES = {"pytorch": "kdhooks.torch.backend", "tensorflow": "kdhooks_tf.backend"}


class Monitor(Protocol):
    """Keeps the loss components on the device; reading is what waits for it."""

    def record(self, step: int, names: tuple[str, ...], values: Sequence[Any]) -> None:
        """Take the components of a step, without waiting for the device."""

    def last(self) -> dict[str, float]:
        """The components of the last step, unweighted, and ``total``."""

    def end_epoch(self) -> dict[str, float]:
        """The mean of each component over the steps since the last call."""

    def first_bad(self) -> tuple[int, str] | None:
        """Step and name of the first component that was NaN or infinite."""

    def state_dict(self) -> dict[str, Any]:
        """The sums of the epoch that is under way, for a resume in its middle."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back."""


class BlockState(ABC):
    """A block of a model: a layer with all that is under it.

    Attributes:
        name: of the layer, as its author gave it.
    """

    name: str

    @property
    @abstractmethod
    def structure(self) -> str:
        """What two blocks have in common between which weights can go over: classes, options, names and shapes."""

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Copies of the weights by name, on the host; those of dtypes that NumPy has not as float32."""

    @abstractmethod
    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write weights of a block of the same structure into this one."""


class Evaluator(Protocol):
    """Measures a model as a configuration says.

    Attributes:
        names: of what it gives.
    """

    names: tuple[str, ...]

    def __call__(self, model: Any) -> tuple[dict[str, float], float, bool]:
        """Values by name, their score, and whether a higher score is better; the model is in evaluation mode."""


class Backend(Protocol):
    """One framework's side of distillation."""

    name: str

    def rank(self) -> int:
        """The rank of this process in the framework's process group; 0 where there is none."""

    def together(self) -> AbstractContextManager[tuple[int, int]]:
        """Within the block the processes that a launcher started for one student are one group: its rank and size.

        Rank 0 and size 1 where there is one process. A group that the program has made is used, and left as it is.
        """

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value on all ranks of the group; every rank has to call it.

        Args:
            value: what JSON can write, of which that of rank 0 counts; lists come out of it where tuples went in.
        """

    def criteria(self, conf: Any) -> tuple[Any, ...]:
        """The criteria that a configuration names."""

    def adaptation(self, conf: Any) -> tuple[Any, ...]:
        """The criterion of ``domain_adaptation``, where the configuration has this section."""

    def teachers(self, models: Mapping[str, Any], student: Any, conf: Any) -> Mapping[str, Any]:
        """For each teacher a `Hook` that is called as a function of the input."""

    def bind(self, criteria: Sequence[Any], student: Any, teachers: Mapping[str, Any], distiller: Any) -> None:
        """Give the models to the criteria that look inside of them, before they begin."""

    def finetuning(self, distiller: Any, earlier: Any, resumes: bool) -> Any:
        """Weight transfer in a run: a `Hook` with its ``criteria`` and what it has ``done``, or None.

        Args:
            distiller: the `Distillation`, whose student is written.
            earlier: the `kdhooks.transfer.Transferred` of an earlier run, or None.
            resumes: whether a saved run goes on, whose student has its weights already.
        """

    def companions(self, distiller: Any) -> tuple[Any, ...]:
        """Hooks of the framework's own that follow a run from its beginning."""

    def score_of_all(self, model: Any, score: float) -> float:
        """The score that decides about a model's best weights, where several processes have to keep them together."""

    def monitor(self, student: Any) -> Monitor:
        """An empty monitor, for a run of this student."""

    def clock(self, student: Any) -> Clock:
        """What counts the losses of a run of this student."""

    def stopwatch(self, student: Any) -> Stopwatch:
        """What times the steps of this student, without waiting for the device that it is on."""

    def total(self, objective: Any, step: Any, student_loss: Any) -> tuple[Any, tuple[str, ...], list[Any]]:
        """What `kdhooks.criterion.Objective.total` returns, in the framework's own way of weighing."""

    def unconverted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that runs as it is written, where the framework rewrites the functions that its own call."""

    def check_loss(self, loss: Any) -> Any:
        """The user's loss if it is a scalar of this framework; ModelError otherwise."""

    def learning_rate(self, optimizer: Any) -> float | None:
        """The learning rate of the first parameter group, or None."""

    def snapshot(self, model: Any) -> Any:
        """A true copy of a model's weights."""

    def restore(self, model: Any, weights: Any) -> None:
        """Put a snapshot's weights into a model."""

    def clean_copy(self, model: Any, weights: Any) -> Any:
        """A new model like this one with these weights, without anything of ours."""

    def rng_state(self) -> dict[str, Any]:
        """The states of Python's, NumPy's and the framework's generators, as plain data and tensors."""

    def set_rng_state(self, state: Mapping[str, Any]) -> None:
        """Put those states back."""

    def evaluation_mode(self, model: Any) -> AbstractContextManager[None]:
        """Within the block the model is in evaluation mode; afterwards every module is as it was."""

    def evaluator(self, distiller: Any) -> Evaluator | None:
        """What evaluates a model as the configuration says; None where there are no data."""

    def target_loader(self, distiller: Any, *, evaluation: bool) -> Any:
        """The target domain's batches: what is set on the distiller, or what the configuration names, or None."""

    def target_logits(self, distiller: Any, model: Any, loader: Any) -> Any:
        """The logits [N, C] of the target domain's rows, on the host; the model is in evaluation mode."""

    def train(self, distiller: Any) -> None:
        """The built-in loop; calls every hook of `distiller`."""

    def training_inputs(self, distiller: Any, epochs: int) -> tuple[int | None, Iterator[tuple[Any, Any]]]:
        """How many rows the configuration's training data has, and its batches: inputs where they are computed, ids."""

    def observe(self, distiller: Any, dataloader: Any, batches: int) -> Any:
        """Look at both models and a few batches for `check`; see `kdhooks.check.Observation`."""

    def similarity(self, distiller: Any, batches: int) -> Any:
        """Compare the layers of both models on training data; see `kdhooks.check.LayerSimilarity`."""

    def measure(self, model: Any, inputs: Any, names: Sequence[str], settings: Any) -> Mapping[str, Any]:
        """What a model costs, a `kdhooks.measurement.Measured` by name; the model is afterwards as it was.

        Args:
            model: the model.
            inputs: of one row or more, in the form that the model takes; None where there are none.
            names: of metrics, see `kdhooks.measurement.DEFINITIONS`.
            settings: how they are measured, the `MeasureSettings` of a configuration.
        """

    def place(self, model: Any, conf: Any) -> None:
        """Put a model where the built-in loop would train it."""

    def device_of(self, model: Any) -> str:
        """Where a model computes, in words."""

    def looks(self, distiller: Any) -> Any:
        """The distiller's models and evaluation data for the page of its run: a `kdhooks.compared.Looks`."""

    def first_inputs(self, dataloader: Any, conf: Any) -> Any:
        """The model's inputs in the first batch of a loader, as `fit()` takes batches; None where it serves none.

        Args:
            dataloader: a loader, which stands afterwards where it stood, or the `DataloaderSettings` of one.
            conf: a `DistillationConf`, which says what is what in a batch.
        """

    # ---- stages of a distillation ----

    def found_layer(self, model: Any, name: str, role: str, other: tuple[str, Any] | None = None) -> str:
        """The own name of a layer; LayerError where the model, called `role` in messages, has none."""

    def only_trained(self, model: Any, names: Sequence[str]) -> AbstractContextManager[int]:
        """Within the block nothing is trained but what is under these layers; gives the number of trained weights.

        Frozen layers keep their statistics too. Names that are empty, or an empty one, leave the model as it is.
        Afterwards flags and modes are what they were, also after an error.
        """

    def block(self, model: Any, name: str) -> BlockState:
        """A block of a model by its name; LayerError where there is none."""

    def fingerprint(self, model: Any) -> str:
        """32 hexadecimal digits of a model's weights, classes and options."""

    def training_loader(self, conf: Any) -> Any:
        """The loader of ``distillation.train.dataloader``, for several runs of one process."""

    def seeded_data(self, loader: Any, seed: int) -> AbstractContextManager[None]:
        """Within the block generators that a user's loader has of its own begin with a seed; afterwards they go on."""

    # ---- for the command line ----

    def seed(self, seed: int) -> None:
        """Seed Python's, NumPy's and the framework's generators."""

    def layers(
        self, model: Any, shapes: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[dict[str, Any]]:
        """A row for each layer; output shapes where example inputs of these shapes are asked for."""

    def tapped(
        self,
        model: Any,
        taps: Sequence[tuple[str, Any]],
        role: str,
        shapes: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
    ) -> list[dict[str, Any]]:
        """A row for each layer that a configuration names."""

    def read_weights(self, model: Any, path: Path) -> None:
        """Load a file of weights, never running anything that stands in it."""

    def write_weights(self, model: Any, path: Path) -> None:
        """Write a file of weights, whole or not at all."""

    # ---- export ----

    def exporter(self, model: Any, inputs: Any, **options: Any) -> Any:
        """A clean copy of a model for export, a `kdhooks.export.exporter.Exporter`.

        Args:
            model: the model, which stays as it is.
            inputs: of one row or more, in the form that the model takes; None where there are none.
            options: those of `kdhooks.export.export`: ``dynamic_batch``, ``dynamic_length``, ``opset``.
        """

    def read_run(self, model: Any, path: Path) -> str | None:
        """Load the best weights of a checkpoint of `fit()`, or the last; says which, None for any other file."""


def backend_of(model: Any) -> Backend:
    """The backend of a model's framework.

    Raises:
        ModelError: neither a PyTorch nor a Keras model, or a Keras model on another backend.
    """
    framework = framework_of(model)
    if framework is None:
        raise ModelError(
            f"{type(model).__module__}.{type(model).__qualname__} is neither a torch.nn.Module nor a Keras model"
        )
    if framework == "tensorflow":
        check_keras(model)
    return load_backend(framework)


def check_keras(model: Any) -> None:
    """ModelError for a Keras model that does not compute in TensorFlow, or is of Keras 2.

    Asks the Keras that has made the model, which is loaded already.
    """
    rooms = {base.__module__.split(".", 1)[0] for base in type(model).__mro__}
    keras = sys.modules.get("keras")
    if "keras" not in rooms or keras is None:
        raise ModelError(f"{type(model).__name__} is a model of Keras 2 (tf_keras): kdhooks needs one of Keras 3")
    used = keras.backend.backend()
    if used != "tensorflow":
        raise ModelError(
            f"{type(model).__name__} is a Keras model on the backend {used!r}: kdhooks distils Keras models on "
            "TensorFlow. Set the environment variable KERAS_BACKEND=tensorflow before Keras is imported"
        )


def load_backend(framework: str) -> Backend:
    """The backend by the name of its framework, ``pytorch`` or ``tensorflow``."""
    try:
        module = import_module(_MODULES[framework])
    except ModuleNotFoundError as error:
        if error.name in ("torch", "tensorflow", "keras"):
            package, extra = ("torch", "torch") if error.name == "torch" else ("tensorflow", "tensorflow")
            raise MissingPackageError(package, f"framework: {framework}", extra) from None
        raise
    backend: Backend = module.BACKEND
    return backend


def framework_of(model: Any) -> str | None:
    """``pytorch``, ``tensorflow`` or None, by the names of the model's base classes."""
    for base in type(model).__mro__:
        room = base.__module__.split(".", 1)[0]
        if room == "torch" and base.__name__ == "Module":
            return "pytorch"
        if room in ("keras", "tf_keras", "tensorflow") and base.__name__ in ("Layer", "Model", "KerasLayer"):
            return "tensorflow"
    return None
