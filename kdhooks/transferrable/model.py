"""`TransferrableModel`: a backbone and its loss as one module, over the hooks of `kdhooks.Distillation`.

Rules: the backbone stays the user's own object, and nothing is set on it. In evaluation the backbone runs alone. A
training step is ``model(x)``, then ``model.loss(output, label)``; the hooks begin with the first of them. Teacher and
adapters are no submodules: they are in no ``state_dict`` and in no optimizer that is made of ``parameters()``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.criterion import teachers_by_name
from kdhooks.distillation import Distillation
from kdhooks.errors import ModelError, UsageError
from kdhooks.torch.backend import BACKEND
from kdhooks.torch.domains.both import first_rows, joined, rows_of
from kdhooks.torch.outputs import as_call
from kdhooks.torch.taps import drop_dead_hooks
from kdhooks.transferrable.backbone_state import BackboneState
from kdhooks.transferrable.distillers import STUDENT, BasicDistiller
from kdhooks.transferrable.hooks import Hooks
from kdhooks.transferrable.losses import checked_loss, own_loss
from kdhooks.transferrable.plan import Loss, Plan
from kdhooks.transferrable.strategy import TransferStrategy
from kdhooks.transferrable.tensors import (
    Given,
    TransferrableModelLoss,
    TransferrableModelOutput,
    TransferrableTensor,
    loss_with_parts,
    output_with_input,
)


class TransferrableModel(BackboneState):
    """A backbone that learns from labels, and from whatever else its plan says; made by `make_transferrable`.

    Args:
        backbone: the model that learns; its weights are changed by a finetunner now.
        loss: (output of the backbone, label) -> scalar; None takes the backbone's own method ``loss``.
        plan: what is transferred.

    Attributes:
        backbone: the very model.
        hooks: the `kdhooks.Distillation` that does the work: ``hooks.on_epoch_end()``, ``hooks.state_dict()``,
            ``hooks.history`` and ``hooks.on_train_end()`` are there for loops that want them.

    Raises:
        UsageError: the backbone has no loss, and none is given.

    Example:
        >>> from kdhooks.transferrable import KD, make_transferrable_with_knowledge_distillation
        >>> student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> model = make_transferrable_with_knowledge_distillation(student, nn.CrossEntropyLoss(), KD(teacher))
        >>> output = model(torch.randn(8, 4))
        >>> loss = model.loss(output, torch.randint(3, (8,)))
        >>> loss.backward()
        >>> sorted(loss.parts)
        ['KL', 'backbone', 'total']
    """

    def __init__(self, backbone: nn.Module, loss: Loss | None, plan: Plan) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise ModelError(f"the backbone must be a torch.nn.Module, not {type(backbone).__name__}")
        self.backbone = backbone
        self._loss = (own_loss(backbone) if loss is None else checked_loss(loss),)  # a tuple: no submodule
        self.plan = plan
        self._pending: Given | None = None
        if plan.finetunner is not None:
            plan.finetunner.finetune_network(backbone)
        self._hooks = Hooks(backbone, self.loss_function, plan)

    # ---- the names of Model Adaptor ----------------------------------------------------------------

    @property
    def hooks(self) -> Distillation:
        """What does the work."""
        return self._hooks.distillation

    @property
    def transfer_strategy(self) -> TransferStrategy | None:
        """Which kinds of transfer work together; None for a combination that has no name among the five."""
        return self.plan.named_strategy

    @property
    def enable_target_training_label(self) -> bool:
        """Whether labels are used; of the target domain, where there is one."""
        return bool(self.plan.enable_target_training_label)

    @property
    def distiller(self) -> BasicDistiller | None:
        """What brings the teacher."""
        return self.plan.distiller

    @property
    def adapter(self) -> Any:
        """What adapts to the target domain."""
        return self.plan.adapter

    @property
    def finetunner(self) -> Any:
        """What brought pretrained weights."""
        return self.plan.finetunner

    @property
    def loss_function(self) -> Loss:
        """(output of the backbone, label) -> scalar."""
        return self._loss[0]

    def get_backbone(self) -> nn.Module:
        """The backbone."""
        return self.backbone

    # ---- a step ------------------------------------------------------------------------------------

    def forward(self, *args: Any, target_input: Any = None, **kwargs: Any) -> Any:
        """The backbone's output, which in training knows its input.

        Args:
            args: what the backbone takes; with a target domain, in training, ``(source, target)`` as one argument or
                as two.
            target_input: the target domain's input by name, for a backbone of several arguments.
            kwargs: what the backbone takes by name.

        Returns:
            In evaluation and without gradients the very output of the backbone. In training the same with
            ``backbone_output`` beside it.

        Raises:
            UsageError: the target domain's batch is missing, or there is one that nothing asks for.
        """
        if not self._trains():
            return self.backbone(*args, **kwargs)
        given = self._given(args, kwargs, target_input)
        if not self.attached:
            self.hooks.on_train_begin()
        output = self._forward(given)
        self._pending = given
        return output if torch.compiler.is_compiling() else output_with_input(output, given)

    def loss(self, output: Any, label: Any = None, **more: Any) -> TransferrableModelLoss:
        """The total loss of a step, a scalar tensor with its parts beside it.

        Args:
            output: what ``model(x)`` returned.
            label: as the loss takes it; with a target domain of the source, or ``(source, target)``.
            more: what `kdhooks.Distillation.on_after_compute_loss` takes besides, as ``mask`` or ``teacher_output``.

        Returns:
            In training the weighted sum of all parts, in evaluation the backbone's loss alone.

        Raises:
            UsageError: the output is not that of a training step, or labels are missing.
        """
        if not self._trains():
            value = BACKEND.check_loss(self.loss_function(_bare(output), self._labels(label)[0]))
            alone = value.detach()
            return loss_with_parts(value, {STUDENT: alone, "total": alone}, backbone=alone)
        given, self._pending = getattr(output, "given", None) or self._pending, None
        if given is None or not self.attached:
            raise UsageError(
                "loss() in training needs what model(x) returned in training: call model.train() before the forward, "
                "or model.eval() before both"
            )
        output = _bare(output)
        source, target = self._labels(label)
        loss = self._student_loss(output, source)
        more = {"target": source if isinstance(source, Tensor) else None, **self._saved(given.source), **more}
        if given.target is not None:
            more = {"target_input": given.target, "target_labels": self._of_target(target), **more}
        return self._hooks.with_parts(self.hooks.on_after_compute_loss(given.source, output, loss, **more))

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the backbone."""
        return self._hooks.attached

    def _trains(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _forward(self, given: Given) -> Any:
        """The backbone's output for the source; with both domains in one batch its first rows."""
        if not self._hooks.joint:
            args, kwargs = as_call(given.source)
            return self.backbone(*args, **kwargs)
        args, kwargs = as_call(joined(given.source, given.target))
        rows = rows_of(given.source, "input"), rows_of(given.target, "target_input")
        return first_rows(self.backbone(*args, **kwargs), *rows)

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], target: Any) -> Given:
        """The input of the backbone and the target domain's."""
        name, adapts = self.plan.name, self.plan.adapter is not None
        if adapts and target is None and not kwargs:
            pair = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
            if len(pair) == 2 and pair[1] is not None:
                return Given(pair[0], pair[1])
        if adapts and target is None:
            raise UsageError(
                f"{name}: the target domain's batch is missing: in training call model((source, target)), or "
                "model(source, target_input=target)"
            )
        if target is not None and not adapts:
            raise UsageError(f"{name} has no target domain: leave target_input out")
        if args and kwargs:
            return Given(dict(inspect.signature(self.backbone.forward).bind(*args, **kwargs).arguments), target)
        return Given(dict(kwargs) if kwargs else args[0] if len(args) == 1 else args, target)

    def _labels(self, label: Any) -> tuple[Any, Any]:
        """Those of the source, and those of the target domain."""
        if self.plan.adapter is not None and isinstance(label, (tuple, list)) and len(label) == 2:
            return label[0], label[1]
        return label, None

    def _student_loss(self, output: Any, label: Any) -> Tensor:
        if self.plan.uses_labels:
            if label is None:
                raise UsageError(f"{self.plan.name}: loss(output, label) needs labels")
            return self.loss_function(output, label)
        first = next(self.backbone.parameters())
        return first.new_zeros((), dtype=torch.promote_types(first.dtype, torch.float32))

    def _saved(self, source: Any) -> dict[str, Any]:
        """The teacher's logits where they are saved and no teacher is there."""
        distiller = self.distiller
        if distiller is None or distiller.pretrained_model is not None:
            return {}
        return {"teacher_output": distiller(source)}

    def _of_target(self, label: Any) -> Any:
        """The labels of the target domain, where they are used."""
        if not self.enable_target_training_label:
            return None
        if label is None:
            raise UsageError(
                f"{self.plan.name}: enable_target_training_label=True needs labels of the target domain: "
                "loss(output, (source_label, target_label))"
            )
        return label

    # ---- a module like any other -------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TransferrableModel:
        """What moves the backbone moves the teacher and the loss too."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        teacher = None if self.distiller is None else self.distiller.pretrained_model
        for module in (*teachers_by_name(teacher).values(), self.loss_function):
            if isinstance(module, nn.Module):
                module._apply(fn)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle begins anew: it has the plan, and no run."""
        return {**vars(self), "_hooks": None, "_pending": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        drop_dead_hooks(*self.backbone.modules())
        if self.finetunner is not None:
            self.finetunner.freeze_network(self.backbone)
        self._hooks = Hooks(self.backbone, self.loss_function, self.plan)

    def extra_repr(self) -> str:
        """The strategy and its parts."""
        parts = (self.finetunner, self.distiller, self.adapter)
        return ", ".join([self.plan.name, *(repr(part) for part in parts if part is not None)])


def _bare(output: Any) -> Any:
    """What the backbone returned."""
    if isinstance(output, (TransferrableTensor, TransferrableModelOutput)):
        return output.backbone_output
    return output
