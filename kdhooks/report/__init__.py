"""The page of a run, made from what the run left on disk.

Rules: no framework, nothing beyond the record. The page is one file that loads nothing and runs nothing; what is not in
the record is named with the reason, and never guessed.
"""

from kdhooks.report.page import page, write_report

__all__ = ["page", "write_report"]
