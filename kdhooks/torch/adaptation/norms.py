"""Adapters that look at how large features are: BSP and AFN."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kdhooks.adaptation import ADAPTER_RULES, shapes
from kdhooks.torch.adaptation.adapter import Adapter, DomainBatch, adapter
from kdhooks.torch.adaptation.features import full_precision, pooled_shape, rows_of, two_domains, wide
from kdhooks.torch.losses.features import length

Pool = Literal["flatten", "mean"]
Method = Literal["stepwise", "hard"]

_SQUARINGS = 40  # singular values that differ by a part in 10^11 are told apart


def bsp(source: Tensor, target: Tensor, *, k: int = 1, pool: Pool = "flatten") -> Tensor:
    """Batch spectral penalisation: Σ_{i ≤ k} (σ_s,i² + σ_t,i²), the largest singular values of both feature matrices.

    Chen et al. 2019, "Transferability vs. Discriminability: Batch Spectral Penalization for Adversarial Domain
    Adaptation", the penalty of section 4. It stands beside DANN or CDAN; the paper weighs it with 1e-4.

    Args:
        source: features [N, ...].
        target: features [M, ...] of the same width.
        k: how many; more than there are is all.
        pool: ``mean`` averages features over space or tokens first.

    Returns:
        A scalar in float32 or wider.

    Raises:
        ModelError: the widths differ.
        UsageError: an option out of its range.

    Example:
        >>> import torch
        >>> round(float(bsp(torch.diag(torch.tensor([3.0, 1.0])), torch.eye(2))), 4)
        10.0
    """
    if not torch.compiler.is_compiling():
        ADAPTER_RULES["bsp"].read({"k": k, "pool": pool})
    with full_precision(source.device):
        return torch.stack([_largest(rows, int(k)) for rows in two_domains("bsp", source, target, pool)]).sum()


def _largest(rows: Tensor, k: int) -> Tensor:
    """The sum of the k largest squared singular values of a matrix."""
    if k >= min(rows.shape):
        return rows.square().sum()
    thin = rows if rows.shape[0] <= rows.shape[1] else rows.T
    return (thin.T @ _leading(thin.detach(), k)).square().sum()


@torch.no_grad()
def _leading(thin: Tensor, k: int) -> Tensor:
    """[n, k] left singular vectors of the largest singular values of a matrix [n, d].

    The projection on the largest comes from squaring the products of rows again and again. A decomposition would
    make the host wait for the device; and among equal singular values this takes one, as good as any other.
    """
    rest = thin @ thin.T
    nothing = rest.trace() * len(rest) * torch.finfo(rest.dtype).eps
    found = rest.new_zeros(len(rest), 0)
    for _ in range(k):
        trace = rest.trace()
        power = torch.where(trace > nothing, rest / trace.clamp_min(torch.finfo(rest.dtype).tiny), 0.0)
        for _ in range(_SQUARINGS):
            power = power @ power
            power = power / power.trace().clamp_min(torch.finfo(rest.dtype).tiny)
        vector = power.index_select(1, power.diagonal().argmax().unsqueeze(0))
        for _ in range(2):  # what rounding has left of those already found
            vector = _direction(vector - found @ (found.T @ vector))
        rest = rest - (vector.T @ rest @ vector) * (vector @ vector.T)
        found = torch.cat([found, vector], 1)
    return found


def _direction(vector: Tensor) -> Tensor:
    size = length(vector, 0, keepdim=True)
    return torch.where(size > 0, vector / torch.where(size > 0, size, 1.0), 0.0)


def afn(
    features: Tensor,
    *,
    method: Method = "stepwise",
    radius: float = 25.0,
    step: float = 1.0,
    pool: Pool = "flatten",
) -> Tensor:
    """Adaptive feature norm: features of both domains are led to larger norms, mean over rows.

    ``stepwise`` (SAFN) is (||f|| - (||f||₀ + Δr))² with ||f||₀ the norm of now as a constant: its value is always Δr²,
    its gradient lets every norm grow. ``hard`` (HAFN) is (||f|| - R)². Xu et al. 2019, "Larger Norm More Transferable:
    An Adaptive Feature Norm Approach for Unsupervised Domain Adaptation", section 3. A feature of zero has gradient 0.

    Args:
        features: [N, ...].
        method: ``stepwise`` or ``hard``.
        radius: R, above 0.
        step: Δr, above 0.
        pool: ``mean`` averages features over space or tokens first.

    Returns:
        A scalar in float32 or wider.

    Raises:
        ModelError: no rows.
        UsageError: an option out of its range.

    Example:
        >>> import torch
        >>> float(afn(torch.tensor([[3.0, 4.0]]), method="hard"))
        400.0
    """
    options = {"method": method, "radius": radius, "step": step, "pool": pool}
    if not torch.compiler.is_compiling():
        options = ADAPTER_RULES["afn"].read(options)
    return _afn(features, **options)  # type: ignore[arg-type]


def _afn(features: Tensor, method: Method, radius: float, step: float, pool: Pool) -> Tensor:
    shapes.check_rows("afn", "batch", "features", pooled_shape(features.shape, pool))
    with full_precision(features.device):
        norms = length(rows_of(wide(features), pool), 1)
        return (norms - (radius if method == "hard" else norms.detach() + step)).square().mean()


@adapter("bsp")
class BSP(Adapter):
    """Batch spectral penalisation: `bsp` of the features of one layer, beside DANN or CDAN.

    Args:
        k: as in `bsp`.
        pool: as in `bsp`.

    Raises:
        UsageError: an option out of its range.
    """

    def __init__(self, *, k: int = 1, pool: Pool = "flatten") -> None:
        super().__init__(k=k, pool=pool)

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        return bsp(source.features[0], target.features[0], **self.settings)


@adapter("afn")
class AFN(Adapter):
    """Adaptive feature norm: `afn` of one layer's features of both domains, 1/(n + m) Σ over all rows.

    Args:
        method: as in `afn`.
        radius: as in `afn`.
        step: as in `afn`.
        pool: as in `afn`.

    Raises:
        UsageError: an option out of its range.
    """

    def __init__(
        self, *, method: Method = "stepwise", radius: float = 25.0, step: float = 1.0, pool: Pool = "flatten"
    ) -> None:
        super().__init__(method=method, radius=radius, step=step, pool=pool)

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        rows = torch.cat(two_domains(self.name, source.features[0], target.features[0], self.settings["pool"]))
        return _afn(rows, **{**self.settings, "pool": "flatten"})
