"""What a codec does to the losses, measured where it is chosen: on the first batches that are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from kdhooks.criterion import Criterion, Step, Term
from kdhooks.messages import logger
from kdhooks.stored.served import Served
from kdhooks.stored.shared import SharedStore

BATCHES = 3

ValueOf = Callable[[Term, Step], float]


class Measured:
    """Compares every term of the first computed batches with what it is without the codec, and says so once.

    Args:
        shared: the store, whose settings are judged.
        teacher: its name.

    Attributes:
        exact: the outputs of the present batch as the teacher gave them; None where not all rows were computed.
    """

    def __init__(self, shared: SharedStore, teacher: str) -> None:
        self.exact: Served | None = None
        self._settings, self._teacher = shared.settings, teacher
        self._left = BATCHES
        self._sums: dict[str, list[float]] = {}

    def forget(self) -> None:
        """Let go of the batch."""
        self.exact = None

    def compare(self, served: Served, criteria: Sequence[Criterion], name: str, value_of: ValueOf) -> None:
        """Take the terms of one batch.

        Args:
            served: its outputs behind the codec.
            criteria: whose terms they are.
            name: of the teacher.
            value_of: computes a term without leaving a trace.
        """
        exact, self.exact = self.exact, None
        if exact is None or not self._left:
            return
        self._left -= 1
        for term in (term for criterion in criteria for term in _looking(criterion, name)):
            if term.weight(served.step.index) == 0:
                continue
            pair = [value_of(term, _with(one, name)) for one in (exact, served)]
            sums = self._sums.setdefault(term.name, [0.0, 0.0])
            sums[0] += abs(pair[0])
            sums[1] += abs(pair[1] - pair[0])
        if not self._left:
            logger.info("%s", self.report())

    def report(self) -> str:
        """What was found, as a sentence."""
        parts = [f"{name} by {_share(*sums)}" for name, sums in self._sums.items()]
        return (
            f"the cache holds outputs of the {self._teacher} as {self._stored()}: on the first {BATCHES} batches this "
            f"changed {', '.join(parts) or 'no term'}"
        )

    def _stored(self) -> str:
        said = self._settings
        logits = said.dtype if said.top_k is None else f"the {said.top_k} largest logits in {said.dtype}"
        features = said.feature_dtype
        return logits if features in (None, said.dtype) else f"{logits}, features in {features}"


def _looking(criterion: Any, teacher: str) -> Iterator[Term]:
    """The terms of a criterion that look at a teacher."""
    for term in criterion.terms:
        if term.layer is None or (term.layer() is not None and criterion.teacher_looks(teacher)):
            yield term


def _with(outputs: Served, name: str) -> Step:
    step: Step = outputs.step
    return replace(step, outputs={**step.outputs, name: outputs.output}, captured={**step.captured, name: outputs})


def _share(whole: float, change: float) -> str:
    if whole == 0:
        return f"{change:.2g} (it is 0 otherwise)" if change else "nothing"
    return f"{100 * change / whole:.2g} %"
