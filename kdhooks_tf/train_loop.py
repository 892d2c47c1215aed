"""The built-in loop of `fit()`: what a careful person writes around the hooks, from the configuration.

Rules: those of `kdhooks.loop.train_loop`. A step is one ``tf.function``, traced once for the shapes of a batch, unless
the configuration's ``execution_mode: eager``, the model's ``run_eagerly`` or TensorFlow itself ask for Python. It
computes nothing that a user's loop would not: the losses that the student's layers add, such as a regularizer's, count
as they do in Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import tensorflow as tf

from kdhooks.loop.batches import Batch, split_batch
from kdhooks.loop.stop_signals import StopSignals
from kdhooks.loop.train_loop import Alone, BuiltInLoop
from kdhooks_tf import checkpoint
from kdhooks_tf.checkpoint import CheckpointFile
from kdhooks_tf.data import as_tensors
from kdhooks_tf.matcher_training import MatcherTraining, held
from kdhooks_tf.optimizers import inner_optimizer
from kdhooks_tf.outputs import as_call
from kdhooks_tf.placement import device_scope, non_finite_variable, precision_scope
from kdhooks_tf.speed_options import check_train
from kdhooks_tf.stored_dataset import without_stored
from kdhooks_tf.train_setup import Parts, prepare

Tensor = Any


def train(distiller: Any) -> None:
    """Train the student of a `Distillation` as ``distillation.train`` says.

    Args:
        distiller: the `Distillation`; its ``optimizer`` and ``train_dataloader`` are used where they are set, and
            set where they come from the configuration.

    Raises:
        UsageError, ConfigError, DataError, ModelError: something is missing or doesn't fit.
        NonFiniteLossError: a loss became NaN or infinite.
        CheckpointError: there is no such checkpoint to continue, or it belongs to another run.
        KeyboardInterrupt, SystemExit: Ctrl-C and SIGTERM, after a checkpoint was written.
    """
    check_train(distiller.conf, distiller.student_model)
    precision = distiller.conf.settings.distillation.train.precision
    with device_scope(distiller.conf), precision_scope(distiller.student_model, precision):
        signals = StopSignals()
        loop = TrainLoop(distiller, prepare(distiller), signals)
        try:
            with signals:
                loop.run()
        finally:
            loop.close()


class TrainLoop(BuiltInLoop):
    """The loop and where it stands; see `kdhooks.loop.train_loop.BuiltInLoop`."""

    def __init__(self, distiller: Any, parts: Parts, signals: StopSignals) -> None:
        file = CheckpointFile(parts.checkpoint)
        super().__init__(distiller, parts, Alone(), signals, student=distiller.student_model, file=file)
        self._variables = list(self.student.trainable_variables)
        self._trainings: list[MatcherTraining] = []
        self._skips = hasattr(parts.optimizer, "inner_optimizer")  # a scaled loss leaves steps out
        self._make_functions()
        if parts.resume is not None:
            self._resume(CheckpointFile(parts.resume))

    # ---- a step ------------------------------------------------------------------------------------

    def _make_functions(self) -> None:
        functions: list[Callable[..., Any]] = [self._gradient_of, self._apply, self._step]
        if self.parts.traced:
            functions = [tf.function(one, reduce_retracing=True, autograph=False) for one in functions]
        self._gradient, self._applied, self._whole_step = functions

    def _train_mode(self) -> None:
        """Trace anew where another epoch trains other weights."""
        variables = list(self.student.trainable_variables)
        if list(map(id, variables)) != list(map(id, self._variables)):
            self._variables = variables
            self._make_functions()

    def _optimizer_step(self, group: list[Any]) -> None:
        self.parts.rate.apply()
        before = self._applied_steps()
        if len(group) == 1:
            self._whole_step(*self._begun(group[0], self.step))
        else:
            sums: Any = None
            share = tf.constant(1 / len(group), tf.float32)
            for index, batch in enumerate(group):
                found = self._gradient(*self._begun(batch, self.step + index), share=share)
                sums = found if sums is None else _added(sums, found)
            self._applied(sums)
        self._stepped = before is None or self._applied_steps() != before
        self.distiller.on_step_end()

    def _applied_steps(self) -> int | None:
        """The steps that a scaled optimizer took; None where it takes them all."""
        return int(inner_optimizer(self.parts.optimizer).iterations) if self._skips else None

    def _begun(self, batch: Any, step: int) -> tuple[Any, ...]:
        """A batch as a step takes it, whose number is told to the hooks."""
        self.distiller.on_step_begin(step)
        weight = None
        batch, stored = without_stored(batch)
        if isinstance(batch, (tuple, list)) and len(batch) == 3 and not self.parts.input_columns:
            *batch, weight = batch  # Keras's third is the weight of the samples
        parts: Batch = split_batch(batch, inputs=self.parts.inputs, input_columns=self.parts.input_columns)
        for name, value in stored.items():
            parts = replace(parts, **{name: value}) if getattr(parts, name) is None else parts
        given = (parts.input, parts.target, parts.mask, parts.teacher_output, parts.sample_ids, weight)
        other = (None, None) if self.parts.target is None else self.parts.target.next()
        return tuple(as_tensors(part) for part in (*given, parts.teacher_features, *other))

    def _step(self, *batch: Any) -> None:
        self._apply(self._gradient_of(*batch, share=None))

    def _gradient_of(
        self,
        given: Any,
        target: Any,
        mask: Any,
        teacher_output: Any,
        sample_ids: Any,
        weight: Any,
        features: Any,
        target_input: Any,
        target_labels: Any,
        *,
        share: Any,
    ) -> list[Any]:
        """The gradient of a batch's total loss times its share of the step, as the hooks give it.

        Returns:
            The student's gradients; with a share also those of the matchers, for each criterion, and where they are
            due. Without one matchers have stepped already.
        """
        args, kwargs = as_call(self.student, given)
        with tf.GradientTape() as tape, nullcontext() if share is None else held() as waiting:
            output = self.student(*args, training=True, **kwargs)
            loss = self.parts.student_loss(output, target, mask, weight)
            if self.student.losses:
                loss += tf.add_n([tf.cast(one, loss.dtype) for one in self.student.losses])
            total = self.distiller.on_after_compute_loss(
                given,
                output,
                loss,
                teacher_output,
                target=target,
                mask=mask,
                sample_ids=sample_ids,
                sample_weight=weight,
                teacher_features=features,
                target_input=target_input,
                target_labels=target_labels,
            )
            scaled = self.parts.optimizer.scale_loss(total if share is None else total * tf.cast(share, total.dtype))
        gradients = [
            None if one is None else tf.convert_to_tensor(one) for one in tape.gradient(scaled, self._variables)
        ]
        if waiting is None:
            return [gradients, [], []]
        self._trainings = waiting.trainings
        return [gradients, [[_part(one, share) for one in found] for found in waiting.gradients], waiting.live]

    def _apply(self, found: list[Any]) -> None:
        """Clip as PyTorch does, the student's alone, and step; a variable that no term reaches stays."""
        gradients, matchers, live = found
        for training, theirs, due in zip(self._trainings, matchers, live, strict=False):
            training.step(theirs, due)
        reached = [(one, to) for one, to in zip(gradients, self._variables, strict=True) if one is not None]
        if not reached:
            return
        found, variables = map(list, zip(*reached, strict=True))
        largest = self.settings.gradient_clipping
        if largest is not None:
            scale = getattr(self.parts.optimizer, "dynamic_scale", None)
            norm = tf.linalg.global_norm(found)
            norm = norm if scale is None else norm / tf.convert_to_tensor(scale)
            factor = tf.minimum(1.0, largest / (norm + 1e-6))
            found = [one * tf.cast(factor, one.dtype) for one in found]
        self.parts.optimizer.apply(found, variables)

    # ---- checkpoints -------------------------------------------------------------------------------

    def _more_states(self) -> dict[str, Any]:
        return {} if self.parts.target is None else {"target": self.parts.target.state()}

    def _restore_more(self, states: Mapping[str, Any]) -> None:
        if self.parts.target is not None and "target" in states:
            self.parts.target.restore(states["target"])

    def _non_finite_parameter(self) -> str | None:
        return non_finite_variable(self.student)

    def _content(self, states: Any) -> dict[str, Any]:
        return {
            "student": checkpoint.student_state(self.student),
            "optimizer": checkpoint.optimizer_state(self.parts.optimizer),
            "rate": self.parts.rate.state_dict(),
            "distiller": self.distiller.state_dict(),
            "position": {"epoch": self.epoch, "batch": self.batch, "step": self.step},
            "ranks": list(states),
        }

    def _resume(self, file: CheckpointFile) -> None:
        """Continue a saved run; nothing is changed before all of it is known to fit."""
        content = file.read()
        checkpoint.check_student(self.student, content["student"], file.path)
        checkpoint.check_optimizer(self.parts.optimizer, content["optimizer"], file.path)
        self.parts.rate.load_state_dict(content["rate"])
        self.distiller.load_state_dict(content["distiller"])
        checkpoint.put_student_state(self.student, content["student"])
        checkpoint.put_optimizer_state(self.parts.optimizer, content["optimizer"])
        self._continue(content, file.path)


def _part(gradient: Tensor | None, share: Tensor) -> Tensor | None:
    return None if gradient is None else tf.convert_to_tensor(gradient) * tf.cast(share, gradient.dtype)


def _added(one: Any, other: Any) -> Any:
    """The sums of gradients, in the same lists; what a later batch made comes last in its list."""
    if isinstance(one, list) or isinstance(other, list):
        return [_added(*pair) for pair in zip_longest(one or (), other or ())]
    if one is None or other is None:
        return other if one is None else one
    return one | other if one.dtype == tf.bool else one + other
