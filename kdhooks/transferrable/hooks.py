"""From a plan to the hooks that carry it out, and from their step to the parts of a loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.torch.criteria import KnowledgeDistillationLoss
from kdhooks.transferrable.distillers import STUDENT
from kdhooks.transferrable.plan import Plan
from kdhooks.transferrable.tensors import TransferrableModelLoss, loss_with_parts


def hooks_of(backbone: nn.Module, plan: Plan) -> Distillation:
    """The hooks for a backbone, not attached yet."""
    distiller = plan.distiller
    section: dict[str, Any] = {} if distiller is None else distiller.section()
    hooks = Distillation({"distillation": section}, student_model=backbone)
    if distiller is None:
        hooks.criterion = KnowledgeDistillationLoss(loss_types=[STUDENT], loss_weights=[plan.student_weight])
        return hooks
    if distiller.pretrained_model is not None:
        hooks.teacher_model = distiller.pretrained_model
    hooks.criterion = distiller.criterion(plan.student_weight, plan.distiller_loss_weight)
    return hooks


def parts_of(hooks: Distillation, plan: Plan, total: Tensor) -> TransferrableModelLoss:
    """The total loss of the last step with its parts beside it; waits for nothing."""
    run = hooks._run
    parts = {} if run is None else run.monitor.tensors()
    terms = set() if plan.distiller is None or run is None else {term.name for term in run.objective.criteria[0].terms}
    distiller = next((value for name, value in parts.items() if name in terms), None)
    backbone = parts.get(STUDENT) if plan.uses_labels else None
    return loss_with_parts(total, parts, backbone=backbone, distiller=distiller)
