"""What the loss libraries of all backends share: their tables, the range of options, and messages about shapes.

Nothing here knows a tensor: shapes are sequences of sizes, where None is one that is not known yet.
"""

from __future__ import annotations

from kdhooks.losses.tables import LossTables

__all__ = ["LossTables"]
