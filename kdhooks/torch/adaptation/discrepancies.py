"""Adapters that bring moments or mean embeddings of two domains together: MK-MMD, JAN and Deep CORAL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kdhooks.adaptation import ADAPTER_RULES, FIVE_KERNELS
from kdhooks.torch.adaptation.adapter import Adapter, DomainBatch, adapter
from kdhooks.torch.adaptation.features import class_axis, full_precision, two_domains
from kdhooks.torch.adaptation.kernels import Bandwidth, Estimator, gaussian_kernels, mean_discrepancy

Pool = Literal["flatten", "mean"]


def mk_mmd(
    source: Tensor,
    target: Tensor,
    *,
    multipliers: Sequence[float] = FIVE_KERNELS,
    bandwidth: Bandwidth = "mean",
    estimator: Estimator = "quadratic",
    pool: Pool = "flatten",
) -> Tensor:
    """Multi-kernel maximum mean discrepancy: ||E φ(s) - E φ(t)||².

    The kernel is k(x, y) = Σ_u β_u exp(-||x - y||² / (u γ)) with even β_u = 1 / number of kernels; common
    implementations take β_u = 1. Long et al. 2015, "Learning Transferable Features with Deep Adaptation Networks",
    equations 1, 2 and 5.

    Args:
        source: features [N, ...].
        target: features [M, ...] of the same width.
        multipliers: u. The paper has 33, from 2^-8 to 2^8 in steps of √2; the authors' code the five here.
        bandwidth: γ, a number, or the ``mean`` (as the authors' code) or ``median`` (as the paper) of the squared
            distances of all different rows of both domains, a constant for the gradient.
        estimator: ``quadratic`` is the mean over all pairs, never negative and 0 for the same rows; ``unbiased``
            leaves out each row's pair with itself; ``linear`` is the paper's statistic of consecutive rows,
            2/n Σ k(s1, s2) + k(t1, t2) - k(s1, t2) - k(s2, t1), of as many pairs as the smaller domain has.
        pool: ``mean`` averages features over space or tokens first.

    Returns:
        A scalar in float32 or wider.

    Raises:
        ModelError: the widths differ.
        UsageError: an option out of its range.

    Example:
        >>> import torch
        >>> float(mk_mmd(torch.zeros(4, 3), torch.zeros(2, 3)))
        0.0
    """
    options = {"multipliers": multipliers, "bandwidth": bandwidth, "estimator": estimator, "pool": pool}
    if not torch.compiler.is_compiling():
        options = ADAPTER_RULES["mk_mmd"].read(options)
    return _mk_mmd(source, target, **options)  # type: ignore[arg-type]


def _mk_mmd(
    source: Tensor, target: Tensor, multipliers: Sequence[float], bandwidth: Bandwidth, estimator: Estimator, pool: Pool
) -> Tensor:
    with full_precision(source.device):
        rows = torch.cat(two_domains("mk_mmd", source, target, pool))
        return mean_discrepancy(gaussian_kernels(rows, multipliers, bandwidth), len(source), estimator)


def coral(source: Tensor, target: Tensor, *, pool: Pool = "flatten") -> Tensor:
    """Deep CORAL: ||C_s - C_t||² / (4 d²), the squared Frobenius norm of the difference of covariances.

    Covariances are those with n - 1; of a single row it is 0. Sun & Saenko 2016, "Deep CORAL: Correlation Alignment
    for Deep Domain Adaptation", equations 1 to 3. With more features than rows it is computed from products of rows,
    so there is never a matrix of d times d.

    Args:
        source: features [N, ...].
        target: features [M, ...] of the same width d.
        pool: ``mean`` averages features over space or tokens first.

    Returns:
        A scalar in float32 or wider.

    Raises:
        ModelError: the widths differ.

    Example:
        >>> import torch
        >>> round(float(coral(torch.eye(2), torch.zeros(3, 2))), 6)
        0.0625
    """
    with full_precision(source.device):
        rows = two_domains("coral", source, target, pool)
        centred = [(one - one.mean(0)) / max(1, len(one) - 1) ** 0.5 for one in rows]
        width = rows[0].shape[1]
        if width <= len(source) + len(target):
            squares = (centred[0].T @ centred[0] - centred[1].T @ centred[1]).square().sum()
        else:
            within = [(one @ one.T).square().sum() for one in centred]
            squares = within[0] + within[1] - 2 * (centred[0] @ centred[1].T).square().sum()
        value: Tensor = squares.clamp_min(0) / (4 * width**2)  # rounding may leave less than 0
        return value


def _pairs(source: DomainBatch, target: DomainBatch) -> list[tuple[Tensor, Tensor]]:
    """The features of both domains, layer by layer; the logits where there is no layer."""
    if not source.features:
        return [(source.logits, target.logits)]
    return list(zip(source.features, target.features, strict=True))


@adapter("mk_mmd")
class MKMMD(Adapter):
    """DAN: the sum over layers of `mk_mmd`; of the logits where no layer is named.

    Args:
        multipliers: as in `mk_mmd`.
        bandwidth: as in `mk_mmd`.
        estimator: as in `mk_mmd`.
        pool: as in `mk_mmd`.

    Raises:
        UsageError: an option out of its range.
    """

    def __init__(
        self,
        *,
        multipliers: Sequence[float] = FIVE_KERNELS,
        bandwidth: Bandwidth = "mean",
        estimator: Estimator = "quadratic",
        pool: Pool = "flatten",
    ) -> None:
        super().__init__(multipliers=multipliers, bandwidth=bandwidth, estimator=estimator, pool=pool)

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        return torch.stack([_mk_mmd(*pair, **self.settings) for pair in _pairs(source, target)]).sum()


@adapter("jan")
class JAN(Adapter):
    """Joint adaptation: the mean discrepancy of all layers and the softmax together, its kernel the product of theirs.

    D = 1/n² ΣΣ Π_l k_l(s_i, s_j) + 1/m² ΣΣ Π_l k_l(t_i, t_j) - 2/(nm) ΣΣ Π_l k_l(s_i, t_j) over the layers and the
    predicted probabilities. Long et al. 2017, "Deep Transfer Learning with Joint Adaptation Networks", equations 9 to
    12.

    Args:
        multipliers: of the kernels of features, as in `mk_mmd`.
        bandwidth: of the kernels of features, as in `mk_mmd`.
        softmax_multipliers: of the kernels of probabilities; the authors' code has one.
        softmax_bandwidth: of them; the authors' code fixes it at 1.68, the paper estimates it.
        estimator: as in `mk_mmd`.
        pool: as in `mk_mmd`.

    Raises:
        UsageError: an option out of its range.
    """

    def __init__(
        self,
        *,
        multipliers: Sequence[float] = FIVE_KERNELS,
        bandwidth: Bandwidth = "mean",
        softmax_multipliers: Sequence[float] = (1.0,),
        softmax_bandwidth: Bandwidth = "mean",
        estimator: Estimator = "quadratic",
        pool: Pool = "flatten",
    ) -> None:
        super().__init__(
            **{"multipliers": multipliers, "bandwidth": bandwidth, "softmax_multipliers": softmax_multipliers},
            **{"softmax_bandwidth": softmax_bandwidth, "estimator": estimator, "pool": pool},
        )

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        chosen = self.settings
        both = [batch.logits.softmax(class_axis(batch.logits)).flatten(1) for batch in (source, target)]
        joint = gaussian_kernels(torch.cat(both), chosen["softmax_multipliers"], chosen["softmax_bandwidth"])
        for pair in zip(source.features, target.features, strict=True):
            rows = torch.cat(two_domains(self.name, *pair, chosen["pool"]))
            joint = joint * gaussian_kernels(rows, chosen["multipliers"], chosen["bandwidth"])
        return mean_discrepancy(joint, len(source.logits), chosen["estimator"])


@adapter("coral")
class DeepCORAL(Adapter):
    """Deep CORAL: the sum over layers of `coral`; of the logits where no layer is named, as in the paper.

    Args:
        pool: as in `coral`.

    Raises:
        UsageError: an option out of its range.
    """

    def __init__(self, *, pool: Pool = "flatten") -> None:
        super().__init__(pool=pool)

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        return torch.stack([coral(*pair, **self.settings) for pair in _pairs(source, target)]).sum()
