"""How the run went: metrics and loss components over the epochs, and the epochs as a table."""

from __future__ import annotations

from collections.abc import Sequence

from kdhooks.report.curves import Chart, Level, Line, drawn
from kdhooks.report.numbers import Metric, counted, finite, number
from kdhooks.report.record import Pages
from kdhooks.report.section import BROAD, CELL, NARROW, Section, both, cells, figure, folded, paragraph, table

_MOST_ROWS = 300


def metrics(pages: Pages) -> Section | None:
    """The section of the metrics; None where no epoch was evaluated."""
    shown = [metric for metric in pages.metrics if any(v is not None for v in pages.column("metrics", metric.name))]
    if not shown:
        return None
    charts = [(metric, _metric(pages, metric)) for metric in shown]
    if len(charts) == 1:
        metric, chart = charts[0]
        body = figure(both(drawn(chart, BROAD, 300), drawn(chart, NARROW, 230)), metric.label, _note(pages, chart))
    else:
        body = cells(figure(drawn(chart, CELL, 210), metric.label, _note(pages, chart)) for metric, chart in charts)
    return Section("metrics", "Metrics per epoch", _finding(pages, shown[0]), body)


def _metric(pages: Pages, metric: Metric) -> Chart:
    """One metric over the epochs, with the levels of the teachers."""
    values = pages.column("metrics", metric.name)
    # An epoch that was not evaluated is passed over, one whose metric is not finite leaves a gap.
    asked = [metric.name in (record.get("metrics") or {}) for record in pages.history]
    pairs = [(x, y) for x, y, there in zip(pages.epochs, values, asked, strict=True) if there]
    xs, ys = [x for x, _ in pairs], [None if y is None else y * metric.factor for _, y in pairs]
    texts = [metric.text(y) for _, y in pairs]
    levels = [
        Level(model.metrics[metric.name] * metric.factor, f"{model.role} {text}", "level")
        for model in pages.teachers
        if metric.name in model.metrics and (text := metric.text(model.metrics[metric.name]))
    ]
    best = None
    if pages.best is not None and (value := finite((pages.best.get("metrics") or {}).get(metric.name))) is not None:
        epoch = float(pages.best["epoch"])
        best = (epoch, value * metric.factor, f"best epoch {epoch:g}: {metric.text(value)}")
    about = f"from {texts[0]} in epoch {xs[0]:g} to {texts[-1]} in epoch {xs[-1]:g}"
    line = Line(xs, ys, "main", "epoch", texts)
    return Chart(f"{metric.label} per epoch", about, [line], levels, best, unit=metric.unit)


def _note(pages: Pages, chart: Chart) -> str:
    star = f"★ best epoch, {pages.best['epoch']}" if pages.best is not None and chart.best else ""
    dashed = f"dashed: the {'teacher' if len(chart.levels) == 1 else 'teachers'}" if chart.levels else ""
    return "; ".join(filter(None, [star, dashed]))


def _finding(pages: Pages, metric: Metric) -> str:
    values = pages.column("metrics", metric.name)
    there = [(value, epoch) for value, epoch in zip(values, pages.epochs, strict=True) if value is not None]
    best, epoch = max(there, key=lambda pair: pair[0] if metric.higher else -pair[0])
    name = metric.label[:1].upper() + metric.label[1:]
    if len(pages.history) == 1:
        return f"{name} is {metric.text(best)} after the only epoch"
    word = "highest" if metric.higher else "lowest"
    found = f"{name} was {word} in epoch {epoch:g}: {metric.text(best)}"
    teacher = next((model.metrics[metric.name] for model in pages.teachers if metric.name in model.metrics), None)
    if teacher is None or len(pages.teachers) > 1 or metric.text(teacher) == metric.text(best):
        return found
    return f"{found}, {metric.apart(best, teacher)} {'above' if best > teacher else 'below'} the teacher"


def losses(pages: Pages) -> Section | None:
    """The section of the loss components, each on an axis of its own, and of the learning rate; None without any."""
    names = pages.names("losses")
    figures = [drawn_one for name in names if (drawn_one := _loss(pages, name))]
    if not figures:
        return None
    rate = _learning_rate(pages)
    intro = (
        "Each component has an axis of its own, as it was before its weight was applied; the total is weighted. "
        "Thin lines are single steps, strong ones the means of epochs."
    )
    body = paragraph(intro, "soft") + cells([*figures, *([rate] if rate else [])]) + _epochs(pages)
    return Section("losses", "Losses", _loss_finding(pages, names), body)


def _loss(pages: Pages, name: str) -> str:
    lines = []
    steps, means = pages.step_losses.get(name, ()), pages.column("losses", name)
    if len(steps) > 1:
        lines.append(Line(pages.steps_in_epochs, [finite(value) for value in steps], "steps"))
    if any(value is not None for value in means):
        texts = [number(value) for value in means]
        lines.append(Line(pages.epochs, means, "main", "epoch", texts))
    there = [value for value in lines[-1].ys if value is not None] if lines else []
    if not there:
        return ""
    about = f"from {number(there[0])} to {number(there[-1])}"
    chart = Chart(f"loss component {name}", about, lines, x_label="epoch" if pages.counts_epochs else "step")
    missing = sum(value is None for value in lines[-1].ys)
    unit = "epoch" if pages.counts_epochs else "step"
    note = f"✕ no finite number in {counted(missing, unit)}" if missing else ""
    course = f"{number(there[0])} → {number(there[-1])}" if len(there) > 1 else number(there[0])
    return figure(drawn(chart, CELL, 190), name, note, aside=course)


def _learning_rate(pages: Pages) -> str:
    """The rate over the steps, or over the epochs where steps don't tell it."""
    steps = [finite(rate) for rate in (pages.run.get("steps") or {}).get("learning_rate") or ()]
    epochs = [finite(record.get("learning_rate")) for record in pages.history]
    xs, ys = (pages.steps_in_epochs, steps) if any(rate is not None for rate in steps) else (pages.epochs, epochs)
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
    if not pairs:
        return ""
    line = Line([x for x, _ in pairs], [y for _, y in pairs], "rate")
    about = f"from {pairs[0][1]:.3g} to {pairs[-1][1]:.3g}"
    chart = Chart("learning rate", about, [line], x_label="epoch" if pages.counts_epochs else "step", log=False)
    course = f"{pairs[0][1]:.3g} → {pairs[-1][1]:.3g}"
    return figure(drawn(chart, CELL, 190), "learning rate", aside=course)


def _loss_finding(pages: Pages, names: Sequence[str]) -> str:
    name = "total" if "total" in names else names[0]
    column = pages.column("losses", name) if pages.history else [finite(v) for v in pages.step_losses.get(name, ())]
    there = [value for value in column if value is not None]
    said = "The total loss" if name == "total" else f"The loss {name}"
    if not there:
        return f"{said} was never a finite number"
    bad = next((epoch for epoch, value in zip(pages.epochs, column, strict=False) if value is None), None)
    tail = f"; it had no finite number in epoch {bad:g}" if bad is not None and pages.history else ""
    if len(there) == 1:
        return f"{said} was {number(there[0])}{tail}"
    word = "fell" if there[-1] < there[0] else "rose" if there[-1] > there[0] else "stayed"
    span = f" over {counted(len(pages.history), 'epoch')}" if pages.history else ""
    return f"{said} {word} from {number(there[0])} to {number(there[-1])}{span}{tail}"


def _epochs(pages: Pages) -> str:
    """All epochs as a table, or of very many an even choice with the best one."""
    if not pages.history:
        return ""
    every = -(-len(pages.history) // _MOST_ROWS)
    last = len(pages.history) - 1
    rows = [
        (at, record) for at, record in enumerate(pages.history) if at % every == 0 or at == last or record is pages.best
    ]
    names = pages.names("losses")
    head = ["epoch", *(metric.label for metric in pages.metrics), *names, "learning rate", "seconds"]
    cells_of = [
        [
            f"{pages.epochs[at]:g}{'★' if record is pages.best else ''}",
            *(metric.text(finite((record.get("metrics") or {}).get(metric.name))) for metric in pages.metrics),
            *(number(finite((record.get("losses") or {}).get(name))) for name in names),
            "–" if (rate := finite(record.get("learning_rate"))) is None else f"{rate:.3g}",
            number(finite(record.get("seconds"))),
        ]
        for at, record in rows
    ]
    left_out = len(pages.history) - len(rows)
    more = paragraph(f"{left_out:,} epochs between them are in run.json.", "soft") if left_out else ""
    name = "Epochs in numbers" if left_out or not last else f"All {len(rows)} epochs in numbers"
    return folded(name, table(head, cells_of, words=(), name="epochs") + more)
