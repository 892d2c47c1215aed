"""Constraints between parameters: ``hidden_size % num_attention_heads == 0``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdhooks.config.formulas import FormulaError, compared, formula
from kdhooks.config.search_settings import Relation
from kdhooks.errors import UsageError


class Law:
    """A relation that can be asked whether an architecture keeps it.

    Args:
        relation: as the configuration has it.

    Attributes:
        names: the parameters that it speaks of.
        text: as it was written.

    Raises:
        UsageError: it is no comparison of arithmetic.

    >>> law = Law(Relation("width % heads", "==", "0", "width % heads == 0"))
    >>> law.kept_by({"width": 64, "heads": 4}), law.kept_by({"width": 64, "heads": 3}), law.kept_by({"width": 64})
    (True, False, True)
    """

    def __init__(self, relation: Relation) -> None:
        self.text, self._comparison = relation.text, relation.comparison
        try:
            self._left, self._right = formula(relation.left), formula(relation.right)
        except FormulaError as error:
            raise UsageError(f"the relation {self.text!r} can't be read: {error.message}") from None
        self.names = frozenset((*self._left.names, *self._right.names))

    def kept_by(self, arch: Mapping[str, Any]) -> bool:
        """Whether it holds; a division by 0 breaks it, and it asks nothing of what lacks one of its parameters."""
        if not self.names <= arch.keys():
            return True
        try:
            return compared(self._left.value(arch), self._comparison, self._right.value(arch))
        except (ZeroDivisionError, OverflowError):
            return False
