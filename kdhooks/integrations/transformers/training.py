"""The loss of one training: what the `Trainer` computes, and what the student should learn from the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from kdhooks.criterion import teachers_by_name
from kdhooks.distillation import Distillation
from kdhooks.errors import UsageError
from kdhooks.integrations.transformers.batches import (
    TeacherInputs,
    is_encoder_decoder,
    logits_mask,
    shifts_labels,
    student_input,
    target_of,
    token_mask,
)
from kdhooks.integrations.transformers.forwards import Seen, seen_forward
from kdhooks.integrations.transformers.logs import ComponentLogs
from kdhooks.integrations.transformers.shares import Shares
from kdhooks.torch.wrappers import inside

Method = Callable[..., Any]


class TrainingLoss:
    """What stands in the place of a `Trainer`'s methods while it trains.

    Args:
        trainer: whose methods they are.
        distiller: whose run has begun.
        student: the `Trainer`'s model.
        teacher_inputs: what teachers get for a batch, or None.
        logs: adds up the components.

    Attributes:
        adds_up: whether the losses of micro-batches are parts of a batch's, and are added up.
    """

    adds_up = False

    def __init__(
        self,
        trainer: Any,
        distiller: Distillation,
        student: nn.Module,
        teacher_inputs: Callable[[Mapping[str, Any]], Any] | None,
        logs: ComponentLogs,
    ) -> None:
        self._trainer, self._distiller, self._student, self._logs = trainer, distiller, student, logs
        self._asked = teacher_inputs
        self._shifts, self._two_sequences = shifts_labels(trainer, student), is_encoder_decoder(student)
        self._keys = tuple(distiller.conf.settings.model.outputs)
        if self._shifts and any(getattr(one, "shift", False) for one in distiller.summed_criteria()):
            raise UsageError(
                "the labels of a causal model are shifted by DistillationCallback already: leave out shift: true in "
                "LargeVocabularyDistillationLoss"
            )
        features = any(term.of_features for one in distiller.summed_criteria() for term in one.terms)
        main = getattr(inside(student), "main_input_name", "input_ids")
        self._shares = Shares(trainer, main, self._shifts, features=features)
        stores = distiller.conf.settings.distillation.cache is not None
        teachers = teachers_by_name(distiller.teacher_model).values()
        self._teacher_inputs = TeacherInputs(student, teachers, caches=stores)

    @property
    def replacing(self) -> dict[str, Callable[[Method], Method]]:
        """By the name of a method what makes its replacement."""
        return {"compute_loss": self._computing, "get_batch_samples": self._counting, "log": self._logging}

    def _computing(self, original: Method) -> Method:
        def compute_loss(model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not (torch.is_grad_enabled() and model.training):  # an evaluation
                return original(model, inputs, *args, **kwargs)
            batch = dict(inputs) if isinstance(inputs, Mapping) else {}  # the Trainer takes labels out
            items = kwargs.get("num_items_in_batch", args[1] if len(args) > 1 else None)
            self._distiller.on_step_begin(self._trainer.state.global_step)
            with seen_forward(model) as seen:
                result = original(model, inputs, *args, **kwargs)
            if isinstance(result, tuple):
                return self._total(seen, batch, result[0], items), *result[1:]
            return self._total(seen, batch, result, items)

        return compute_loss

    def _counting(self, original: Method) -> Method:
        def get_batch_samples(*args: Any, **kwargs: Any) -> Any:
            samples, items = original(*args, **kwargs)
            self._shares.begin(samples)
            return samples, items

        return get_batch_samples

    def _logging(self, original: Method) -> Method:
        def log(logs: dict[str, float], *args: Any, **kwargs: Any) -> Any:
            if "loss" in logs:  # of the training
                logs.update(self._logs.read(self._trainer.state.global_step))
            return original(logs, *args, **kwargs)

        return log

    def _total(self, seen: Seen, batch: Mapping[str, Any], loss: Any, items: Any) -> Any:
        """The `Trainer`'s loss and what the student should learn from the teacher."""
        if not seen.happened:
            raise UsageError(
                f"{type(self._trainer).__name__}.compute_loss never called the model that it was given, so there is no "
                "output of the student to distil: call model(...) there, not a copy of it"
            )
        given = student_input(self._student, seen.args, seen.kwargs, self._trainer.label_names)
        target = target_of(batch, seen.output, self._keys, self._shifts)
        mask = None if self._two_sequences else token_mask(given)
        asked = self._asked
        theirs = self._teacher_inputs(given, batch.get("labels")) if asked is None else asked(batch)
        scale = self._shares.of(batch, items)
        self.adds_up = scale is not None
        accelerator = self._trainer.accelerator
        with accelerator.autocast() if accelerator.mixed_precision != "no" else nullcontext():
            total = self._distiller.on_after_compute_loss(
                given,
                seen.output,
                loss,
                target=target,
                mask=logits_mask(mask, target, seen.output, self._keys),
                teacher_input=theirs,
                feature_mask=mask,
                scale=scale,
            )
        self._logs.add(self._distiller.loss_tensors, self._shares.parts(items))
        return total
