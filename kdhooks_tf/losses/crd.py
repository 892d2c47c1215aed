"""Contrastive representation distillation, with its memory of embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kdhooks.errors import UsageError
from kdhooks.losses import shapes
from kdhooks.losses.options import check_convention, check_memory
from kdhooks_tf.losses.features import batch_size, check_same_batch, unit
from kdhooks_tf.losses.modules import (
    GENERATOR,
    Drawing,
    DrawingLossModule,
    Linear,
    channels_of,
    check_made_for,
    constant,
    parameter_dtype,
)
from kdhooks_tf.losses.positions import shape_of, size
from kdhooks_tf.losses.table import on_features


@on_features("crd")
class CRD(DrawingLossModule):
    """Contrastive representation distillation: -log h(positive) - Σ log(1 - h(negative)), for both sides as anchors.

    h = e^{s·t / τ} / (e^{s·t / τ} + K / M) of unit embeddings, K negatives drawn with repetition from a
    memory of M rows of the other model's embeddings, never the anchor's own row. In training a step
    then writes its own embeddings. With `sample_ids` a sample keeps its row and its row moves by
    `momentum` (the paper's memory: M is the size of the dataset); without, rows are the most recent
    embeddings and the oldest are overwritten. Sum over negatives and both anchors, mean over the batch.
    Tian et al. 2020, "Contrastive Representation Distillation", equations 9, 18 and 19.

    Args:
        student_shape: of the student's feature, batch first and channels last; space and tokens are
            averaged.
        teacher_shape: of the teacher's.
        width: of the embeddings.
        samples: M, rows of the memory.
        negatives: K.
        temperature: τ.
        momentum: how much of an old row stays, with `sample_ids`.
        convention: ``paper`` as above; ``common`` is the authors' code, which divides e^{s·t / τ} by a
            constant that the first training step estimates as M times its mean, for each side.
        seed: of the private numbers.

    Raises:
        UsageError: an option out of its range.
        ModelError: a shape without channels.

    Example:
        >>> import tensorflow as tf
        >>> loss = CRD((8, 16), (8, 32), samples=100, negatives=20)
        >>> loss(tf.random.normal((8, 16)), tf.random.normal((8, 32)), sample_ids=tf.range(8)).shape
        TensorShape([])
    """

    def __init__(
        self,
        student_shape: Sequence[int],
        teacher_shape: Sequence[int],
        *,
        width: int = 128,
        samples: int = 16384,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        convention: str = "paper",
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        check_memory(samples, negatives, temperature, momentum)
        self.paper = check_convention("crd", convention)
        self.samples, self.negatives, self.temperature, self.momentum = samples, negatives, temperature, momentum
        self.student_embedding = Linear(channels_of("crd", student_shape), width)
        self.teacher_embedding = Linear(channels_of("crd", teacher_shape), width)
        self.student_memory = constant((samples, width), parameter_dtype())
        self.teacher_memory = constant((samples, width), parameter_dtype())
        self.log_constants = constant((2,), parameter_dtype())
        self.reset()

    def _reset_own(self, drawing: Drawing) -> None:
        for memory in (self.student_memory, self.teacher_memory):
            memory.assign(unit(drawing.uniform(memory.shape, 1.0, memory.dtype), 1))
        self.log_constants.assign([math.nan, math.nan])  # NaN: not estimated yet

    def embed(self, student: Any, teacher: Any) -> tuple[Any, Any]:
        """Unit embeddings [N, width] of both features."""
        ours, theirs = self.student_embedding(_pooled(student)), self.teacher_embedding(_pooled(teacher))
        return unit(ours, 1), unit(theirs, 1)

    def draw(self, rows: Any) -> Any:
        """This step's negatives [N, K] for anchors with these rows of the memory [N]: rows that are not theirs."""
        shape = [tf.shape(rows)[0], self.negatives]
        drawn = tf.random.stateless_uniform(shape, self.step_seed(), 0, self.samples - 1, tf.int64, GENERATOR)
        return drawn + tf.cast(drawn >= rows[:, tf.newaxis], tf.int64)

    def rows(self, student: Any, sample_ids: Any) -> Any:
        """The rows of the memory that the samples of this step have."""
        if sample_ids is not None:
            sample_ids = tf.convert_to_tensor(sample_ids)
            batch = shape_of(student)[0]
            if not shapes.fits(shape_of(sample_ids), [batch]):
                raise UsageError(f"'crd' needs {batch} sample_ids for its batch, and got {shape_of(sample_ids)}")
            return tf.cast(sample_ids, tf.int64)
        batch = tf.shape(student, out_type=tf.int64)[0]
        return (tf.range(batch) + self.steps.read_value() * batch) % self.samples

    def __call__(
        self, student_feature: Any, teacher_feature: Any, *, training: bool = True, sample_ids: Any = None
    ) -> Any:
        """The loss of two features, a scalar; in training it also writes the memory.

        Args:
            student_feature: of the student.
            teacher_feature: of the teacher.
            training: whether this is a training step.
            sample_ids: [N], which sample of the dataset each is, from 0 to below `samples`.
        """
        return self._call(student_feature, teacher_feature, training, sample_ids=sample_ids)

    def _loss(self, student: Any, teacher: Any, training: bool, *, sample_ids: Any = None) -> Any:
        check_same_batch("crd", student, teacher)
        made = [self.student_embedding.kernel.shape[0], self.teacher_embedding.kernel.shape[0]]
        check_made_for("crd", student, teacher, [student, teacher], made)
        ours, theirs = self.embed(student, teacher)
        rows = self.rows(student, sample_ids)
        negatives = self.draw(rows)
        positive = tf.reduce_sum(ours * theirs, 1, keepdims=True)
        total = self._side(0, ours, positive, self.teacher_memory, negatives, training)
        total += self._side(1, theirs, positive, self.student_memory, negatives, training)
        if training:
            self.steps.assign_add(1)
            self._remember(rows, tf.stop_gradient(ours), tf.stop_gradient(theirs), keep=sample_ids is not None)
        return total / batch_size(ours)

    def _side(self, side: int, anchors: Any, positive: Any, memory: Any, negatives: Any, training: bool) -> Any:
        """The sum of one side's terms, by log-sigmoids: h = sigmoid(s·t / τ - log(K / M))."""
        scores = tf.concat([positive, _products(anchors, memory, negatives)], 1) / self.temperature
        shift: Any = math.log(self.negatives / self.samples)
        if not self.paper:
            shift += self._log_constant(side, tf.stop_gradient(scores), training)
        scores = scores - shift
        return -tf.reduce_sum(tf.math.log_sigmoid(scores[:, :1])) - tf.reduce_sum(tf.math.log_sigmoid(-scores[:, 1:]))

    def _log_constant(self, side: int, scores: Any, training: bool) -> Any:
        """The log Z of a side; what the first training step found stays."""
        constants = self.log_constants.read_value()
        found = tf.reduce_logsumexp(scores) - tf.math.log(size(scores)) + math.log(self.samples)
        found = tf.where(tf.math.is_nan(constants[side]), found, constants[side])
        if training:
            here = tf.logical_and(tf.equal(tf.range(2), side), tf.math.is_finite(found))  # of an empty batch it isn't
            self.log_constants.assign(tf.where(here, found, constants))
        return found

    def _remember(self, rows: Any, student: Any, teacher: Any, *, keep: bool) -> None:
        for memory, embeddings in ((self.student_memory, student), (self.teacher_memory, teacher)):
            held = memory.read_value()
            if keep:
                old = tf.gather(held, rows)
                embeddings = unit(self.momentum * old + (1 - self.momentum) * embeddings, 1)
            memory.assign(tf.tensor_scatter_nd_update(held, rows[:, tf.newaxis], embeddings))


def _products(anchors: Any, memory: Any, chosen: Any) -> Any:
    """[N, K] products of anchors [N, D] with chosen rows [N, K] of the memory [M, D]: with all, then chosen.

    All products are made where the chosen rows may be more than the memory has.
    """
    held = memory.read_value()
    known = shape_of(chosen)
    if known[0] is not None and known[1] is not None and known[0] * known[1] < held.shape[0]:
        return tf.reduce_sum(tf.gather(held, chosen) * anchors[:, tf.newaxis], 2)
    return tf.gather(tf.matmul(anchors, held, transpose_b=True), chosen, batch_dims=1)


def _pooled(feature: Any) -> Any:
    """[N, C]: the mean over space or tokens."""
    axes = list(range(1, len(feature.shape) - 1))
    return tf.reduce_mean(feature, axes) if axes else feature
