"""The student as a file that others run, loaded again and compared before it is put in its place.

Rules: a backend writes, loads and runs; names of formats, the comparison in NumPy, and how a file comes into its place
stand here. What is written is a clean copy of the model in evaluation mode, whatever hangs on the model itself.
"""

from __future__ import annotations

from kdhooks.export.exporting import ExportReport, export, export_all
from kdhooks.export.formats import FORMATS, Format, format_of
from kdhooks.export.result import Exported

__all__ = ["FORMATS", "ExportReport", "Exported", "Format", "export", "export_all", "format_of"]
