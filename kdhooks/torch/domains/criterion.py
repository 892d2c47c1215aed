"""The criterion of domain adaptation, as users hold it; what happens at a step is in `work`."""

from __future__ import annotations

from typing import Any

from kdhooks.domains import AdaptationCriterion
from kdhooks.pairs.bound import Bound
from kdhooks.torch.domains.work import AdaptersAtWork


class DomainAdaptationLoss(AdaptationCriterion):
    """The student's source and target domain become alike: a weighted sum of adapters.

    It only adds to the loop's own loss: its student's weight is 0, and where no other criterion counts that loss, it
    counts with 1. Each step needs ``target_input``.

    Args:
        criterion: adapters by name with their options, as ``{"DANN": {"layer": "avgpool", "weight": 1.0}}``; or a list.
        options: the other keys of the section ``domain_adaptation``: ``joint_forward``, ``reversal``, ``alternating``,
            ``adversary``, ``gather``, ``target_label_weight``, ``ignore_index``, ``a_distance``, ``validator``.

    Raises:
        ConfigError: with all that is wrong.

    Example:
        >>> import torch
        >>> from kdhooks import Distillation
        >>> student = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> distiller = Distillation(student_model=student)
        >>> distiller.criterion = DomainAdaptationLoss({"DANN": {"layer": "1", "hidden_size": 16}})
        >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        >>> x, y, x_target = torch.randn(8, 4), torch.randint(3, (8,)), torch.randn(6, 4)
        >>> with distiller:
        ...     output = student(x)
        ...     loss = torch.nn.functional.cross_entropy(output, y)
        ...     loss = distiller.on_after_compute_loss(x, output, loss, target_input=x_target)
        ...     loss.backward()
        ...     optimizer.step()  # trains the student and the discriminator
        >>> sorted(distiller.losses)
        ['CE', 'DANN', 'DANN.domain_accuracy', 'total']
    """

    def __init__(self, criterion: Any, **options: Any) -> None:
        super().__init__(criterion, **options)

    def at_work(self, bound: Bound) -> AdaptersAtWork:
        """The adapters on the student of a run."""
        return AdaptersAtWork(self, bound)
