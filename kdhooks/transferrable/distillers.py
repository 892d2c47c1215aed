"""Distillers by the names of e2eAIOK's Model Adaptor: a teacher, a loss between logits, and where logits are saved.

They run nothing by themselves in a training step: the hooks of `kdhooks.Distillation` do, with the teacher in eval
mode, frozen, and outside of optimizer and checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kdhooks.config.model import Schedulable
from kdhooks.criterion import teachers_by_name
from kdhooks.datasets.replayed import replayed_in
from kdhooks.errors import UsageError
from kdhooks.loop.batches import split_batch
from kdhooks.stored.building import Filled
from kdhooks.torch.backend import BACKEND
from kdhooks.torch.criteria import KnowledgeDistillationLoss
from kdhooks.torch.outputs import as_call, constant, logits_of
from kdhooks.torch.store_outputs import store_outputs
from kdhooks.transferrable.saved_logits import SavedLogits

STUDENT = "backbone"
"""What the user's own loss is called among the parts of a loss."""

StoredType = Literal["float32", "float16", "bfloat16", "int8"]


class BasicDistiller:
    """The student's logits come near the teacher's by their mean squared error (Ba & Caruana 2014, equation 1).

    Args:
        pretrained_model: the teacher; None where its logits are saved and it shall not be loaded.
        is_frozen: always True: a teacher's weights, statistics and modes stay as they are.
        use_saved_logits: read the teacher's logits from `logits_path`. A teacher that is there runs for inputs that
            are not, and stores what it says; without one they are an error.
        topk: how many of the largest logits are saved, and the mass of the rest; 0 saves all.
        num_classes: not needed, it is seen in the logits; taken so that old calls go on.
        teacher_type: not needed, outputs with ``.logits`` are understood; taken so that old calls go on.
        logits_path: the folder of saved logits.
        dtype: of saved logits.
        options: how the teacher runs, as ``distillation.teacher`` of a configuration: ``{"precision": "bf16"}``.

    Raises:
        UsageError: options that contradict each other.

    Example:
        >>> student, teacher = torch.zeros(2, 3), torch.ones(2, 3)
        >>> float(BasicDistiller(nn.Identity()).loss(teacher, student))
        1.0
    """

    kind: ClassVar[str] = "MSE"

    def __init__(
        self,
        pretrained_model: nn.Module | None,
        is_frozen: bool = True,
        use_saved_logits: bool = False,
        topk: int = 0,
        num_classes: int | None = None,
        teacher_type: str | None = None,
        *,
        logits_path: str | os.PathLike[str] = ".kdhooks/cache",
        dtype: StoredType = "float32",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        kind = type(self).__name__
        if not is_frozen:
            raise UsageError(f"{kind}: the teacher is always frozen; leave is_frozen out, or train it before")
        if isinstance(topk, bool) or not isinstance(topk, int) or topk < 0:
            raise UsageError(f"{kind}: topk must be a number of classes, or 0 for all of them, not {topk!r}")
        if pretrained_model is None and not use_saved_logits:
            raise UsageError(f"{kind} needs a teacher, or use_saved_logits=True and the logits_path of saved ones")
        self.pretrained_model, self.use_saved_logits, self.topk = pretrained_model, use_saved_logits, topk
        self.is_frozen, self.num_classes, self.teacher_type = True, num_classes, teacher_type
        self.logits_path, self.dtype, self.options = os.fspath(logits_path), dtype, dict(options or {})
        self.saved = SavedLogits(self.logits_path)

    # ---- what the hooks need -----------------------------------------------------------------------

    @property
    def temperature_used(self) -> Schedulable:
        """T of the criterion."""
        return 1.0

    def loss_options(self) -> dict[str, Any]:
        """The options of the loss between logits."""
        return {}

    def scheduled(self, weight: Schedulable) -> Schedulable:
        """The weight of the teacher's term, step by step."""
        return weight

    def criterion(self, backbone_weight: Schedulable, distiller_weight: Schedulable) -> KnowledgeDistillationLoss:
        """The user's own loss and the teacher's term, each with its weight."""
        return self._criterion(backbone_weight, self.scheduled(distiller_weight))

    def _criterion(self, *weights: Schedulable) -> KnowledgeDistillationLoss:
        return KnowledgeDistillationLoss(
            temperature=self.temperature_used,
            loss_types=[STUDENT, {self.kind: self.loss_options()}],
            loss_weights=weights,
        )

    def section(self) -> dict[str, Any]:
        """The part of the section ``distillation`` that says how the teacher runs and where its logits are."""
        section: dict[str, Any] = {"teacher": self.options} if self.options else {}
        if self.use_saved_logits and self.pretrained_model is not None:
            section["cache"] = {"path": self.logits_path, "dtype": self.dtype, "top_k": self.topk or None}
        return section

    # ---- without a loop ----------------------------------------------------------------------------

    def loss(self, teacher_logits: Any, student_logits: Any, *, target: Tensor | None = None, step: int = 0) -> Tensor:
        """The unweighted loss, a scalar.

        Args:
            teacher_logits: [N, C], or an output that holds them.
            student_logits: the same of the student, with its graph.
            target: class numbers [N], where the loss looks at them.
            step: for a temperature that is a schedule.
        """
        return self._criterion(0.0, 1.0)(student_logits, teacher_logits, target=target, step=step)

    def __call__(self, x: Any) -> Tensor:
        """The teacher's logits [N, C] of an input, without a graph: saved ones where there is no teacher."""
        model = self.pretrained_model
        if model is None:
            return self.saved(x)
        args, kwargs = as_call(x)
        with BACKEND.evaluation_mode(model), torch.no_grad():
            return constant(logits_of(model(*args, **kwargs), model="teacher"))

    def prepare_logits(self, dataloader: Iterable[Any], epochs: int = 1, start_epoch: int = 0) -> Filled:
        """Save the teacher's logits of all inputs of a dataloader, where they are not saved yet.

        What it writes is what `use_saved_logits` reads. It goes on where it was interrupted.

        Args:
            dataloader: batches ``(inputs, target)`` or mappings. A `kdhooks.ReplayedAugmentation` among its datasets
                is told the epoch; other random augmentation gives other images in training than those saved here.
            epochs: the number after the last epoch.
            start_epoch: the number of the first.

        Returns:
            How many rows there were, and how many were computed.

        Raises:
            UsageError: there is no teacher, or no epoch.
            StoreError: the store can't be written, or this teacher can't be stored.
        """
        if self.pretrained_model is None:
            raise UsageError(f"{type(self).__name__} has no teacher whose logits could be saved")
        if epochs <= start_epoch:
            raise UsageError(f"prepare_logits: no epoch lies from start_epoch {start_epoch} to epochs {epochs}")
        return store_outputs(
            self.pretrained_model,
            _inputs(dataloader, range(start_epoch, epochs)),
            self.logits_path,
            dtype=self.dtype,
            top_k=self.topk or None,
            options=self.options,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> BasicDistiller:
        """A copy has the same teacher: nothing ever changes it."""
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __repr__(self) -> str:
        models = teachers_by_name(self.pretrained_model).values()
        return f"{type(self).__name__}({', '.join(type(model).__name__ for model in models) or self.logits_path!r})"


class KD(BasicDistiller):
    """The student follows the teacher's softened distribution (Hinton, Vinyals & Dean 2015): KL times T squared.

    Args:
        pretrained_model: see `BasicDistiller`.
        temperature: T; a number or a schedule.
        is_frozen: see `BasicDistiller`; so are all that follow.
        use_saved_logits: read the teacher's logits from `logits_path`.
        topk: how many of the largest logits are saved; 0 saves all.
        num_classes: not needed.
        teacher_type: not needed.
        more: `logits_path`, `dtype` and `options` of `BasicDistiller`.

    Example:
        >>> logits = torch.eye(3)
        >>> float(KD(nn.Identity()).loss(logits, logits))
        0.0
    """

    kind = "KL"

    def __init__(
        self,
        pretrained_model: nn.Module | None,
        temperature: Schedulable = 4.0,
        is_frozen: bool = True,
        use_saved_logits: bool = False,
        topk: int = 0,
        num_classes: int | None = None,
        teacher_type: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(pretrained_model, is_frozen, use_saved_logits, topk, num_classes, teacher_type, **more)
        self.temperature = temperature

    @property
    def temperature_used(self) -> Schedulable:
        """T."""
        return self.temperature


class DKD(KD):
    """Decoupled distillation (Zhao et al. 2022, equation 7): the target's share and the others' have weights apart.

    It needs integer labels.

    Args:
        pretrained_model: see `BasicDistiller`.
        alpha: of the divergence between the target's share and all others'.
        beta: of the divergence among the others.
        temperature: T; a number or a schedule.
        warmup: training steps over which the weight rises from 0; 0 begins with the whole weight.
        is_frozen: see `BasicDistiller`; so are all that follow.
        use_saved_logits: read the teacher's logits from `logits_path`.
        topk: how many of the largest logits are saved; 0 saves all.
        num_classes: not needed.
        teacher_type: not needed.
        more: `logits_path`, `dtype` and `options` of `BasicDistiller`.
    """

    kind = "dkd"

    def __init__(
        self,
        pretrained_model: nn.Module | None,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: Schedulable = 4.0,
        warmup: int = 0,
        is_frozen: bool = True,
        use_saved_logits: bool = False,
        topk: int = 0,
        num_classes: int | None = None,
        teacher_type: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(
            pretrained_model, temperature, is_frozen, use_saved_logits, topk, num_classes, teacher_type, **more
        )
        if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
            raise UsageError(f"DKD: warmup must be a number of training steps, not {warmup!r}")
        self.alpha, self.beta, self.warmup = alpha, beta, warmup

    def loss_options(self) -> dict[str, Any]:
        """Weights of both divergences."""
        return {"alpha": self.alpha, "beta": self.beta}

    def scheduled(self, weight: Schedulable) -> Schedulable:
        """The weight, which rises to its number in `warmup` steps."""
        if not self.warmup or weight == 0:
            return weight
        if not isinstance(weight, (int, float)):
            raise UsageError("DKD: warmup and a distiller_loss_weight that is a schedule: keep one of them")
        return {"warmup": {"to": weight, "steps": self.warmup}}


def _inputs(dataloader: Iterable[Any], epochs: range) -> Iterable[Any]:
    replayed = list(replayed_in(dataloader))
    for epoch in epochs:
        for dataset in replayed:
            dataset.set_epoch(epoch)
        for batch in dataloader:
            yield split_batch(batch).input
