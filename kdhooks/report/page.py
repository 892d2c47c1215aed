"""The page of a run: one HTML file that loads nothing and runs nothing.

Every heading says what was found. All that comes from a user (names, configuration, reasons, texts) is escaped;
pictures must stand in the record itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from kdhooks.errors import DataError, UsageError
from kdhooks.measurement.quantities import duration
from kdhooks.plots.document import document
from kdhooks.report import agreement, cost, models, samples, setup, similarity, training
from kdhooks.report.headline import decisive, headline
from kdhooks.report.numbers import counted, finite
from kdhooks.report.record import Pages
from kdhooks.report.section import Section, paragraph
from kdhooks.report.style import STYLE
from kdhooks.runs import NAME, read_run

FILE = "report.html"
"""The page's name in the folder of a run."""

_STATUS = {
    "running": "The run is still under way, or was killed: this is what was known when its last epoch ended.",
    "stopped": "The run was stopped before its end.",
    "failed": "The run failed: this is what was known by then.",
}
_MAKERS = (
    ("models", models.compared),
    ("history", training.metrics),
    ("steps", training.losses),
    ("confusion", agreement.agreement),
    ("disagreements", samples.samples),
    ("similarity", similarity.layers),
    ("ledger", cost.step_cost),
)


def write_report(run: str | Path | Mapping[str, Any], out: str | Path | None = None) -> Path:
    """Write the page of a run; a page that was there before is replaced as a whole.

    Args:
        run: the folder of a run, its ``run.json``, or what such a file holds.
        out: the file; None is ``report.html`` beside the record.

    Returns:
        The page's path.

    Raises:
        DataError: the record is missing, damaged, no record of a run, or of a newer version; or the page can't be
            written.
        UsageError: `run` is a mapping, and `out` says nothing; or `out` is the record itself.

    Example:
        >>> write_report("nowhere")
        Traceback (most recent call last):
            ...
        kdhooks.errors.DataError: there is no record of a run at nowhere: fit() writes one into the run's folder, \
tuning.workspace.path
    """
    if isinstance(run, Mapping):
        if out is None:
            raise UsageError("write_report was given no path of a run, so it needs out, the file that it shall write")
        return _write(Path(out), page(run))
    record = Path(run) / NAME if Path(run).is_dir() else Path(run)
    content = read_run(record)
    path = record.with_name(FILE) if out is None else Path(out)
    if path.resolve() == record.resolve():
        raise UsageError(f"the page would be written over the record {record}: name another file")
    return _write(path, page(content, str(record)))


def page(run: Mapping[str, Any], source: str = "the record") -> str:
    """The page of a record as text.

    Args:
        run: what ``run.json`` holds.
        source: what it came from, for messages.

    Raises:
        DataError: a section has another form than a run writes.
    """
    pages = Pages(run)
    try:
        found = {key: section for key, make in _MAKERS if (section := make(pages)) is not None}
        last = [setup.setup(pages), setup.missing(pages, _shown(found))]
        sections = [*found.values(), *(section for section in last if section is not None)]
        body = list(_body(pages, sections))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source} is damaged: {type(error).__name__}: {error}") from None
    return document(f"{run.get('name') or 'run'}: {headline(pages)}", STYLE, body, pictures=True)


def _shown(found: Mapping[str, Section]) -> set[str]:
    return {*found, "history"}


def _body(pages: Pages, sections: list[Section]) -> Iterator[str]:
    yield f"<header>{_head(pages)}</header>"
    links = "".join(f'<a href="#{section.place}">{escape(section.name)}</a>' for section in sections)
    yield f'<nav aria-label="sections">{links}</nav><main>'
    for section in sections:
        yield section.html()
    yield "</main>"


def _head(pages: Pages) -> str:
    run = pages.run
    status = str(run.get("status") or "unknown")
    name = escape(str(run.get("name") or "run"))
    kind = status if status in ("finished", *_STATUS) else "unknown"
    top = f'<p class="eyebrow">{name} <span class="status {kind}">{escape(status)}</span></p>'
    told = paragraph(_told(pages), "soft")
    warning = f'<p class="warning" role="status">{escape(_STATUS[status])}</p>' if status in _STATUS else ""
    return f"{top}<h1>{escape(headline(pages))}</h1>{told}{warning}{_tiles(pages)}"


def _told(pages: Pages) -> str:
    """How long the run was, where and when."""
    run, seconds = pages.run, finite(pages.run.get("seconds"))
    parts = [counted(len(pages.history), "epoch")]
    parts[0] += f" in {duration(seconds)}" if seconds is not None else ""
    parts[0] += f" on {run['device']}" if run.get("device") else ""
    return ", ".join([*parts, *_span(run.get("began"), run.get("ended"))])


def _span(began: Any, ended: Any) -> list[str]:
    """From when to when, as people write it; what is no time is left out."""
    times = []
    for text in (began, ended):
        try:
            times.append(datetime.fromisoformat(str(text)))
        except ValueError:
            continue
    if not times:
        return []
    day, zone = f"{times[0].day} {times[0]:%B %Y}", times[0].tzname() or ""
    hours = [f"{time:%H:%M}" if time.date() == times[0].date() else f"{time.day} {time:%B %H:%M}" for time in times]
    return [f"{day}, {' to '.join(dict.fromkeys(hours))} {zone}".rstrip()]


def _tiles(pages: Pages) -> str:
    tiles = []
    found = decisive(pages)
    if found is not None:
        metric, student, teacher, whose = found
        tiles.append((metric.text(student), f"{metric.label} of the student"))
        tiles.append((metric.text(teacher), f"{whose.removeprefix('the ').removesuffix(chr(39) + 's')}"))
    agreed = finite((pages.run.get("confusion") or {}).get("agreement"))
    tiles += [(f"{100 * agreed:.1f}%", "rows they agree on")] if agreed is not None else []
    if pages.best is not None:
        tiles.append((f"epoch {pages.best['epoch']}", f"the best of {len(pages.history):,}"))
    items = "".join(f"<li><b>{escape(value)}</b><span>{escape(text)}</span></li>" for value, text in tiles)
    return f'<ul class="tiles">{items}</ul>' if tiles else ""


def _write(path: Path, text: str) -> Path:
    """Replace a file as a whole."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_text(text, encoding="utf-8")
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"the page {path} can't be written: {error.strerror or error}") from None
    return path
