"""The page of a search: one HTML file that loads nothing and runs nothing.

All that comes from a user (names, values, reasons) is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from kdhooks.config.search_settings import Choices, Dimension
from kdhooks.measurement.quantities import duration
from kdhooks.plots.document import document
from kdhooks.search.results.importance import importance_of
from kdhooks.search.results.page_style import STYLE
from kdhooks.search.results.pareto import ranked
from kdhooks.search.results.plots_history import history_plot
from kdhooks.search.results.plots_importance import importance_plot
from kdhooks.search.results.plots_parallel import parallel_plot
from kdhooks.search.results.plots_pareto import metric_pairs, pareto_plot
from kdhooks.search.results.result_file import settings_to_dict
from kdhooks.search.results.table import Column, columns, mark, rule, states, value_text

if TYPE_CHECKING:
    from kdhooks.search.results.result import SearchResult

_MOST_ROWS = 1000


def page(result: SearchResult) -> str:
    """The whole page as text."""
    title = f"{result.name or 'Search'}: {result.settings.search_algorithm}"
    return document(title, STYLE, _sections(result, title))


def _sections(result: SearchResult, title: str) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>"
    if not result.candidates:
        yield "<p>No candidate yet.</p>"
    else:
        yield from _overview(result)
        yield from _history(result)
        yield from _trade_offs(result)
        yield from _importance(result)
        yield from _parallel(result)
        yield "<h2>Candidates</h2>"
        yield from _table(result)
    yield "<h2>Configuration of the search</h2>"
    yield _configuration(result)


def _overview(result: SearchResult) -> Iterator[str]:
    count, seconds = len(result), sum(row.seconds for row in result.candidates)
    yield f'<p class="soft">{states(result.candidates)}; {duration(seconds)} of training and measuring</p>'
    if result.best is None:
        yield f"<p>None of the {count} candidates is complete, so there is no best one. The table has the reasons.</p>"
        return
    best = result.best
    tiles = [(result.quantities[name].with_unit(best.metrics[name]), name) for name in result.settings.metrics]
    tiles += [(value_text(best.arch, name), name) for name in result.parameter_names if name in best.arch]
    yield f"<h2>The best: #{best.number}</h2>"
    yield f'<p class="soft">Chosen {escape(rule(result))}.</p>' if len(result.settings.metrics) > 1 else ""
    yield f'<ul class="tiles">{"".join(_tile(*tile) for tile in tiles)}</ul>'


def _tile(value: str, name: str) -> str:
    return f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>"


def _history(result: SearchResult) -> Iterator[str]:
    plots = [plot for name in result.settings.metrics if (plot := history_plot(result, name))]
    if plots:
        yield "<h2>History</h2>"
        yield from plots


def _trade_offs(result: SearchResult) -> Iterator[str]:
    plots = [plot for pair in metric_pairs(result.settings.metrics) if (plot := pareto_plot(result, *pair))]
    if plots:
        yield f"<h2>Trade-offs</h2><p>The Pareto set has {len(result.pareto)} of the candidates: none is better than "
        yield "one of them in one metric without being worse in another.</p>"
        yield from plots


def _importance(result: SearchResult) -> Iterator[str]:
    yield "<h2>Importance of the parameters</h2>"
    for name in result.settings.metrics:
        found = importance_of(result, name)
        yield f'<h3>{escape(name)}</h3><p class="soft">{escape(found.method)}</p>'
        yield importance_plot(found)


def _parallel(result: SearchResult) -> Iterator[str]:
    plot = parallel_plot(result)
    if plot:
        first = escape(result.settings.metrics[0])
        yield f"<h2>Parallel coordinates</h2><p>One line a complete candidate; the better its {first}, the stronger "
        yield f'the line. The best one is drawn over the others.</p><div class="wide">{plot}</div>'


def _table(result: SearchResult) -> Iterator[str]:
    rows = ranked(result.candidates, result.settings)[:_MOST_ROWS]
    found = [Column("", [mark(result, row).strip() for row in rows], kind="text"), *columns(result, rows)]
    if any(row.reason for row in rows):
        found.append(Column("reason", [row.reason for row in rows], kind="reason"))
    several = len(result.settings.metrics) > 1
    yield f"<p>* is the best{', + the Pareto set' if several else ''}; - is a parameter that the candidate lacks.</p>"
    yield f'<div class="wide"><table><thead><tr>{"".join(_heading(column) for column in found)}</tr></thead><tbody>'
    for at, cells in enumerate(zip(*(column.cells for column in found), strict=True)):
        texts = (f"<td{_class(one)}>{escape(cell)}</td>" for one, cell in zip(found, cells, strict=True))
        yield f"<tr{' class=top' if '*' in found[0].cells[at] else ''}>{''.join(texts)}</tr>"
    yield "</tbody></table></div>"
    if len(rows) < len(result):
        yield f"<p>{len(result) - len(rows)} more are in result.json.</p>"


def _heading(column: Column) -> str:
    unit = f"<small>{escape(column.unit)}</small>" if column.unit else ""
    return f"<th{_class(column)}>{escape(column.name)}{unit}</th>"


def _class(column: Column) -> str:
    return f' class="{column.kind}"' if column.kind in ("text", "reason") else ""


def _configuration(result: SearchResult) -> str:
    content = settings_to_dict(result.settings)
    del content["search_space"], content["metrics"], content["higher_is_better"]
    metrics = zip(result.settings.metrics, result.settings.higher_is_better, strict=True)
    entries = [("metrics", ", ".join(f"{name} ({'higher' if up else 'lower'} is better)" for name, up in metrics))]
    entries += [(key, _setting(value)) for key, value in content.items() if value not in (None, [])]
    space = [(one.name, _values(one)) for one in result.settings.search_space]
    return f"{_definitions('search', entries)}{_definitions('search_space', space) if space else ''}"


def _definitions(name: str, entries: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><td class="text"><code>{escape(key)}</code></td><td class="reason">{escape(value)}</td></tr>'
        for key, value in entries
    )
    return f"<h3><code>{name}</code></h3><table><tbody>{rows}</tbody></table>"


def _setting(value: Any) -> str:
    if isinstance(value, list):  # limits and relations
        return "; ".join(str(entry["text"]) for entry in value)
    if isinstance(value, Mapping):  # the pruner
        return "; ".join(f"{name} {options or ''}".strip() for name, options in value.items())
    return str(value)


def _values(dimension: Dimension) -> str:
    """The values of a dimension, and when it is there."""
    if isinstance(dimension, Choices):
        text = ", ".join(value_text({"": value}, "") for value in dimension.values)
    else:
        step = f", step {dimension.step:g}" if dimension.step is not None else ""
        kind = "whole numbers" if dimension.integer else "numbers"
        text = f"{kind} from {dimension.low:g} to {dimension.high:g}{step}{', by ratio' if dimension.log else ''}"
    conditions = [
        f"{one.name} is {' or '.join(value_text({'': value}, '') for value in one.values)}" for one in dimension.when
    ]
    return f"{text}; where {' and '.join(conditions)}" if conditions else text
