"""Which of a configuration's sections act in a run, and what the loop must then hand in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.errors import UsageError

MISSING = (
    "domain adaptation needs a batch of the target domain at this step: hand it to the hook, as in "
    "distiller.on_after_compute_loss(x, output, loss, target_input=x_target)"
)


def distils(conf: DistillationConf, teacher: Any, pretrained: Any = None) -> bool:
    """Whether the criterion of ``distillation`` acts.

    Beside ``domain_adaptation`` or ``finetune`` it does where it is written, or where there is a section
    ``distillation`` and a teacher is set; without them it always does, unless there are weights to begin with and no
    teacher.
    """
    written = conf.to_dict()
    section = written.get("distillation") or {}
    if (section.get("train") or {}).get("criterion") is not None:
        return True
    if not {"domain_adaptation", "finetune"} & set(written):
        return pretrained is None or teacher is not None
    return written.get("distillation") is not None and teacher is not None


def adapts(criterion: Any) -> bool:
    """Whether a criterion needs batches of a target domain."""
    return bool(getattr(criterion, "adapts", False))


def check_target(criteria: Iterable[Any], target_input: Any, target_labels: Any) -> None:
    """UsageError where a target batch is handed in that nothing looks at, or labels without a batch."""
    if target_input is None and target_labels is None:
        return
    if not any(map(adapts, criteria)):
        raise UsageError(
            "target_input is for domain adaptation, and this run has none: write a section domain_adaptation, as in "
            "domain_adaptation: {criterion: {DANN: {layer: avgpool}}}"
        )
    if target_input is None:
        raise UsageError("target_labels are labels of target_input, which is missing: hand in both")
