"""Where the time of a step goes: parts that are timed, by name; off unless somebody asks.

Rules: no framework is imported. A part is timed where the work is handed out, never inside of a formula; a part inside
of a part counts for the inner one only, so that the parts of a step add up to it. No step waits for anything: what a
device can't tell yet is read later. Off, a part costs one call.
"""

from kdhooks.ledger.nothing import OFF, Border, CurrentLedger, Ledger
from kdhooks.ledger.steps import StepLedger
from kdhooks.ledger.stopwatch import Stopwatch

__all__ = ["OFF", "Border", "CurrentLedger", "Ledger", "StepLedger", "Stopwatch"]
