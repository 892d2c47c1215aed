"""What criteria read at a step in place of a teacher's captured layers: values that were stored, or might be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdhooks.config.mappings import LayerTap
from kdhooks.stored.looks import LOGITS, Look

Tensor = Any


class Served:
    """The outputs of a teacher for one step; stands where a backend's captures do.

    Args:
        step: whose outputs they are.
        kind: the teacher's class.
        outputs: tensors by their names in a row.
        output: what the teacher returned; None takes the logits among the outputs.

    Attributes:
        role, kind: what the model is called in errors.
        slots: nothing; `stored_tensors` has it all.
    """

    role = "teacher"

    def __init__(self, step: Any, kind: str, outputs: dict[str, Tensor], output: Any = None) -> None:
        self.step, self.kind, self._outputs = step, kind, outputs
        self.output = outputs.get(LOGITS) if output is None else output
        self.slots: Mapping[Any, Any] = {}

    def find(self, layer: str) -> str:
        """The name of a layer, which was found when the criteria began."""
        return layer

    def stored_tensors(self, tap: LayerTap, calls: str) -> list[Tensor]:
        """The tensors of a layer, one for each call that counts; what `kdhooks.pairs.selection` asks for."""
        return Look(tap, calls).found(self._outputs)
