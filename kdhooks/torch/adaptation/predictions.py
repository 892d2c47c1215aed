"""Adapters that look at the target's predictions alone: entropy minimisation and MCC."""

from __future__ import annotations

import torch
from torch import Tensor

from kdhooks.adaptation import ADAPTER_RULES, shapes
from kdhooks.torch.adaptation.adapter import Adapter, DomainBatch, adapter
from kdhooks.torch.adaptation.features import class_axis, class_rows, full_precision, wide

_SURELY_NOTHING = -1000.0  # e to this power is 0 in float64, so p log p is the same and never 0 times infinity


def entropies(log_predictions: Tensor) -> Tensor:
    """H = -Σ p log p of each row of [N, C] log-probabilities; finite also where a class is impossible."""
    return -(log_predictions.exp() * log_predictions.clamp_min(_SURELY_NOTHING)).sum(1)


def entropy(target_logits: Tensor, *, axis: int | None = None) -> Tensor:
    """The mean entropy of predictions, -1/N Σ_i Σ_c p_ic log p_ic.

    Grandvalet & Bengio 2004, "Semi-supervised Learning by Entropy Minimization", the regulariser.

    Args:
        target_logits: [N, C]; of [N, C, H, W] and [N, T, C] the mean is over all pixels and tokens.
        axis: of the classes; None is 1 for logits of four or more axes and the last one otherwise.

    Returns:
        A scalar in float32 or wider, from 0 to log C.

    Raises:
        ModelError: fewer than two classes, or no row.

    Example:
        >>> import torch
        >>> round(float(entropy(torch.zeros(3, 4))), 4)
        1.3863
    """
    _check("entropy", target_logits, axis)
    with full_precision(target_logits.device):
        return entropies(class_rows(wide(target_logits), axis).log_softmax(1)).mean()


def mcc(target_logits: Tensor, *, temperature: float, axis: int | None = None) -> Tensor:
    """Minimum class confusion: the share of the class correlation that lies between different classes.

    With ŷ = softmax(logits / T), weights W_i = N (1 + e^(-H(ŷ_i))) / Σ_k (1 + e^(-H(ŷ_k))), which are constants, and
    C_jj' = Σ_i W_i ŷ_ij ŷ_ij', each row divided by its sum: 1/|classes| Σ_{j ≠ j'} C_jj'. Jin et al. 2020, "Minimum
    Class Confusion for Versatile Domain Adaptation", equations 1 to 7. A row's sum is Σ_i W_i ŷ_ij, so the division is
    a softmax over the batch, and a class that nothing is predicted of divides nothing by 0.

    Args:
        target_logits: [N, C]; every pixel of [N, C, H, W] and every token of [N, T, C] counts as a row.
        temperature: T, above 0; the paper has 2.5.
        axis: of the classes; None is 1 for logits of four or more axes and the last one otherwise.

    Returns:
        A scalar in float32 or wider, from 0 to below 1.

    Raises:
        ModelError: fewer than two classes, or no row.
        UsageError: a temperature that is not above 0.

    Example:
        >>> import torch
        >>> round(float(mcc(torch.zeros(3, 4), temperature=2.5)), 4)
        0.75
    """
    if not torch.compiler.is_compiling():
        ADAPTER_RULES["mcc"].read({"temperature": temperature})
    _check("mcc", target_logits, axis)
    with full_precision(target_logits.device):
        rows = (class_rows(wide(target_logits), axis) / temperature).log_softmax(1)
        weights = torch.log1p((-entropies(rows.detach())).exp())
        shares = (rows + weights.unsqueeze(1)).softmax(0)
        confusion = shares.T @ rows.exp()
        return (confusion.sum() - confusion.trace()) / rows.shape[1]


def _check(name: str, logits: Tensor, axis: int | None) -> None:
    shapes.check_rows(name, "target", "logits", logits.shape)
    shapes.check_classes(name, logits.shape, class_axis(logits) if axis is None else axis)


@adapter("entropy")
class EntropyMinimisation(Adapter):
    """Entropy minimisation: `entropy` of the target's logits."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        return entropy(target.logits)


@adapter("mcc")
class MCC(Adapter):
    """Minimum class confusion: `mcc` of the target's logits.

    Args:
        temperature: as in `mcc`.

    Raises:
        UsageError: an option out of its range.
    """

    def __init__(self, *, temperature: float = 2.5) -> None:
        super().__init__(temperature=temperature)

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        return mcc(target.logits, **self.settings)
