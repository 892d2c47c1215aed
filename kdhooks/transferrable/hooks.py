"""From a plan to the hooks that carry it out, and from their step to the parts of a loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kdhooks.distillation import Distillation
from kdhooks.torch.criteria import KnowledgeDistillationLoss
from kdhooks.transferrable.adapters import WeightedAdaptation, section_of
from kdhooks.transferrable.distillers import STUDENT
from kdhooks.transferrable.plan import Loss, Plan
from kdhooks.transferrable.tensors import TransferrableModelLoss, loss_with_parts


class Hooks:
    """The hooks of one `TransferrableModel`.

    Args:
        backbone: the student.
        loss: of the backbone.
        plan: what is transferred.

    Attributes:
        distillation: the object that does the work; not attached yet.
        adaptation: the criterion of domain adaptation, or None.
    """

    def __init__(self, backbone: nn.Module, loss: Loss, plan: Plan) -> None:
        self.plan, distiller = plan, plan.distiller
        section: dict[str, Any] = {} if distiller is None else distiller.section()
        self.distillation = Distillation({"distillation": section}, student_model=backbone)
        if distiller is not None and distiller.pretrained_model is not None:
            self.distillation.teacher_model = distiller.pretrained_model
        self._first = (
            KnowledgeDistillationLoss(loss_types=[STUDENT], loss_weights=[plan.student_weight])
            if distiller is None
            else distiller.criterion(plan.student_weight, plan.distiller_loss_weight)
        )
        self.adaptation: WeightedAdaptation | None = None
        if plan.adapter is not None:
            weights = (plan.adapter_loss_weight, plan.backbone_loss_weight)
            self.adaptation = WeightedAdaptation(section_of(plan.adapter, backbone), *weights, loss)
        self.distillation.criterion = [self._first, *([] if self.adaptation is None else [self.adaptation])]

    @property
    def attached(self) -> bool:
        """Whether they are on the backbone."""
        run = self.distillation._run
        return run is not None and run.attached

    @property
    def joint(self) -> bool:
        """Whether both domains go through the backbone in one batch."""
        return self.adaptation is not None and self.adaptation.settings.joint_forward

    def with_parts(self, total: Tensor) -> TransferrableModelLoss:
        """The total loss of the last step with its parts beside it; waits for nothing."""
        run = self.distillation._run
        monitor: Any = None if run is None else run.monitor  # torch's
        parts: dict[str, Tensor] = {} if monitor is None else monitor.tensors()
        names = [] if run is None else [term.name for term in run.objective._terms]
        distilled = len(self._first.terms)
        distiller = next((parts[name] for name in names[:distilled] if name in parts), None)
        adapter = None
        if self.adaptation is not None:
            values = [parts.get(name) for name in names[distilled:-1]]
            adapter = self.adaptation.together(values, self.distillation.step - 1)
        if not self.plan.uses_labels:
            parts.pop(STUDENT, None)
        return loss_with_parts(total, parts, backbone=parts.get(STUDENT), distiller=distiller, adapter=adapter)
