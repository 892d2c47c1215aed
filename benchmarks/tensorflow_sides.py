"""The sides that the TensorFlow benchmarks compare: each trains a student of its own by the same loss.

A side is called with no argument, does the steps of one round, and returns their time. `model.fit` can't be stopped and
continued, so it runs in a thread that waits between two epochs, which are its rounds; a round's time is from its first
batch's begin to its last batch's end, in that thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from benchmarks.tensorflow_models import copied
from kdhooks import Distillation
from kdhooks_tf import DistillationCallback
from kdhooks_tf.matchers import build_matcher
from kdhooks_tf.pair_modules import SEED

TEMPERATURE, WEIGHTS, PAIR_WEIGHT = 4.0, (0.1, 0.9), 0.5
Step = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        student: copied for each side.
        teacher: likewise.
        data: batches without end, a `tf.data.Dataset`.
        layer: of both models, whose features are a pair; None for logits alone.
        matcher: of the pair: ``identity`` or ``conv1x1``.
        steps: of a round.
    """

    student: Any
    teacher: Any
    data: Any
    layer: str | None = None
    matcher: str = "identity"
    steps: int = 1

    def conf(self) -> dict[str, Any]:
        """The configuration of the loss."""
        criteria: dict[str, Any] = {
            "KnowledgeDistillationLoss": {
                "temperature": TEMPERATURE,
                "loss_types": ["CE", "KL"],
                "loss_weights": list(WEIGHTS),
            }
        }
        if self.layer is not None:
            criteria["IntermediateLayersKnowledgeDistillationLoss"] = {
                "layer_mappings": [[self.layer, self.layer]],
                "loss_types": ["MSE"],
                "loss_weights": [PAIR_WEIGHT],
                "feature_matchers": [self.matcher],
            }
        return {"distillation": {"train": {"criterion": criteria}}}


@dataclass(frozen=True)
class Time:
    """Of one step, the mean of a round, in seconds: on the wall, and of all processors together."""

    wall: float
    processor: float


class _Watch:
    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self, steps: int) -> Time:
        ended = time.perf_counter(), time.process_time()
        return Time(*((end - begin) / steps for begin, end in zip(self._began, ended, strict=True)))


class Loop:
    """A loop over batches around a step.

    Attributes:
        first_loss: of the first step, which is done here, before any round.
    """

    def __init__(self, step: Step, case: Case, distiller: Distillation | None = None) -> None:
        self._step, self._steps, self._distiller = step, case.steps, distiller
        self._batches = iter(case.data)
        self.first_loss = float(step(*next(self._batches)))

    def __call__(self) -> Time:
        """A round."""
        watch = _Watch()
        for _ in range(self._steps):
            self._step(*next(self._batches))
        return watch.stop(self._steps)

    def close(self) -> None:
        """Let go of everything."""
        if self._distiller is not None:
            self._distiller.on_train_end()


class _Rounds(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Holds a fit between its epochs; the last callback of the list."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps
        self.asked, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.first_loss: float | None = None
        self.time: Time | None = None
        self.ending = False
        self.error: BaseException | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.asked.acquire()
        if self.ending:
            raise _EndError

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            self._watch = _Watch()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.first_loss is None:
            self.first_loss = float(logs["loss"])
        if batch == self._steps - 1:
            self.time = self._watch.stop(self._steps)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.done.release()


class _EndError(Exception):
    """Ends a fit."""


class Fit:
    """A compiled model's own ``fit``.

    Attributes:
        first_loss: of the first step; the first round is done here.
    """

    def __init__(self, model: Any, case: Case, *callbacks: Any) -> None:
        self._model, self._case = model, case
        self._rounds = _Rounds(case.steps)
        self._callbacks = [*callbacks, self._rounds]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self()
        self.first_loss = self._rounds.first_loss

    def _run(self) -> None:
        given = {"steps_per_epoch": self._case.steps, "epochs": 10**9, "callbacks": self._callbacks}
        try:
            with suppress(_EndError):
                self._model.fit(self._case.data, verbose=0, shuffle=False, **given)
        except BaseException as error:
            self._rounds.error = error
        finally:
            self._rounds.done.release()

    def __call__(self) -> Time:
        """A round."""
        self._rounds.asked.release()
        self._rounds.done.acquire()
        if self._rounds.error is not None:
            raise self._rounds.error
        assert self._rounds.time is not None
        return self._rounds.time

    def close(self) -> None:
        """End the fit."""
        self._rounds.ending = True
        self._rounds.asked.release()
        self._thread.join()
        for callback in self._callbacks:
            if isinstance(callback, DistillationCallback):
                callback.detach()


# ---- the sides -------------------------------------------------------------------------------------


def _optimizer() -> Any:
    return keras.optimizers.SGD(0.01, momentum=0.9)


def _cross_entropy() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _soft(output: Any, taught: Any) -> Any:
    """T² KL(teacher || student), the mean over rows, as people write it."""
    log_q = tf.nn.log_softmax(output / TEMPERATURE)
    log_p = tf.nn.log_softmax(taught / TEMPERATURE)
    return TEMPERATURE**2 * tf.reduce_mean(tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), -1))


def by_hand(case: Case) -> Loop:
    """A step as people write it: the loss of Hinton et al. 2015 and the MSE of a pair of features."""
    student, teacher = copied(case.student), copied(case.teacher)
    optimizer, cross_entropy = _optimizer(), _cross_entropy()
    matcher, variables = None, list(student.trainable_variables)
    if case.layer is not None:
        student, teacher = (_with_feature(model, case.layer) for model in (student, teacher))
        if case.matcher != "identity":
            matcher = _convolution(student.outputs[0].shape, teacher.outputs[0].shape)
            variables += matcher.trainable_variables
    optimizer.build(variables)

    def step(x: Any, y: Any) -> Any:
        taught = teacher(x, training=False)
        with tf.GradientTape() as tape:
            output = student(x, training=True)
            pair = 0.0
            if case.layer is not None:
                (mine, output), (theirs, taught) = output, taught
                mine = mine if matcher is None else matcher(mine)
                pair = PAIR_WEIGHT * tf.reduce_mean(tf.math.squared_difference(mine, theirs))
            loss = WEIGHTS[0] * cross_entropy(y, output) + WEIGHTS[1] * _soft(output, taught) + pair
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return Loop(tf.function(step), case)


def _with_feature(model: Any, layer: str) -> Any:
    return keras.Model(model.inputs, [model.get_layer(layer).output, model.output])


def _convolution(student: Any, teacher: Any) -> Any:
    """A 1x1 convolution with the weights that the hooks' matcher of the first pair begins with."""
    weight, bias = build_matcher("conv1x1", list(student), list(teacher), seed=SEED).variables
    made = keras.layers.Conv2D(teacher[-1], 1)
    made.build(student)
    made.set_weights([weight.numpy()[None, None], bias.numpy()])
    return made


def with_hooks(case: Case) -> Loop:
    """The same step in a loop of one's own with the hooks."""
    student, optimizer, cross_entropy = copied(case.student), _optimizer(), _cross_entropy()
    distiller = Distillation(case.conf(), student_model=student, teacher_model=copied(case.teacher))
    optimizer.build(student.trainable_variables)
    distiller.on_train_begin(optimizer=optimizer)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            output = student(x, training=True)
            loss = distiller.on_after_compute_loss(x, output, cross_entropy(y, output))
        optimizer.apply(tape.gradient(loss, student.trainable_variables), student.trainable_variables)
        return loss

    return Loop(tf.function(step), case, distiller)


def with_callback(case: Case) -> Fit:
    """The same in Keras' own fit with the callback."""
    student = copied(case.student)
    student.compile(_optimizer(), _cross_entropy())
    distiller = Distillation(case.conf(), student_model=student, teacher_model=copied(case.teacher))
    return Fit(student, case, DistillationCallback(distiller))


def fit_by_hand(case: Case) -> Fit:
    """The same in Keras' own fit with a `compute_loss` written by hand, of logits alone."""
    teacher, cross_entropy, student = copied(case.teacher), _cross_entropy(), copied(case.student)

    class ByHand(keras.Model):  # type: ignore[misc]  # Keras ships no types
        def compute_loss(
            self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
        ) -> Any:
            taught = tf.stop_gradient(teacher(x, training=False))
            return WEIGHTS[0] * cross_entropy(y, y_pred) + WEIGHTS[1] * _soft(y_pred, taught)

    model = ByHand(student.inputs, student.outputs)
    model.compile(_optimizer())
    return Fit(model, case)


def plain_fit(case: Case) -> Fit:
    """Keras' own fit of the student alone, without teacher and callback: another loss."""
    student = copied(case.student)
    student.compile(_optimizer(), _cross_entropy())
    return Fit(student, case)


def with_distiller(case: Case) -> Fit:
    """The same by `keras.distillation.Distiller`, for a pair that needs no matcher."""
    soft, pair = WEIGHTS[1], PAIR_WEIGHT
    losses = [
        # an object, since by its name it would be computed on logits in place of probabilities
        keras.distillation.LogitsDistillation(TEMPERATURE, keras.losses.KLDivergence()),
        keras.distillation.FeatureDistillation("mse", case.layer, case.layer),
    ]
    model = keras.distillation.Distiller(
        copied(case.teacher), copied(case.student), losses, [1.0, pair / soft], student_loss_weight=WEIGHTS[0]
    )
    model.compile(_optimizer(), _cross_entropy())
    return Fit(model, case)
