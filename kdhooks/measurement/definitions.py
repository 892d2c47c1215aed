"""What each measured metric means: the one table that messages, pages and backends share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdhooks.config.search_settings import MEASURED
from kdhooks.errors import UsageError
from kdhooks.names import did_you_mean


@dataclass(frozen=True)
class Definition:
    """One metric.

    Attributes:
        name: of the metric.
        unit: of its values: ``s``, ``rows/s``, ``MACs``, ``B``, or nothing for a plain number.
        needs_inputs: whether the model must be run.
        doc: what is measured, in one sentence.
    """

    name: str
    unit: str
    needs_inputs: bool
    doc: str

    @property
    def higher_is_better(self) -> bool:
        """The direction in which it improves."""
        return MEASURED[self.name]


_ALL = (
    Definition(
        "latency",
        "s",
        True,
        "The median time of one forward of a batch, in evaluation mode, until its result is there.",
    ),
    Definition("throughput", "rows/s", True, "The rows of that batch, divided by that time."),
    Definition("parameters", "", False, "The numbers that training could change, frozen ones too, shared ones once."),
    Definition("macs", "MACs", True, "Multiply-accumulates of the products of matrices and convolutions for one row."),
    Definition("file_size", "B", False, "The file of the weights, as a search keeps it."),
    Definition("peak_memory", "B", True, "What one forward of the batch takes at most beside weights and inputs."),
)

DEFINITIONS: Mapping[str, Definition] = {definition.name: definition for definition in _ALL}
"""Every metric that is measured on the model itself, by name."""


def asked_metrics(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once; UsageError for one that is not in `DEFINITIONS`.

    >>> asked_metrics(["macs", "latency", "macs"])
    ('macs', 'latency')
    """
    asked = tuple(dict.fromkeys(names))
    for name in asked:
        if name not in DEFINITIONS:
            hint = did_you_mean(name, DEFINITIONS, what="Measured are")
            raise UsageError(f"{name!r} is no metric that can be measured on a model. {hint}")
    return asked


def check_inputs(names: Iterable[str], inputs: Any) -> None:
    """UsageError where a metric needs the model to run, and there is nothing to run it on."""
    needing = [name for name in names if DEFINITIONS[name].needs_inputs]
    if needing and inputs is None:
        raise UsageError(
            f"{' and '.join(needing)} can't be measured without inputs. Set example_inputs: the model's inputs for "
            "one row or more, a tensor, or a tuple or mapping of tensors"
        )
