"""Domain adaptation: adapters by name in the table `ADAPTERS`, and the plain formulas as functions."""

from __future__ import annotations

from kdhooks.torch.adaptation.adapter import ADAPTERS, Adapter, DomainBatch

__all__ = ["ADAPTERS", "Adapter", "DomainBatch"]
