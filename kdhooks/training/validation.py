"""The student on every validation loader after an epoch, by the user's inference pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import nan
from numbers import Real
from typing import Any

import torch
from torch import nn

from kdhooks.distillation import Distillation
from kdhooks.errors import UsageError
from kdhooks.run import Evaluate
from kdhooks.torch.outputs import describe
from kdhooks.training.batches import Calls
from kdhooks.training.looking import TrainingLooks

RESULT = "inference_result"


class Validation:
    """Runs the pipeline on each loader; the first loader's result is the score.

    The student is in eval mode and no graph is built. A pipeline without a ``device`` gets the student's, for as long
    as it runs. Generators go on afterwards as if nothing had been validated.

    Args:
        loaders: by name, in order.
        pipeline: has ``run_inference_pipeline(model, data_loader)``.
        higher_is_better: of the first loader's result.
        backend: PyTorch's.

    Attributes:
        failure: what the pipeline raised at the last call, kept so that the epoch can be saved first.
    """

    def __init__(self, loaders: Mapping[str, Any], pipeline: Any, higher_is_better: bool, backend: Any) -> None:
        self.loaders, self.pipeline, self.higher_is_better = dict(loaders), pipeline, higher_is_better
        self._backend = backend
        self.failure: BaseException | None = None

    def __call__(self, model: nn.Module) -> tuple[dict[str, float], float, bool]:
        """Results by loader, the score, and whether a higher one is better."""
        generators = self._backend.rng_state()
        results: dict[str, float] = {}
        try:
            with torch.no_grad(), _device_of(self.pipeline, model):
                for name, loader in self.loaders.items():
                    results[name] = result_of(self.pipeline.run_inference_pipeline(model, loader), name)
        except Exception as error:
            self.failure = error
        finally:
            self._backend.set_rng_state(generators)
        results = self._backend.broadcast(results)
        return results, results.get(next(iter(self.loaders)), nan), self.higher_is_better


def result_of(returned: Any, loader: str) -> float:
    """The number in what a pipeline returned.

    Raises:
        UsageError: there is none.
    """
    if not isinstance(returned, Mapping) or RESULT not in returned:
        raise UsageError(
            f"inference_pipeline.run_inference_pipeline must return {{{RESULT!r}: number}}, and for the loader "
            f"{loader!r} it returned {describe(returned)}"
        )
    value = returned[RESULT]
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return float(value)
    if not isinstance(value, Real) and not (hasattr(value, "item") and getattr(value, "ndim", None) == 0):
        raise UsageError(f"{RESULT!r} must be a number, and for the loader {loader!r} it is {describe(value)}")
    return float(value)


@contextmanager
def _device_of(pipeline: Any, model: nn.Module) -> Iterator[None]:
    """Let a pipeline without a device of its own use the student's."""
    if hasattr(pipeline, "device"):
        yield
        return
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    try:
        pipeline.device = device
    except AttributeError:  # of a class with slots
        yield
        return
    try:
        yield
    finally:
        if getattr(pipeline, "device", None) is device:
            del pipeline.device


class ValidatedDistillation(Distillation):
    """A `Distillation` that a `Validation` judges, if there is one.

    Attributes:
        validation: as said.
        rate: the learning rate of the last step; at an epoch's end the schedule has gone on already.
        calls: how batches reach the models, at temperature 1; for the comparison in the record.
    """

    calls: Calls
    validation: Validation | None = None
    rate: float | None = None

    def _labelled_evaluator(self) -> Evaluate | None:
        return self.validation

    def _learning_rate(self) -> float | None:
        return self.rate

    def _looks(self) -> TrainingLooks:
        loaders = {} if self.validation is None else self.validation.loaders
        return TrainingLooks(self, next(iter(loaders.values()), None), self.calls)

    def _finish_record(self) -> None:
        if not self._failed:
            self.restore_best()  # the comparison is of the student that the user gets
        super()._finish_record()

    def restore_best(self) -> None:
        """Put the best weights into the student, where something was evaluated."""
        best = None if self._run is None else self._run.best.weights
        if best is not None:
            self.backend.restore(self._student, best)
