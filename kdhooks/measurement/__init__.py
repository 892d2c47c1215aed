"""What a model costs: what each metric means, a batch of a given size, repeated runs and their median.

Rules: a backend runs the model, and everything that is the same for both stands here. What was measured is always
`Measured`, a value with its spread; units are seconds, rows a second, numbers, multiply-accumulates and bytes.
"""

from __future__ import annotations

from kdhooks.measurement.definitions import DEFINITIONS, Definition, asked_metrics, check_inputs
from kdhooks.measurement.measured import Measured, shown
from kdhooks.measurement.rows import batch_of, rows_in, shorter
from kdhooks.measurement.runs import reason_of, run_failed, seconds_of_runs
from kdhooks.measurement.waiting import processors

__all__ = [
    "DEFINITIONS",
    "Definition",
    "Measured",
    "asked_metrics",
    "batch_of",
    "check_inputs",
    "processors",
    "reason_of",
    "rows_in",
    "run_failed",
    "seconds_of_runs",
    "shorter",
    "shown",
]
