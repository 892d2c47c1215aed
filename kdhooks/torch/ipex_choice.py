"""Whether the built-in loop can train a student by Intel Extension for PyTorch, and why not where it can't.

Rules: what the extension does wrong is found before the first step, on a copy; then the loop trains without it and
says so in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdhooks.messages import logger
from kdhooks.speed import Choice, Precision
from kdhooks.torch.backend import unwrap
from kdhooks.torch.ipex import required, unusable
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

_WITHIN = 0.1
"""How far, as a share, the first output may be from that without the extension; in train mode, in bf16."""

_OPTIONS = ("maximize", "differentiable", "capturable", "fused", "decoupled_weight_decay")
"""Options that its own steps don't know."""


class Ipex:
    """Decides whether a run trains its student by the extension.

    Args:
        distiller: the `Distillation`.
        optimizer: of the student.
        device: where it trains.
        ranks: the processes that train together.
        first_input: the input of the first batch, or None, within a block.
        copied: makes a copy of a student in train mode.

    Raises:
        ConfigError: ``ipex: true``, and the extension can't be used here.
    """

    def __init__(
        self,
        distiller: Any,
        optimizer: Any,
        *,
        device: torch.device,
        ranks: Ranks,
        first_input: Callable[[], AbstractContextManager[Any]],
        copied: Callable[[nn.Module], nn.Module],
    ) -> None:
        if distiller.conf.settings.distillation.train.ipex is True:
            required(distiller.conf, "distillation.train.ipex")
        self._student, self._optimizer, self._copied = unwrap(distiller.student_model), optimizer, copied
        self._first_input = first_input
        self._refusal = _refusal(distiller, self._student, device, ranks)

    def candidates(self, choices: Iterable[Choice]) -> list[Choice]:
        """These choices by the extension, as far as it can do them."""
        found = [replace(one, precision=one.precision or _surrounding(), ipex=True) for one in choices]
        return [one for one in found if self._reason(one) is None]

    def settled(self, choice: Choice) -> Choice:
        """A choice without the extension where that can't train this student, and says why; proven where it can."""
        if not choice.ipex:
            return choice
        full = replace(choice, precision=choice.precision or _surrounding())
        reason = self._reason(full) or self._fault(full)
        if reason is None:
            return full
        logger.info("the student is trained without Intel's extension: %s", reason)
        return replace(choice, ipex=False)

    def trial(self, twin: nn.Module, choice: Choice) -> nn.Module:
        """A copy of a student, put under the extension for good."""
        trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
        IpexTraining(twin, torch.optim.SGD(trained, lr=0.0), bf16=choice.precision == "bf16").enter()
        return twin

    def _reason(self, choice: Choice) -> str | None:
        return self._refusal or _precision_refusal(choice.precision, self._optimizer)

    def _fault(self, choice: Choice) -> str | None:
        """Why this student must not be trained so, found on copies of it and the first batch."""
        with self._first_input() as inputs:
            if inputs is None:
                return "there is no first batch to prove it on"
            args, kwargs = as_call(inputs)
            try:
                plain, fast = self._copied(self._student), self._copied(self._student)
                if any(map(_trained_in_eval, plain.modules())):
                    return "layers of it are trained in eval mode, where the extension gives their weights no gradient"
                before, after = (_output(one, args, kwargs, choice) for one in (plain, self.trial(fast, choice)))
            except Exception as error:  # whatever the extension can't do with a model of somebody's
                lines = str(error).strip().splitlines()
                return lines[0] if lines else type(error).__name__
        if agree(Seen(after, {}), Seen(before, {}), within=_WITHIN, dtypes=False):
            return None
        return "the student gives other values with it"


def _output(model: nn.Module, args: Any, kwargs: Any, choice: Choice) -> Any:
    with torch.random.fork_rng(devices=[]), autocast(choice.precision, torch.device("cpu")):
        return model(*args, **kwargs)


def _trained_in_eval(module: nn.Module) -> bool:
    return isinstance(module, _PACKED) and not module.training and bool(module.weight.requires_grad)


def _surrounding() -> Precision | None:
    """The precision of the autocast around this call, which a loop without a precision of its own follows."""
    if not torch.is_autocast_enabled("cpu"):
        return "fp32"
    known: dict[torch.dtype, Precision] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    return known.get(torch.get_autocast_dtype("cpu"))


def _refusal(distiller: Any, student: nn.Module, device: torch.device, ranks: Ranks) -> str | None:
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


def _precision_refusal(precision: Precision | None, optimizer: Any) -> str | None:
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


def _shares(student: nn.Module, teachers: Any) -> bool:
    models = teachers.values() if isinstance(teachers, Mapping) else teachers
    models = [models] if isinstance(models, nn.Module) else list(models or ())
    theirs = {id(parameter) for parameter in student.parameters()}
    return any(id(parameter) in theirs for model in models for parameter in model.parameters())
