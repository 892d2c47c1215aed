"""Adapters with a second classifier beside the student's own head: MCD and MDD."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks.adaptation import shapes
from kdhooks.errors import ModelError
from kdhooks.torch.adaptation.adapter import Adapter, DomainBatch, adapter, precisely
from kdhooks.torch.adaptation.discriminator import Discriminator
from kdhooks.torch.adaptation.features import class_axis, class_rows, rows_of
from kdhooks.torch.adaptation.reversal import reverse_gradient
from kdhooks.torch.adaptation.twins import called_with, fresh_twin_of, missing_module, parameters_of, twin_of

Pool = Literal["flatten", "mean"]


class _SecondHead(Adapter):
    """Looks at what the student's head is called with."""

    def _check(self, source: DomainBatch, target: DomainBatch) -> None:
        super()._check(source, target)
        shapes.check_classes(self.name, source.logits.shape, class_axis(source.logits))
        for batch in (source, target):
            if batch.head_input is None and not batch.features:
                raise missing_module(self.name, "head")

    @staticmethod
    def _given(batch: DomainBatch) -> Tensor:
        return batch.features[0] if batch.head_input is None else batch.head_input

    def _fitting(self, made: object, like: Tensor) -> Tensor:
        """The second head's logits; ModelError where they are none."""
        if not isinstance(made, Tensor) or made.shape != like.shape:
            found = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ModelError(
                f"the adapter {self.name!r} needs a head that makes logits of shape {list(like.shape)} of its input, "
                f"and it makes {found}"
            )
        return made


@adapter("mcd")
class MCD(_SecondHead):
    """Maximum classifier discrepancy: two heads disagree as much as they can on the target, the encoder as little.

    With F1 the student's own head, F2 a second one of the same build, both of the encoder's output f, and d the mean
    over rows of 1/|classes| Σ_c |softmax F1(f)_c - softmax F2(f)_c|: L = CE(F2(f_s), y_s) - w d(f_t), where the
    gradient of f_t through d is reversed and multiplied by the coefficient; F1's own cross entropy is the student's
    loss. Saito et al. 2018, "Maximum Classifier Discrepancy for Unsupervised Domain Adaptation", section 3. The paper
    alternates: step A trains everything on the student's loss and `auxiliary_loss`, step B the heads on `heads_loss`,
    step C the encoder on `encoder_loss`.

    F1 is run once more on the target as a copy without hooks, with the student's parameters and copies of its buffers.
    Dropout in heads is left out of it.

    Args:
        discrepancy_weight: w.
        seed: of the private generator.

    Raises:
        UsageError: an option out of its range, or a source without labels.
        ModelError: no head was attached.
    """

    auxiliary: nn.Module

    def __init__(self, *, discrepancy_weight: float = 1.0, seed: int = 0) -> None:
        super().__init__(discrepancy_weight=discrepancy_weight, seed=seed)
        self._own: tuple[nn.Module, ...] = ()  # a tuple: nothing of the student is ours

    def _check(self, source: DomainBatch, target: DomainBatch) -> None:
        if self._students[1] is None:
            raise missing_module(self.name, "head")
        super()._check(source, target)
        labels, logits = source.labels, source.logits
        shapes.check_labels(self.name, None if labels is None else labels.shape, logits.shape, class_axis(logits))

    def _make(self, source: DomainBatch, target: DomainBatch) -> None:
        head = self._head()
        self.auxiliary = fresh_twin_of(head, self.settings["seed"], source.logits.dtype)
        self._own = (twin_of(head).to(source.logits.dtype),)

    def _head(self) -> nn.Module:
        head = self._students[1]
        if head is None:
            raise missing_module(self.name, "head")
        return head

    @precisely
    def auxiliary_loss(self, source: DomainBatch) -> Tensor:
        """CE(F2(f_s), y_s), with the gradient of the encoder: what step A adds to the student's loss."""
        return self._cross_entropy(self.auxiliary(self._given(source)), source)

    @precisely
    def heads_loss(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """CE(F1(f_s), y_s) + CE(F2(f_s), y_s) - w d(f_t) with f constant: step B, for the heads."""
        rows = self._given(source).detach()
        first = called_with(self._own[0], parameters_of(self._head()), self._head(), rows)
        labelled = self._cross_entropy(first, source) + self._cross_entropy(self.auxiliary(rows), source)
        discrepancy = self._discrepancy(self._given(target).detach(), target)
        return self._joined(labelled, discrepancy)

    @precisely
    def encoder_loss(self, target: DomainBatch) -> Tensor:
        """d(f_t) with both heads constant: step C, for the encoder."""
        return self._discrepancy(self._given(target), target, constant=True)

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        labelled = self._cross_entropy(self.auxiliary(self._given(source)), source)
        discrepancy = self._discrepancy(reverse_gradient(self._given(target), coefficient), target)
        self._measure("discrepancy", discrepancy)
        return self._joined(labelled, discrepancy)

    def _joined(self, labelled: Tensor, discrepancy: Tensor) -> Tensor:
        weight: float = self.settings["discrepancy_weight"]
        return labelled - weight * discrepancy

    def _discrepancy(self, given: Tensor, target: DomainBatch, *, constant: bool = False) -> Tensor:
        own, second = parameters_of(self._head()), parameters_of(self.auxiliary)
        if constant:
            own, second = ({name: one.detach() for name, one in side.items()} for side in (own, second))
            theirs = called_with(self.auxiliary, second, self.auxiliary, given)
        else:
            theirs = self.auxiliary(given)
        mine = called_with(self._own[0], own, self._head(), given)
        both = [class_rows(self._fitting(one, target.logits)).softmax(1) for one in (mine, theirs)]
        return (both[0] - both[1]).abs().mean()

    def _cross_entropy(self, made: Tensor, source: DomainBatch) -> Tensor:
        """The mean over rows that have a label of 0 or more."""
        assert source.labels is not None  # _check has seen to it
        rows, labels = class_rows(self._fitting(made, source.logits)), source.labels.flatten().to(torch.int64)
        counted = labels >= 0
        costs = F.cross_entropy(rows, labels.where(counted, -100), reduction="sum", ignore_index=-100)
        return costs / counted.sum().clamp_min(1)


@adapter("mdd")
class MDD(_SecondHead):
    """Margin disparity discrepancy: an adversarial head agrees with the student on the source, not on the target.

    With f the student's prediction (its most probable class), f' the adversarial head and σ its softmax:
    L = -γ/n Σ log σ_{f(s)}(f'(s)) - 1/m Σ log(1 - σ_{f(t)}(f'(t))), minimised by f'; the features get the reversed
    gradient, multiplied by the coefficient. Zhang et al. 2019, "Bridging Theory and Algorithm for Domain Adaptation",
    section 4, with γ = exp ρ of its margin ρ. log(1 - σ) is taken from logits, finite where the head is sure.

    Args:
        margin: γ.
        hidden_size: of the adversarial head's hidden layer, where no head of the student is attached to be made like.
        pool: ``mean`` averages a feature over space or tokens first, where no head is attached.
        seed: of the private generator.

    Raises:
        UsageError: an option out of its range.
        ModelError: neither a head was attached nor a layer named.
    """

    adversary: nn.Module

    def __init__(self, *, margin: float = 4.0, hidden_size: int = 1024, pool: Pool = "flatten", seed: int = 0) -> None:
        super().__init__(margin=margin, hidden_size=hidden_size, pool=pool, seed=seed)

    def _make(self, source: DomainBatch, target: DomainBatch) -> None:
        head = self._students[1]
        if head is not None:
            self.adversary = fresh_twin_of(head, self.settings["seed"], source.logits.dtype)
            return
        shapes.check_plain_logits(self.name, source.logits.shape)
        width, classes = self._pooled_rows(source).shape[1], source.logits.shape[1]
        size, generator = self.settings["hidden_size"], self._generator()
        self.adversary = Discriminator(width, size, 1, generator, source.logits.dtype, classes)

    def _pooled_rows(self, batch: DomainBatch) -> Tensor:
        return rows_of(self._given(batch), self.settings["pool"])

    def _disputed(self, batch: DomainBatch, coefficient: float | Tensor) -> tuple[Tensor, Tensor]:
        """The adversary's logits [positions, C], and the student's classes [positions, 1]."""
        if isinstance(self.adversary, Discriminator):
            given = self._pooled_rows(batch)
            shapes.check_made_for("adversarial head", self.name, self.adversary.width, given.shape[1])
        else:
            given = self._given(batch)
        made = self._fitting(self.adversary(reverse_gradient(given, coefficient)), batch.logits)
        return class_rows(made), class_rows(batch.logits.detach()).argmax(1, keepdim=True)

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        logits, classes = self._disputed(source, coefficient)
        agreed = -logits.log_softmax(1).gather(1, classes).mean()
        logits, classes = self._disputed(target, coefficient)
        others = logits.scatter(1, classes, -torch.inf).logsumexp(1)
        margin: float = self.settings["margin"]
        return margin * agreed + (logits.logsumexp(1) - others).mean()
