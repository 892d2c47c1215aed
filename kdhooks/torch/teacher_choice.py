"""What ``auto`` becomes: how a teacher runs, chosen once, on rank 0, by timing the first batch."""

from __future__ import annotations

from kdhooks.speed import Choice

__all__ = ["Choice"]
