"""Weight transfer, as far as no framework matters: names, shapes, resizing in NumPy, the report, freezing by pattern.

A backend hands the shapes of both sides to `plan`, does its moves with `resized`, and keeps ``plan.report``.
"""

from __future__ import annotations

from kdhooks.transfer.begin import Transferred, located, settings_in, settings_of, transfer_once
from kdhooks.transfer.finetuner import Finetuner
from kdhooks.transfer.finetuning import FinetuningHook
from kdhooks.transfer.freezing import chosen, factor_of, frozen_at, grouped
from kdhooks.transfer.matching import Move, Plan, check_patterns, plan
from kdhooks.transfer.report import STATUSES, Entry, TransferReport
from kdhooks.transfer.resizing import Layout, Resize, resized
from kdhooks.transfer.starting_point import StartingPoint

__all__ = [
    "STATUSES",
    "Entry",
    "Finetuner",
    "FinetuningHook",
    "Layout",
    "Move",
    "Plan",
    "Resize",
    "StartingPoint",
    "TransferReport",
    "Transferred",
    "check_patterns",
    "chosen",
    "factor_of",
    "frozen_at",
    "grouped",
    "located",
    "plan",
    "resized",
    "settings_in",
    "settings_of",
    "transfer_once",
]
