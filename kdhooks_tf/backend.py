"""The TensorFlow side of `kdhooks.backend.Backend`; the core finds it by name and never imports it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from kdhooks.backend import Evaluator
from kdhooks.config import DistillationConf
from kdhooks.criterion import Criterion, Objective, Step
from kdhooks.errors import ConfigError, KDHooksError, ModelError
from kdhooks.ledger import Stopwatch
from kdhooks.messages import environment_rank
from kdhooks.stored.shared import shared_store
from kdhooks_tf import generators
from kdhooks_tf.blocks import Blocks
from kdhooks_tf.clock import Clock
from kdhooks_tf.comparing import Comparing
from kdhooks_tf.copies import copied, put_weights, weights_of
from kdhooks_tf.criteria import build_criterion
from kdhooks_tf.ema import MeanTeacher
from kdhooks_tf.exports import Exports
from kdhooks_tf.monitor import Monitor
from kdhooks_tf.outputs import shape_of
from kdhooks_tf.replicas import replicas, strategy_of
from kdhooks_tf.stopwatch import GraphStopwatch
from kdhooks_tf.teacher import Teacher
from kdhooks_tf.weighing import weigh

Tensor = Any


class TensorFlowBackend(Blocks, Comparing, Exports):
    """TensorFlow with Keras 3; see `kdhooks.backend.Backend` for what each method promises."""

    name = "tensorflow"

    def rank(self) -> int:
        """The index of this worker in ``TF_CONFIG``, or what the launcher's environment says."""
        try:
            config = json.loads(os.environ.get("TF_CONFIG") or "{}")
            kind, index = config["task"]["type"], int(config["task"]["index"])
        except (ValueError, TypeError, KeyError):
            return environment_rank()
        return index + (len(config.get("cluster", {}).get("chief", ())) if kind == "worker" else 0)

    def together(self) -> AbstractContextManager[tuple[int, int]]:
        """The workers of the strategy in whose scope the program runs; see `kdhooks_tf.workers.together`."""
        from kdhooks_tf.workers import together

        found: AbstractContextManager[tuple[int, int]] = together()
        return found

    def broadcast(self, value: Any) -> Any:
        """The first worker's plain data on all workers; see `kdhooks_tf.workers.broadcast`."""
        from kdhooks_tf.workers import broadcast

        return broadcast(value)

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
        from kdhooks_tf.domains import DomainAdaptationLoss

        return (DomainAdaptationLoss.of(conf),)

    def bind(self, criteria: Sequence[Any], student: Any, teachers: Mapping[str, Any], distiller: Any) -> None:
        """Give the models to the criteria that look inside of them, and the teachers what they may be timed on."""
        for teacher in teachers.values():
            getattr(teacher, "live", teacher).first_input = partial(self._first_input, distiller)
            if hasattr(teacher, "follow_criteria"):
                teacher.follow_criteria(criteria)
        binding = [criterion for criterion in criteria if hasattr(criterion, "bind")]
        if not binding:
            return
        from kdhooks.pairs.bound import Bound
        from kdhooks_tf.taps import Taps

        followed = next(iter(teachers.values())) if len(teachers) == 1 else None
        other = None if followed is None else ("teacher", followed.model)
        bound = Bound(Taps(student, other=other), teachers, distiller.optimizer, partial(self._first_input, distiller))
        for criterion in binding:
            criterion.bind(bound)

    def teachers(self, models: Mapping[str, Any], student: Any, conf: DistillationConf) -> dict[str, Any]:
        """The teachers by name, not yet attached; behind a store where the configuration has one."""
        teachers = self._teachers(models, student, conf)
        shared = shared_store(conf, follows_student=conf.settings.distillation.teacher.ema is not None)
        if shared is None:
            return teachers
        from kdhooks_tf.stored_teacher import StoredTeacher

        return {name: StoredTeacher(teacher, name, shared, student) for name, teacher in teachers.items()}

    def _teachers(self, models: Mapping[str, Any], student: Any, conf: DistillationConf) -> dict[str, Any]:
        from kdhooks_tf.speed_options import check_teacher

        check_teacher(conf, models, student)
        settings = conf.settings.distillation.teacher
        speed: dict[str, Any] = {"precision": settings.precision, "compile": settings.compile}
        if settings.ema is None:
            return {name: Teacher(model, student, **speed) for name, model in models.items()}
        path = "distillation.teacher.ema"
        if len(models) > 1:
            raise conf.problem(path, f"one teacher can be an average of the student, and {len(models)} are set")
        name, model = next(iter(models.items()), ("teacher", None))
        try:
            return {name: MeanTeacher(student, settings.ema, model, **speed)}
        except ModelError as error:
            advice = "" if model is None else "Leave teacher_model unset: the average begins as the student."
            raise conf.problem(path, str(error), advice) from None

    @contextmanager
    def _first_input(self, distiller: Any) -> Iterator[Any]:
        """The first input of the training data, with generators afterwards as they were, or None."""
        from kdhooks_tf.batches import first_input

        before = self.rng_state()
        try:
            yield first_input(distiller)
        finally:
            self.set_rng_state(before)

    def finetuning(self, distiller: Any, earlier: Any, resumes: bool) -> Any:
        """Weight transfer in a run; see `kdhooks_tf.transfer.finetuning`."""
        if distiller.conf.settings.finetune is None and distiller.pretrained_model is None:
            return None
        from kdhooks_tf.transfer.finetuning import finetuning

        return finetuning(distiller, earlier, resumes)

    def companions(self, distiller: Any) -> tuple[Any, ...]:
        """None: a strategy looks after its replicas."""
        return ()

    def score_of_all(self, model: Any, score: float) -> float:
        """The very score."""
        return score

    def monitor(self, student: Any) -> Monitor:
        """An empty monitor, whose variables stand where the student's are."""
        return Monitor(strategy_of(student))

    def clock(self, student: Any) -> Clock:
        """Counts in Python, and in a variable once a step was traced."""
        return Clock(strategy_of(student))

    def stopwatch(self, student: Any) -> Stopwatch:
        """The host's clock, which knows the tracing of a function from its steps."""
        return GraphStopwatch(on_gpu=bool(tf.config.list_logical_devices("GPU")))

    def total(self, objective: Objective, step: Step, student_loss: Tensor) -> tuple[Any, tuple[str, ...], list[Any]]:
        """The objective's total; where criteria own variables, these take their step as well.

        On a replica of a distribution strategy the loop's loss and the total are the replica's shares, and components
        are what the replica's rows give: their means over replicas are those of the global batch.
        """
        count = replicas()
        if count == 1:
            return self._total(objective, step, student_loss)
        whole = student_loss * count
        total, names, values = self._total(objective, step, whole)
        return student_loss if total is whole else total / count, names, values

    def _total(self, objective: Objective, step: Step, student_loss: Tensor) -> tuple[Any, tuple[str, ...], list[Any]]:
        weighing = partial(weigh, dtype=student_loss.dtype)
        if not any(hasattr(criterion, "bind") for criterion in objective.criteria):
            return objective.total(step, student_loss, weighing)
        from kdhooks_tf.matcher_training import total

        found: tuple[Any, tuple[str, ...], list[Any]] = total(objective, step, student_loss, weighing)
        return found

    def unconverted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, left alone by AutoGraph, which would rewrite all that a `tf.function` calls."""
        wrapped: Callable[..., Any] = tf.autograph.experimental.do_not_convert(function)
        return wrapped

    def check_loss(self, loss: Any) -> Tensor:
        """The user's loss, if it is a scalar tensor."""
        if not tf.is_tensor(loss):
            raise ModelError(f"student_loss must be a scalar tensor, not {type(loss).__name__}")
        if loss.shape.rank not in (None, 0):
            raise ModelError(f"student_loss must be a scalar tensor, not one of shape {shape_of(loss)}: take its mean")
        return loss

    def learning_rate(self, optimizer: Any) -> float | None:
        """The learning rate of the next step."""
        rate = getattr(optimizer, "learning_rate", None)
        if callable(rate) and not hasattr(rate, "numpy"):  # an optimizer that hands out its schedule
            rate = rate(optimizer.iterations)
        return None if rate is None else float(tf.convert_to_tensor(rate))

    def snapshot(self, model: Any) -> dict[str, Any]:
        """A true copy of the weights, NumPy arrays by the paths of the variables."""
        return weights_of(model)

    def restore(self, model: Any, weights: Mapping[str, Any]) -> None:
        """Put a snapshot's weights into a model."""
        put_weights(model, weights)

    def clean_copy(self, model: Any, weights: Mapping[str, Any]) -> Any:
        """A new model of the same configuration with these weights, not compiled."""
        return copied(model, weights)

    def rng_state(self) -> dict[str, Any]:
        """The states of Python's, NumPy's, TensorFlow's and Keras' generators, as plain data and arrays."""
        return generators.state()

    def set_rng_state(self, state: Mapping[str, Any]) -> None:
        """Put those states back; a generator that this program lacks is left alone."""
        generators.put_state(state)

    @contextmanager
    def evaluation_mode(self, model: Any) -> Iterator[None]:
        """Nothing to do: a Keras model has no mode of its own, a call without ``training`` is one of inference."""
        yield

    def evaluator(self, distiller: Any) -> Evaluator | None:
        """What evaluates a model as ``evaluation`` says, or None where there is nothing to evaluate on."""
        from kdhooks_tf.evaluation import evaluator

        found: Evaluator | None = evaluator(distiller)
        return found

    def target_loader(self, distiller: Any, *, evaluation: bool) -> Any:
        """The target domain's batches: what is set on the distiller, or what the configuration names, or None."""
        from kdhooks_tf.domains.data import target_loader

        return target_loader(distiller, evaluation=evaluation)

    def target_logits(self, distiller: Any, model: Any, loader: Any) -> Any:
        """The logits [N, C] of the target domain's rows, on the host."""
        from kdhooks_tf.domains.data import target_logits

        return target_logits(distiller, model, loader)

    def train(self, distiller: Any) -> None:
        """The built-in loop."""
        from kdhooks_tf.train_loop import train

        train(distiller)

    def training_inputs(self, distiller: Any, epochs: int) -> tuple[int | None, Iterator[tuple[Any, Any]]]:
        """How many rows the training data has in all, and its batches, each row once an epoch."""
        from kdhooks_tf.stored_building import training_inputs

        return training_inputs(distiller, epochs)

    def observe(self, distiller: Any, dataloader: Any, batches: int) -> Any:
        """Both models on a few batches, for `check`."""
        from kdhooks_tf.observation import observe

        return observe(distiller, dataloader, batches)

    def similarity(self, distiller: Any, batches: int) -> Any:
        """The layers of both models compared, for `kdhooks suggest`."""
        from kdhooks_tf.similarity import observed_similarity

        return observed_similarity(distiller, batches)

    def seed(self, seed: int) -> None:
        """Seed Python's, NumPy's and TensorFlow's generators."""
        from kdhooks_tf.placement import seed_generators

        seed_generators(seed)

    def measure(self, model: Any, inputs: Any, names: Sequence[str], settings: Any) -> Mapping[str, Any]:
        """What a model costs; see `kdhooks_tf.measure.measure`."""
        from kdhooks_tf.measure import measure

        found: Mapping[str, Any] = measure(model, inputs, names, settings)
        return found

    def place(self, model: Any, conf: Any) -> None:
        """Nothing: TensorFlow has placed the variables when they were made."""

    def first_inputs(self, dataloader: Any, conf: DistillationConf) -> Any:
        """The model's inputs in the first batch of a loader, which stands afterwards where it stood."""
        from kdhooks_tf.observation.batches import first_inputs

        return first_inputs(dataloader, conf)

    def layers(
        self, model: Any, shapes: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
    ) -> list[dict[str, Any]]:
        """A row for each layer; see `kdhooks_tf.layers.list_layers`."""
        from kdhooks_tf.layers import example_inputs, list_layers

        rows: list[dict[str, Any]] = list_layers(model, example_inputs(shapes, tokens))
        return rows

    def tapped(
        self,
        model: Any,
        taps: Sequence[tuple[str, Any]],
        role: str,
        shapes: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
    ) -> list[dict[str, Any]]:
        """A row for each layer that a configuration names; see `kdhooks_tf.layers.list_tapped`."""
        from kdhooks_tf.layers import example_inputs, list_tapped

        rows: list[dict[str, Any]] = list_tapped(model, taps, example_inputs(shapes, tokens), role)
        return rows

    def read_weights(self, model: Any, path: Path) -> None:
        """Load a file of weights; see `kdhooks_tf.weights.read_weights`."""
        from kdhooks_tf.weights import read_weights

        read_weights(model, path)

    def write_weights(self, model: Any, path: Path) -> None:
        """Write a file of weights; see `kdhooks_tf.weights.write_weights`."""
        from kdhooks_tf.weights import write_weights

        write_weights(model, path)


BACKEND = TensorFlowBackend()
"""What `kdhooks.backend.load_backend` looks for."""
