"""Gathers, batch by batch, what models returned and what the terms of the loss were."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.check import ModelFacts, TermFacts
from kdhooks.criterion import Criterion, Term
from kdhooks.errors import KDHooksError
from kdhooks.loop.batches import Batch
from kdhooks.loop.postprocess import Postprocess
from kdhooks_tf.observation.batches import is_distribution, labels_are_inputs
from kdhooks_tf.outputs import logits_of

_MOST_POSITIONS, _MOST_NUMBERS = 4096, 8_000_000
_ON_LOGITS = ("MSE", "L1")
_NOT_SOFTENED = (*_ON_LOGITS, "hard_label")
_NOTHING = np.zeros(0, dtype=np.int64)

Tensor = Any


class View:
    """How to read logits and labels of one batch; classes are on the last axis.

    Attributes:
        target: the labels as the student's loss sees them, or None.
        keys: where an output has its logits.
    """

    def __init__(self, batch: Batch, postprocess: Postprocess, keys: Sequence[str], batches: int) -> None:
        self.keys, self._batches = keys, max(1, batches)
        self.target = batch.target if tf.is_tensor(batch.target) else None
        self._postprocess = postprocess
        self._mask = batch.mask.numpy().astype(bool) if tf.is_tensor(batch.mask) else None
        self._shifted = labels_are_inputs(batch)

    def student_returned(self, output: Any) -> None:
        """Let the configuration's postprocess have its say about the labels."""
        if self.target is not None:
            _, target = self._postprocess(output, self.target)
            self.target = target if tf.is_tensor(target) else self.target

    def labels_fit(self, classes: int) -> bool:
        """Whether all labels are classes."""
        if self.target is None or self.target.dtype.is_floating:
            return self.target is not None
        labels = self.target.numpy()
        return bool(((labels == -100) | ((labels >= 0) & (labels < classes))).all())

    def sample(self, logits: Any) -> Any:
        """[positions, C] evenly spaced positions that count."""
        flat = logits.reshape(-1, logits.shape[-1])
        if self._mask is not None and self._mask.shape == logits.shape[:-1]:
            flat = flat[self._mask.reshape(-1)]
        most = max(16, min(_MOST_POSITIONS, _MOST_NUMBERS // max(1, flat.shape[1])) // self._batches)
        if len(flat) > most:
            flat = flat[np.linspace(0, len(flat) - 1, most).astype(np.int64)]
        return flat.astype(np.float32)

    def compared(self, logits: Any) -> tuple[Any, Any]:
        """Predictions and labels at the labelled positions; empty where shapes don't fit."""
        predictions, classes = logits.argmax(-1), logits.shape[-1]
        if self.target is None:
            return _NOTHING, _NOTHING
        target = self.target.numpy()
        if target.dtype.kind == "f":
            if not is_distribution(target):
                return _NOTHING, _NOTHING
            target = target.argmax(-1)
        if target.shape != predictions.shape and target.size == predictions.size == len(target):
            target = target.reshape(-1)
        if target.shape != predictions.shape:
            return _NOTHING, _NOTHING
        counts = (target >= 0) & (target < classes)
        if self._mask is not None and self._mask.shape == target.shape:
            counts &= self._mask
        if self._shifted:  # position t names the token of t + 1
            predictions, target, counts = predictions[:, :-1], target[:, 1:], counts[:, 1:]
        return predictions[counts], target[counts]


class SeenModel:
    """Gathers what a model returned."""

    def __init__(self, facts: ModelFacts, *, from_logits: bool = True) -> None:
        self._facts, self._from_logits = facts, from_logits
        self._logits: list[Any] = []
        self._predictions: list[Any] = []
        self._labels: list[Any] = []
        self._bad: list[int] = []
        self._seconds: list[float] = []

    @property
    def broken(self) -> bool:
        """Whether it failed, or can't be run."""
        return bool(self._facts.error)

    def run(self, number: int, view: View, forward: Callable[[], Any], name: str = "student") -> Any:
        """Run a forward and note what comes out; None where it fails or has failed."""
        if self.broken:
            return None
        try:
            begin = time.perf_counter()
            output = forward()
            logits = logits_of(output, view.keys, model=name, from_logits=self._from_logits).numpy()
            self._seconds.append(time.perf_counter() - begin)
            if name == "student":
                view.student_returned(output)
        except Exception as error:
            self._facts = replace(self._facts, error=told(error))
            return None
        if not self._facts.shape:
            self._facts = replace(self._facts, shape=tuple(logits.shape), class_axis=-1)
        if not bool(np.isfinite(logits.astype(np.float64)).all()):
            self._bad.append(number)
        self._logits.append(view.sample(logits))
        predictions, labels = view.compared(logits)
        self._predictions.append(predictions)
        self._labels.append(labels)
        return output

    def facts(self) -> ModelFacts:
        """All that was seen."""
        if not self._logits:
            return self._facts
        return replace(
            self._facts,
            logits=np.concatenate(self._logits),
            predictions=np.concatenate(self._predictions),
            labels=np.concatenate(self._labels),
            non_finite=tuple(self._bad),
            seconds=tuple(self._seconds),
        )


class SeenTerm:
    """Gathers the values and gradients of a term."""

    def __init__(self, name: str, weight: float, **facts: Any) -> None:
        self.facts = TermFacts(name, float(weight), **facts)
        self._values: list[float] = []
        self._gradients: list[float] = []
        self._bad: list[int] = []
        self._reaches = True  # the logits; a term of hidden layers need not

    @classmethod
    def of(cls, term: Term, owner: Criterion, step: int) -> SeenTerm:
        """A term of a criterion at a step."""
        kind = term.name.split(".")[0]
        temperature = getattr(owner, "_temperature", None)
        softened = kind not in _NOT_SOFTENED
        made = cls(
            term.name,
            term.weight(step),
            temperature=float(temperature(step)) if softened and temperature is not None else None,
            compares_logits=kind in _ON_LOGITS,
            needs_teacher=getattr(owner, "needs_teacher", True),
        )
        made._reaches = term.layer is None
        return made

    def add(self, number: int, leaf: Tensor, compute: Callable[[], Tensor], *, quiet: bool = False) -> None:
        """The term's value on one batch, and the norm of its gradient on the student's logits `leaf`."""
        if self.facts.error:
            return
        try:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(leaf)
                value = compute()
            gradient = tape.gradient(value, leaf)
        except Exception as error:
            # the loop's own loss may be another one than the label says; then nothing is known of it
            self.facts = self.facts if quiet else replace(self.facts, error=told(error))
            return
        norm = 0.0 if gradient is None else float(np.linalg.norm(gradient.numpy().astype(np.float64)))
        self._values.append(float(value))
        self._gradients.append(norm)
        self._reaches = self._reaches or gradient is not None
        if not np.isfinite([self._values[-1], norm]).all():
            self._bad.append(number)

    def mean(self) -> TermFacts:
        """The mean over the batches."""
        if not self._values:
            return self.facts
        return replace(
            self.facts,
            value=float(np.mean(self._values)),
            gradient=float(np.mean(self._gradients)) if self._reaches else None,
            non_finite=tuple(self._bad),
        )


def told(error: Exception) -> str:
    """An error in one line."""
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, KDHooksError) else f"{type(error).__name__}: {first}"
