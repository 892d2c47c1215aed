"""What a run leaves on disk for people and pages: its record, and what loggers are told.

Rules: no framework. A record is plain JSON that is written whole or not at all, by rank 0; whoever reads it gets a
clear error where it is missing, damaged or of a newer version. What looks at a run never ends it.
"""

from kdhooks.runs.files import NAME, read_run
from kdhooks.runs.loggers import LoggerError, RunFacts, RunLogger
from kdhooks.runs.record import RunRecord
from kdhooks.runs.recorder import Recorder

__all__ = ["NAME", "LoggerError", "Recorder", "RunFacts", "RunLogger", "RunRecord", "read_run"]
