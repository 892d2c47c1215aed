"""Whether the built-in loop can train a student by Intel Extension for PyTorch, and why not where it can't.

Rules: what the extension does wrong is found before the first step, on a copy; then the loop trains without it and
says so in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kdhooks.speed import Choice, Precision
from kdhooks.torch.ipex import unusable
from kdhooks.torch.ipex_student import IpexTraining
from kdhooks.torch.large_vocabulary import LargeVocabularyDistillationLoss
from kdhooks.torch.outputs import as_call
from kdhooks.torch.placement import autocast
from kdhooks.torch.ranks import Ranks
from kdhooks.torch.teacher_difference import Seen, agree
from kdhooks.torch.wrappers import compiled_parts

_PACKED = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers whose weights are packed in training."""

_FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.Adagrad)
"""Optimizers that it has a step of its own for; only these can step weights that are split in two halves."""

_ELEMENTWISE = (
    *(torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adamax, torch.optim.NAdam),
    *(torch.optim.RAdam, torch.optim.Adadelta),
)
"""Optimizers for which the order of a weight's numbers means nothing, so that they may be packed."""

_OPTIONS = ("maximize", "differentiable", "capturable", "fused", "decoupled_weight_decay")
"""Options that its own steps don't know."""


def surrounding() -> Precision | None:
    """The precision of the autocast around this call, which a loop without a precision of its own follows."""
    if not torch.is_autocast_enabled("cpu"):
        return "fp32"
    known: dict[torch.dtype, Precision] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    return known.get(torch.get_autocast_dtype("cpu"))


def student_refusal(distiller: Any, student: nn.Module, device: torch.device, ranks: Ranks) -> str | None:
    """Why the extension can't train this student, in any precision; None where nothing is against it."""
    if (reason := unusable()) is not None:
        return reason
    settings = distiller.conf.settings.distillation
    floats = [one for one in student.parameters() if one.is_floating_point()]
    if device.type != "cpu":
        return "the extension computes on the CPU, and the student is trained elsewhere"
    if ranks.size > 1:
        return "several processes train together"
    if settings.train.execution_mode == "graph" or compiled_parts(distiller.student_model):
        return "its forward is compiled"
    if type(student) in _PACKED:
        return "it is a single layer, which the extension would replace"
    if any(type(one) is not nn.Parameter or one.dtype != torch.float32 for one in floats):
        return "its weights are not plain ones in float32"
    if settings.teacher.ema is not None:
        return "the teacher is an average of its weights"
    if _shares(student, distiller.teacher_model):
        return "a teacher has some of its weights too"
    criteria = distiller.criterion if isinstance(distiller.criterion, (list, tuple)) else [distiller.criterion]
    if any(isinstance(one, LargeVocabularyDistillationLoss) for one in criteria):
        return "LargeVocabularyDistillationLoss reads the weight of its head"
    return None


def precision_refusal(precision: Precision | None, optimizer: Any) -> str | None:
    """Why it can't train in a precision with an optimizer, in words; None where it can."""
    if precision not in ("fp32", "bf16"):
        return f"it trains in fp32 and bf16, not in {precision}"
    kind = type(optimizer)
    if kind not in _FUSED and (precision == "bf16" or kind not in _ELEMENTWISE):
        return f"it can't step {kind.__name__} in {precision}"
    groups = optimizer.param_groups
    used = [name for name in _OPTIONS if any(group.get(name) for group in groups)]
    if kind in _FUSED and used:
        return f"its step of {kind.__name__} doesn't know {used[0]}"
    if any(isinstance(group["lr"], torch.Tensor) for group in groups):
        return f"its step of {kind.__name__} doesn't know a learning rate that is a tensor"
    return None


def trial(twin: nn.Module, choice: Choice) -> nn.Module:
    """A copy of a student in train mode, put under the extension for good."""
    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    IpexTraining(twin, torch.optim.SGD(trained, lr=0.0), bf16=choice.precision == "bf16").enter()
    return twin


def fault(plain: nn.Module, fast: nn.Module, inputs: Any, choice: Choice) -> str | None:
    """Why a student must not be trained by the extension, found on copies of it and one input; None where it may.

    Args:
        plain: a copy in train mode.
        fast: another; it is put under the extension.
        inputs: of the student.
        choice: how it would be trained.
    """
    if any(type(one) in _PACKED and not one.training and one.weight.requires_grad for one in plain.modules()):  # type: ignore[union-attr]
        return "layers of it are trained in eval mode, where the extension gives their weights no gradient"
    args, kwargs = as_call(inputs)
    try:
        state = torch.get_rng_state()
        with autocast(choice.precision, torch.device("cpu")):
            before = plain(*args, **kwargs)
        torch.set_rng_state(state)
        trial(fast, choice)
        with autocast(choice.precision, torch.device("cpu")):
            after = fast(*args, **kwargs)
    except Exception as error:  # whatever the extension can't do with a model of somebody's
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    if not agree(Seen(after, {}), Seen(before, {}), within=0.1, dtypes=False):
        return "it gives other values with it"
    return None


def _shares(student: nn.Module, teachers: Any) -> bool:
    models = teachers.values() if isinstance(teachers, Mapping) else teachers
    models = [models] if isinstance(models, nn.Module) else list(models or ())
    theirs = {id(parameter) for parameter in student.parameters()}
    return any(id(parameter) in theirs for model in models for parameter in model.parameters())
