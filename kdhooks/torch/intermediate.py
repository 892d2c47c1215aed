"""The criterion of hidden features, as users hold it; what happens to a pair of layers is in `layer_pairs`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdhooks.pairs.bound import Bound
from kdhooks.pairs.criterion import PairsCriterion
from kdhooks.pairs.options import PairOptions
from kdhooks.torch.feature_losses import RULES
from kdhooks.torch.layer_pairs import LayerPairs
from kdhooks.torch.matchers import Matcher, build_matcher
from kdhooks.torch.pair_modules import SEED, parameter_dtype
from kdhooks.torch.taps import Taps
from kdhooks.torch.teacher import Teacher


class IntermediateLayersKnowledgeDistillationLoss(PairsCriterion):
    """The student's hidden features follow the teacher's.

    ``w * student_loss + sum over pairs of w_i * loss_i(matcher_i(student_feature), teacher_feature)``, where w is 1
    with `add_origin_loss` and 0 without.

    Args:
        layer_mappings: pairs of layers, in any form of `kdhooks.config.mappings`; a pattern stands for several.
        loss_types: a loss by name, or ``{name: options}``: one for all, one for each mapping, or one for each
            pair; MSE where there is none.
        loss_weights: numbers or schedules, counted the same way; 1 / pairs where there are none.
        add_origin_loss: whether the loop's own loss counts.
        feature_matchers: a matcher by name, counted the same way; ``auto`` where there is none, and no matcher
            for losses that compare features of any size.
        teacher: which one of several is followed.
        student_label: what the loop's own loss is called among the components.
        layer_mappings_for_knowledge_transfer: the longer classic name of `layer_mappings`.
        balance: ``gradient`` multiplies each weight so that, at weight 1, the pair's gradient on its layer of the
            student is as long as that of the loop's own loss.
        feature_mask: which positions count: the key of a mask [N, T] in the student's input, such as
            ``attention_mask``, or a function of the input; None takes the step's `mask` where it fits.

    Attributes:
        student_model, teacher_model: of the run, or set by a program that drives the criterion itself.
        layer_mappings: the names of the layers of each pair.
        layer_output_process: the selectors of each pair.
        loss_types, loss_weights: of each pair; the weights are functions of the step.

    Raises:
        UsageError: a mapping of no known form, an unknown loss or matcher, or lists of different lengths.

    Example:
        >>> import torch
        >>> from kdhooks import Distillation
        >>> student, teacher = (torch.nn.Sequential(torch.nn.Linear(4, n), torch.nn.Linear(n, 3)) for n in (5, 8))
        >>> distiller = Distillation(student_model=student, teacher_model=teacher)
        >>> distiller.criterion = IntermediateLayersKnowledgeDistillationLoss([["0"]], add_origin_loss=True)
        >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        >>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
        >>> with distiller:
        ...     output = student(x)
        ...     loss = torch.nn.functional.cross_entropy(output, y)
        ...     loss = distiller.on_after_compute_loss(x, output, loss)
        ...     loss.backward()
        ...     optimizer.step()  # trains the student and the matcher, a linear map from 5 to 8
        >>> sorted(distiller.losses)
        ['CE', 'MSE[0]', 'total']
    """

    rules = RULES

    @property
    def feature_matchers(self) -> list[Any]:
        """The matcher of each pair; None until its shapes are known, and where the loss needs none.

        Where a pair has several layers a `torch.nn.ModuleList`, one for each.
        """
        made = {} if self._pairs is None else self._pairs.modules
        return [
            made[index].matcher or made[index].matchers if index in made else None for index in range(len(self.terms))
        ]

    def init_feature_matcher(self, student_feature: Tensor, teacher_feature: Tensor, index: int = 0) -> Matcher:
        """A new matcher for two features, as the pair of this index has it.

        Raises:
            ModelError: its matcher fits no such shapes.
        """
        name = self._options.matchers[index].replace("none", "auto")
        shapes = list(student_feature.shape), list(teacher_feature.shape)
        dtype = parameter_dtype(student_feature)
        return build_matcher(name, *shapes, seed=SEED + index, dtype=dtype, device=student_feature.device)

    # ---- what this backend knows -------------------------------------------------------------------

    def pairs_at_work(self, options: PairOptions, bound: Bound, teacher: str) -> LayerPairs:
        """The pairs on the models of a run."""
        return LayerPairs(options, bound, teacher, self.locate, self._mask, balanced=self._balanced)

    def own_student(self) -> tuple[Taps, None]:
        """What captures the layers of the student that a program has set; its optimizer is found by itself."""
        return Taps(self.student_model), None

    def own_teacher(self) -> Teacher:
        """Runs the teacher that a program has set."""
        return Teacher(self.teacher_model, self.student_model)

    def added_up(self, losses: list[Tensor]) -> Tensor:
        """The sum of scalars."""
        return torch.stack([loss.float() for loss in losses]).sum()
