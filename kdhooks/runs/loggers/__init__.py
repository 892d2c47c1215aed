"""Loggers: who else is told what a run finds, each through its own package, and nobody who is not configured.

Rules: a package is imported where it is asked for, and its automatic logging stays off, so that a logger gets what it
is told and nothing more. What is wrong before training is an error; what fails later is said once, and the run goes on.
"""

from kdhooks.runs.loggers.base import LoggerError, RunFacts, RunLogger
from kdhooks.runs.loggers.configured import configured_loggers
from kdhooks.runs.loggers.guarded import Guarded, guarded

__all__ = ["Guarded", "LoggerError", "RunFacts", "RunLogger", "configured_loggers", "guarded"]
