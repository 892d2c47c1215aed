"""What a batch of a `Trainer` means for distillation: labels in the places of logits, masks, the teacher's input.

Rules: a position that the `Trainer`'s loss leaves out, with the label -100, is left out. A causal model's logits stand
one place before their labels, so its labels are shifted here, once. Nothing waits for the device.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from kdhooks.integrations.forwards import input_of
from kdhooks.torch.outputs import logits_of
from kdhooks.torch.student_loss import UNLABELLED
from kdhooks.torch.wrappers import inside

_OF_THE_LOSS = ("labels", "shift_labels", "num_items_in_batch")
"""What a model gets for its own loss, which a teacher has none of."""


def shifts_labels(trainer: Any, model: nn.Module) -> bool:
    """Whether the label of a token stands one place behind its logits, as the `Trainer` sees it."""
    found = getattr(trainer, "_loss_shifts_labels", None)
    if found is None:
        root = inside(model)
        causal = type(root).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        found = causal and not is_encoder_decoder(root)
    return bool(found)


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether input and logits are two sequences."""
    return bool(getattr(getattr(inside(model), "config", None), "is_encoder_decoder", False))


def counted_labels(inputs: Mapping[str, Any], shifts: bool) -> Tensor | None:
    """The labels that a `Trainer` counts: of a causal model all but the first of each row."""
    if "shift_labels" in inputs:
        labels = inputs["shift_labels"]
    else:
        labels = inputs.get("labels")
        if shifts and isinstance(labels, Tensor) and labels.ndim > 1:
            labels = labels[..., 1:]
    return labels if isinstance(labels, Tensor) else None


def target_of(inputs: Mapping[str, Any], output: Any, keys: Sequence[str], shifts: bool) -> Tensor | None:
    """Labels in the places of the logits, [N] or [N, T]; None where they are no classes of these places.

    Args:
        inputs: the batch, with its labels.
        output: the student's.
        keys: what it calls its logits.
        shifts: whether the label of a token stands one place behind its logits.
    """
    labels = counted_labels(inputs, shifts)
    if labels is None or labels.is_floating_point():
        return None
    if shifts and "shift_labels" not in inputs:
        labels = nn.functional.pad(labels, (0, 1), value=UNLABELLED)
    logits = found_logits(output, keys)
    if logits is None:
        return labels
    fits = labels.shape in (logits.shape[:-1], (logits.shape[0], *logits.shape[2:]))
    return labels if fits else None


def found_logits(output: Any, keys: Sequence[str]) -> Tensor | None:
    """The logits of an output; None where it holds none, as that of a model that skips its head."""
    try:
        return logits_of(output, keys)
    except Exception:  # the criterion that needs logits says what is wrong
        return None


def token_mask(given: Any) -> Tensor | None:
    """The attention mask [N, T] in an input; None where there is none of this form."""
    mask = given.get("attention_mask") if isinstance(given, Mapping) else None
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def logits_mask(mask: Tensor | None, target: Tensor | None, output: Any, keys: Sequence[str]) -> Tensor | None:
    """Which logits count where no labels say it: those of tokens that are no padding."""
    if mask is None or target is not None:
        return None
    logits = found_logits(output, keys)
    return mask if logits is not None and logits.shape[:-1] == mask.shape else None


def size_of(inputs: Mapping[str, Any], main: str) -> Any:
    """How many positions a batch has for terms on hidden features: tokens, without padding where a mask tells.

    Args:
        inputs: the batch.
        main: the name of the student's main input.
    """
    mask = token_mask(inputs)
    if mask is not None:
        return mask.sum()
    tensors = [inputs.get(main), *inputs.values()]
    return next((one.numel() for one in tensors if isinstance(one, Tensor)), 1)


def student_input(student: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], labels: Iterable[str]) -> Any:
    """What the student got, without what was for its loss: a mapping, or positional arguments.

    Args:
        student: the model.
        args: of its forward.
        kwargs: of its forward.
        labels: what the `Trainer` calls labels.

    Raises:
        UsageError: some of what is left has no name in the student's forward, and some is named.
    """
    without = {*_OF_THE_LOSS, *labels}
    named = {name: value for name, value in kwargs.items() if name not in without}
    return input_of(student, tuple(args), named)


class TeacherInputs:
    """What teachers get for what the student got.

    Args:
        student: the model that learns.
        teachers: all of them get the same.
        caches: whether their outputs are stored, by the content of their input.
    """

    def __init__(self, student: nn.Module, teachers: Iterable[Any], *, caches: bool) -> None:
        self._student = inside(student)
        known = [_parameters(one) for one in teachers]
        self._known = [names for names, takes_all in known if not takes_all]
        self._spares_cache = not caches and bool(known) and all("use_cache" in names for names, _ in known)
        self._has_decoder = is_encoder_decoder(student)

    def __call__(self, given: Any, labels: Any) -> Any:
        """The teachers' input.

        Args:
            given: the student's, without labels.
            labels: of which a model with a decoder makes the decoder's input where it is handed none.
        """
        if not isinstance(given, Mapping):
            return given
        if self._has_decoder:
            given = self._with_decoder(given, labels)
        for names in self._known:
            given = {name: value for name, value in given.items() if name in names}
        if self._spares_cache and "use_cache" not in given:  # keys and values for a next token, which never comes
            given = {**given, "use_cache": False}
        return given

    def _with_decoder(self, given: Mapping[str, Any], labels: Any) -> Mapping[str, Any]:
        make = getattr(self._student, "prepare_decoder_input_ids_from_labels", None)
        there = given.get("decoder_input_ids") is not None or given.get("decoder_inputs_embeds") is not None
        if there or make is None or not isinstance(labels, Tensor):
            return given
        with torch.no_grad():
            return {**given, "decoder_input_ids": make(labels=labels)}


def _parameters(model: nn.Module) -> tuple[set[str], bool]:
    """The names that a model's forward takes, and whether it takes any other as well."""
    parameters = inspect.signature(inside(model).forward).parameters
    return set(parameters), any(one.kind is one.VAR_KEYWORD for one in parameters.values())
