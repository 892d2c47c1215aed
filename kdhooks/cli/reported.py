"""``kdhooks report``: writes the page of a run; ``kdhooks fit`` does so at its end."""

from __future__ import annotations

import webbrowser
from argparse import Namespace
from pathlib import Path

from kdhooks.errors import DataError, UsageError
from kdhooks.messages import logger


def report(arguments: Namespace) -> int:
    """Write the page, say where it is, and show it where that is asked for."""
    from kdhooks.report import write_report

    out: Path | None = arguments.out
    if out is not None and out.is_dir():
        raise UsageError(f"--out {out} is a folder: name a file, as in {out / 'report.html'}")
    path = write_report(arguments.run, out)
    print(f"report: {path}")
    if arguments.open and not webbrowser.open(path.resolve().as_uri()):
        print("no browser was found: open the file yourself")
    return 0


def page_of(folder: Path) -> Path | None:
    """The page of a run that has just ended; one that can't be made is told, and spoils nothing."""
    from kdhooks.report import write_report

    try:
        return write_report(folder)
    except DataError as error:
        logger.warning("no page of the run was written: %s", error)
        return None
