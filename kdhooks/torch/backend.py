"""The PyTorch side of `kdhooks.backend.Backend`; the core finds it by name and never imports it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdhooks.backend import Evaluator
from kdhooks.clock import Clock
from kdhooks.config import DistillationConf
from kdhooks.criterion import Criterion, Objective, Step
from kdhooks.errors import ConfigError, KDHooksError, ModelError, UsageError
from kdhooks.hooks import Hook
from kdhooks.ledger import Stopwatch
from kdhooks.pairs.bound import Bound
from kdhooks.stored.shared import shared_store
from kdhooks.torch.blocks import Blocks
from kdhooks.torch.comparing import Comparing
from kdhooks.torch.criteria import build_criterion
from kdhooks.torch.ema import MeanTeacher
from kdhooks.torch.exports import Exports
from kdhooks.torch.group import Group
from kdhooks.torch.monitor import Monitor
from kdhooks.torch.stored_teacher import StoredTeacher
from kdhooks.torch.taps import Taps
from kdhooks.torch.teacher import Teacher
from kdhooks.torch.together import Together
from kdhooks.torch.weights_in_memory import WeightsInMemory, unwrap

__all__ = ["BACKEND", "TorchBackend", "unwrap"]


class TorchBackend(Blocks, Comparing, Exports, Group, WeightsInMemory):
    """PyTorch; see `kdhooks.backend.Backend` for what each method promises."""

    name = "pytorch"

    def criteria(self, conf: DistillationConf) -> tuple[Criterion, ...]:
        """The criteria that ``distillation.train.criterion`` names."""
        settings = conf.settings
        made = []
        for named in settings.distillation.train.criterion:
            try:
                made.append(build_criterion(named, conf, settings.model.outputs))
            except ConfigError:
                raise
            except (KDHooksError, TypeError) as error:
                raise conf.problem(named.path, str(error)) from None
        return tuple(made)

    def adaptation(self, conf: DistillationConf) -> tuple[Criterion, ...]:
        """The criterion of ``domain_adaptation``, where the configuration has this section."""
        if conf.settings.domain_adaptation is None:
            return ()
        from kdhooks.torch.domains import DomainAdaptationLoss

        return (DomainAdaptationLoss.of(conf),)

    def bind(self, criteria: Sequence[Any], student: nn.Module, teachers: Mapping[str, Any], distiller: Any) -> None:
        """Give the models to the criteria that look inside of them."""
        followed = next(iter(teachers.values())) if len(teachers) == 1 else None
        taps = Taps(student, other=None if followed is None else ("teacher", followed.model))
        bound = Bound(taps, teachers, distiller.optimizer, partial(self._first_input, distiller))
        for criterion in criteria:
            if hasattr(criterion, "bind"):
                criterion.bind(bound)
        for teacher in teachers.values():
            if hasattr(teacher, "follow_criteria"):
                teacher.follow_criteria(criteria)

    def teachers(self, models: Mapping[str, nn.Module], student: nn.Module, conf: DistillationConf) -> dict[str, Any]:
        """The teachers by name, not yet attached; behind a store where the configuration has one."""
        teachers = self._teachers(models, student, conf)
        shared = shared_store(conf, follows_student=conf.settings.distillation.teacher.ema is not None)
        if shared is None:
            return teachers
        return {name: StoredTeacher(teacher, name, shared, student) for name, teacher in teachers.items()}

    def _teachers(self, models: Mapping[str, nn.Module], student: nn.Module, conf: DistillationConf) -> dict[str, Any]:
        settings = conf.settings.distillation.teacher
        speed: dict[str, Any] = {
            key: getattr(settings, key) for key in ("precision", "channels_last", "compile", "ipex", "sharded")
        }
        speed["outputs"] = conf.settings.model.outputs
        if settings.ipex is True:
            from kdhooks.torch.ipex import required

            required(conf, "distillation.teacher.ipex")
        if settings.ema is None:
            return {name: Teacher(model, student, **speed) for name, model in models.items()}
        path = "distillation.teacher.ema"
        if len(models) > 1:
            raise conf.problem(path, f"one teacher can be an average of the student, and {len(models)} are set")
        name, model = next(iter(models.items()), ("teacher", None))
        try:
            return {name: MeanTeacher(student, settings.ema, model, **speed)}
        except ModelError as error:
            advice = "Leave teacher_model unset: the average begins as the student."
            raise conf.problem(path, str(error), advice) from None

    @contextmanager
    def _first_input(self, distiller: Any) -> Iterator[Any]:
        """The first input of the training data, with models and generators afterwards as they were, or None."""
        from kdhooks.loop.batches import split_batch
        from kdhooks.torch.observation.untouched import untouched

        loader, settings = distiller.train_dataloader, distiller.conf.settings
        columns = settings.distillation.train.dataloader
        models = [one for one in (distiller.student_model, distiller.teacher_model) if isinstance(one, nn.Module)]
        if loader is None:
            yield None
            return
        with untouched(models, loader, self), self.evaluation_mode(distiller.student_model):
            batches = iter(loader)
            batch = None if batches is loader else next(batches, None)  # an iterator's batch would be lost
            yield (
                None
                if batch is None
                else split_batch(
                    batch, inputs=settings.model.inputs, input_columns=() if columns is None else columns.input_columns
                ).input
            )

    def finetuning(self, distiller: Any, earlier: Any, resumes: bool) -> Any:
        """Weight transfer in a run; see `kdhooks.torch.transfer.finetuning`."""
        if distiller.conf.settings.finetune is None and distiller.pretrained_model is None:
            return None
        from kdhooks.torch.transfer.finetuning import finetuning

        return finetuning(distiller, earlier, resumes)

    def companions(self, distiller: Any) -> tuple[Hook, ...]:
        """What looks after the other ranks, where the student is trained by several."""
        return (Together(distiller),)

    def monitor(self, student: nn.Module) -> Monitor:
        """An empty monitor."""
        return Monitor()

    def clock(self, student: nn.Module) -> Clock:
        """Counts in Python: a step's code runs at every step."""
        return Clock()

    def stopwatch(self, student: nn.Module) -> Stopwatch:
        """Events of CUDA where the student is on such a device, and otherwise the host's clock."""
        from kdhooks.torch.stopwatch import stopwatch_of

        return stopwatch_of(student)

    def total(self, objective: Objective, step: Step, student_loss: Tensor) -> tuple[Any, tuple[str, ...], list[Any]]:
        """The objective's own total; UsageError for a sample_weight, which the losses here don't take."""
        if step.sample_weight is not None:
            raise UsageError(
                "sample_weight is for TensorFlow: in PyTorch leave rows out with mask, or weigh student_loss"
            )
        return objective.total(step, student_loss)

    def unconverted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The very function: nothing rewrites it."""
        return function

    def check_loss(self, loss: Any) -> Tensor:
        """The user's loss, if it is a scalar tensor."""
        if not isinstance(loss, Tensor):
            raise ModelError(f"student_loss must be a scalar tensor, not {type(loss).__name__}")
        if loss.ndim != 0:
            raise ModelError(
                f"student_loss must be a scalar tensor, not one of shape {list(loss.shape)}: take its mean"
            )
        return loss

    def learning_rate(self, optimizer: Any) -> float | None:
        """The learning rate of the first parameter group."""
        groups = getattr(optimizer, "param_groups", None)
        return float(groups[0]["lr"]) if groups else None

    def rng_state(self) -> dict[str, Any]:
        """The states of Python's, NumPy's and torch's generators, as plain data and tensors."""
        version, numbers, gauss = random.getstate()
        kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        state = {
            "python": [version, list(numbers), gauss],
            "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def set_rng_state(self, state: Mapping[str, Any]) -> None:
        """Put those states back; a generator that this machine lacks is left alone."""
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        kind, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
        torch.set_rng_state(state["torch"].cpu())
        if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])

    @contextmanager
    def evaluation_mode(self, model: nn.Module) -> Iterator[None]:
        """Eval mode within the block; afterwards every module is in its own mode again."""
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    def evaluator(self, distiller: Any) -> Evaluator | None:
        """What evaluates a model as ``evaluation`` says, or None where there is nothing to evaluate on."""
        from kdhooks.torch.evaluation import evaluator

        return evaluator(distiller)

    def target_loader(self, distiller: Any, *, evaluation: bool) -> Any:
        """The target domain's batches: what is set on the distiller, or what the configuration names, or None."""
        from kdhooks.torch.domains.data import target_loader

        return target_loader(distiller, evaluation=evaluation)

    def target_logits(self, distiller: Any, model: nn.Module, loader: Any) -> Any:
        """The logits [N, C] of the target domain's rows, on the host; the model is in evaluation mode."""
        from kdhooks.torch.domains.data import target_logits

        return target_logits(distiller, model, loader)

    def train(self, distiller: Any) -> None:
        """The built-in loop."""
        from kdhooks.torch.train_loop import train

        train(distiller)

    def training_inputs(self, distiller: Any, epochs: int) -> tuple[int | None, Iterator[tuple[Any, Any]]]:
        """How many rows the training data has in all, and its batches, each row once an epoch."""
        from kdhooks.torch.stored_building import training_inputs

        return training_inputs(distiller, epochs)

    def observe(self, distiller: Any, dataloader: Any, batches: int) -> Any:
        """Both models on a few batches, for `check`."""
        from kdhooks.torch.observation import observe

        return observe(distiller, dataloader, batches)

    def similarity(self, distiller: Any, batches: int) -> Any:
        """The layers of both models compared, for `kdhooks suggest`."""
        from kdhooks.torch.similarity import observed_similarity

        return observed_similarity(distiller, batches)

    def seed(self, seed: int) -> None:
        """Seed Python's, NumPy's and torch's generators."""
        from kdhooks.torch.placement import seed_generators

        seed_generators(seed)

    def measure(self, model: nn.Module, inputs: Any, names: Sequence[str], settings: Any) -> Mapping[str, Any]:
        """What a model costs; see `kdhooks.torch.measure.measure`."""
        from kdhooks.torch.measure import measure

        return measure(model, inputs, names, settings, self)

    def place(self, model: nn.Module, conf: DistillationConf) -> None:
        """Move a model that is on one device to that of the configuration."""
        from kdhooks.torch.placement import place, training_device

        place(model, (), training_device(conf, model))

    def first_inputs(self, dataloader: Any, conf: DistillationConf) -> Any:
        """The model's inputs in the first batch of a loader, which stands afterwards where it stood."""
        from kdhooks.torch.observation.batches import first_inputs

        return first_inputs(dataloader, conf, self)

    def layers(
        self, model: nn.Module, shapes: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[dict[str, Any]]:
        """A row for each layer; see `kdhooks.torch.layers.list_layers`."""
        from kdhooks.torch.layers import example_inputs, list_layers

        return list_layers(model, example_inputs(shapes, tokens))

    def tapped(
        self,
        model: nn.Module,
        taps: Sequence[tuple[str, Any]],
        role: str,
        shapes: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
    ) -> list[dict[str, Any]]:
        """A row for each layer that a configuration names; see `kdhooks.torch.layers.list_tapped`."""
        from kdhooks.torch.layers import example_inputs, list_tapped

        return list_tapped(model, taps, example_inputs(shapes, tokens), role)

    def read_weights(self, model: nn.Module, path: Path) -> None:
        """Load a file of weights; see `kdhooks.torch.weights.read_weights`."""
        from kdhooks.torch.weights import read_weights

        read_weights(unwrap(model), path)

    def write_weights(self, model: nn.Module, path: Path) -> None:
        """Write a file of weights; see `kdhooks.torch.weights.write_weights`."""
        from kdhooks.torch.weights import write_weights

        write_weights(unwrap(model), path)


BACKEND = TorchBackend()
"""What `kdhooks.backend.load_backend` looks for."""
