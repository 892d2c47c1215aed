"""The sections of a record that are made by looking: before the first step, and once at the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdhooks.compared.costs import cost_of
from kdhooks.compared.limits import LIMITS, Limits, deadline
from kdhooks.compared.looks import Looks, NoLook
from kdhooks.compared.rows import SeenRows
from kdhooks.errors import KDHooksError, told
from kdhooks.messages import logger
from kdhooks.runs import RunRecord

_NO_TEACHER = "the run has no teacher"


def look_before(looks: Callable[[], Looks], record: RunRecord, limits: Limits = LIMITS) -> None:
    """The similarity of layers before the first step; kept in the record until the run ends.

    Args:
        looks: makes them; may raise.
        record: of the run.
        limits: of the cost.
    """
    found = _tried(lambda: _similarity(looks(), None, limits))
    if isinstance(found, str):
        record.put("similarity", None, found)
    else:
        student, teacher, values = found
        record.unfinished["similarity"] = {"student_layers": student, "teacher_layers": teacher, "before": values}


def look_after(
    looks: Callable[[], Looks],
    backend: Any,
    record: RunRecord,
    history: Sequence[Mapping[str, Any]],
    seconds: float,
    limits: Limits = LIMITS,
) -> None:
    """Everything else: similarity after training, costs, metrics, confusion, disagreements.

    Args:
        looks: makes them; may raise.
        backend: measures.
        record: of the run.
        history: of the run.
        seconds: that the run took.
        limits: of the cost.
    """
    made = _tried(looks)
    if isinstance(made, str):
        for section in ("models", "similarity", "confusion", "disagreements"):
            record.put(section, None, made)
        return
    _put_similarity(made, record, limits)
    speeds = _put_rows(made, record, limits)
    _put_models(made, backend, record, history, speeds, max(limits.metric_seconds, seconds / 10), limits)


def _put_similarity(looks: Looks, record: RunRecord, limits: Limits) -> None:
    known = record.unfinished.get("similarity")
    if known is None and "similarity" in record.missing:  # the first look has failed, and so would this one
        return
    names = None if known is None else (known["student_layers"], known["teacher_layers"])
    found = _tried(lambda: _similarity(looks, names, limits))
    if isinstance(found, str):
        record.put("similarity", None, found)
        return
    student, teacher, values = found
    before = None if known is None else known["before"]
    if before is not None and (len(before), len(before[0])) != (len(student), len(teacher)):
        before = None
    record.put("similarity", {"student_layers": student, "teacher_layers": teacher, "before": before, "after": values})


def _similarity(
    looks: Looks, names: tuple[Sequence[str], Sequence[str]] | None, limits: Limits
) -> tuple[list[str], list[str], list[list[float]]]:
    if len(looks.teachers) != 1:
        several = f"layers are compared with those of one teacher, and the run has {len(looks.teachers)}"
        raise NoLook(several if looks.teachers else _NO_TEACHER)
    return looks.similarity(limits.similar_rows, limits.layers, names, deadline(limits.similar_seconds))


def _put_rows(looks: Looks, record: RunRecord, limits: Limits) -> dict[str, float]:
    seen = SeenRows(limits.rows, limits.examples)

    def look() -> dict[str, float]:
        if not looks.teachers:
            raise NoLook(_NO_TEACHER)
        speeds = looks.rows(seen, next(iter(looks.teachers)), deadline(limits.seconds))
        if not seen.count:
            raise NoLook("the evaluation data have no rows")
        names = looks.class_names()
        record.put("confusion", {**seen.confusion(names, limits.classes), "teacher": next(iter(looks.teachers))})
        record.put("disagreements", seen.disagreements(names))
        return speeds

    found = _tried(look)
    if isinstance(found, str):
        record.put("confusion", None, found)
        record.put("disagreements", None, found)
        return {}
    speeds: dict[str, float] = found
    return speeds


def _put_models(
    looks: Looks,
    backend: Any,
    record: RunRecord,
    history: Sequence[Mapping[str, Any]],
    speeds: Mapping[str, float],
    seconds: float,
    limits: Limits,
) -> None:
    inputs = _tried(lambda: looks.one_row())
    for name, model in {"student": looks.student, **looks.teachers}.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = None if isinstance(inputs, str) else inputs
            entry, reasons = cost_of(looks, backend, model, known, speeds, limits)
        if isinstance(inputs, str):
            reasons.append(inputs)
        metrics: Any = _metrics_of(history) if name == "student" else None
        if not metrics:
            speed = speeds.get("student" if name == "student" else "teacher")
            metrics = _tried(lambda one=model, each=speed: _evaluated(looks, one, each, seconds))  # type: ignore[misc]
        if isinstance(metrics, str):
            reasons.append(metrics)
            metrics = None
        record.models[name] = {**entry, "metrics": metrics}
        if reasons:
            record.missing[f"models.{name}"] = "; ".join(dict.fromkeys(reasons))


def _metrics_of(history: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Those of the best epoch, whose weights the student has at the end, else of the last that was evaluated."""
    evaluated = [record for record in history if record.get("metrics")]
    best = next((record for record in reversed(evaluated) if record.get("best")), None)
    chosen = best or (evaluated[-1] if evaluated else None)
    return None if chosen is None else dict(chosen["metrics"])


def _evaluated(looks: Looks, model: Any, speed: float | None, seconds: float) -> dict[str, float]:
    rows = looks.count_rows()
    if speed is not None and rows is not None and speed * rows > seconds:
        raise NoLook(f"its metrics on all {rows} rows would take about {speed * rows:.0f} s")
    return looks.metrics(model)


def _tried(look: Callable[[], Any]) -> Any:
    """What a look gives, or in one sentence why it gives nothing."""
    try:
        with warnings.catch_warnings():  # of the models' own code, which the training has shown already
            warnings.simplefilter("ignore")
            return look()
    except NoLook as error:
        return str(error)
    except KDHooksError as error:
        return str(error).splitlines()[0]
    except Exception as error:  # whatever a foreign model or loader raises: the run has ended well
        logger.debug("a look at the models failed", exc_info=True)
        return told(error)
