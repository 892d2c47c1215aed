"""The criterion of self-distillation: shallow layers of the student follow its own deepest ones.

Rule: there is no second forward and no teacher model. Both sides of a pair are captured in the student's one
forward, and the deepest side is detached, so that it learns from labels only.
"""

from __future__ import annotations

from kdhooks.pairs.itself import SelfPairsCriterion
from kdhooks.torch.intermediate import IntermediateLayersKnowledgeDistillationLoss


class SelfKnowledgeDistillationLoss(SelfPairsCriterion, IntermediateLayersKnowledgeDistillationLoss):
    """Shallow classifiers and features of the student follow its own deepest ones (Zhang et al. 2019).

    ``w * student_loss + sum over pairs of w_i * loss_i(shallow, deepest.detach())``, where w is 1 with
    `add_origin_loss` and 0 without: equations 5 and 6 of "Be Your Own Teacher". The labels' part for shallow
    classifiers, equation 4, belongs to the loop's own loss.

    Args:
        layer_mappings: groups of the student's layers: ``[[shallow, ...], [deepest]]``, or pairs
            ``[[shallow, deepest], ...]``.
        temperature: T of losses that soften, CE and KL, a number or a schedule; they are multiplied by T².
        loss_types: a loss between features by name: CE (soft labels), KL, L2, and the others of the table; one for
            all, one for each group, or one for each pair; CE where there is none.
        loss_weights: numbers or schedules, counted the same way; 1 / groups where there are none.
        add_origin_loss: whether the loop's own loss counts.
        feature_matchers: where shapes differ, counted the same way; ``auto`` where there is none.
        student_label: what the loop's own loss is called among the components.
        balance: as in the criterion of hidden layers.
        feature_mask: as in the criterion of hidden layers.

    Attributes:
        student_model: of the run, or set by a program that drives the criterion itself.

    Raises:
        UsageError: groups of no known form, an unknown loss or matcher, or lists of different lengths.

    Example:
        >>> import torch
        >>> from kdhooks import Distillation
        >>> class Exits(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.one, self.two = torch.nn.Linear(4, 8), torch.nn.Linear(8, 8)
        ...         self.exit, self.head = torch.nn.Linear(8, 3), torch.nn.Linear(8, 3)
        ...     def forward(self, x):
        ...         x = self.one(x).relu()
        ...         return self.exit(x), self.head(self.two(x))
        >>> student = Exits()
        >>> distiller = Distillation(student_model=student)
        >>> distiller.criterion = SelfKnowledgeDistillationLoss([[["exit"], ["head"]]], 3.0, "KL", add_origin_loss=True)
        >>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
        >>> with distiller:
        ...     output = student(x)
        ...     loss = sum(torch.nn.functional.cross_entropy(logits, y) for logits in output)
        ...     distiller.on_after_compute_loss(x, output, loss).backward()
        >>> sorted(distiller.losses)
        ['CE', 'KL[exit]', 'total']
    """
