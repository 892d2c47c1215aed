"""The metrics that a configuration can name: ours, users' own, and all of torchmetrics by class name.

Rules: a metric's factory takes options by keyword, and ``num_classes`` where it asks for it. Nothing of
torchmetrics is imported before a metric is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from kdhooks.config.model import Named
from kdhooks.errors import MissingPackageError, UsageError
from kdhooks.loop.metric_entries import Entry, ks_of, parameters_of, with_classes
from kdhooks.names import Table, did_you_mean, fold
from kdhooks.registry import REGISTERED_METRICS

METRICS: Table[Callable[..., Any]] = Table("metric")
"""The metrics of ours; users' own are in `kdhooks.registry`, and torchmetrics' go by their class names."""


def entries_of(named: Named) -> list[Entry]:
    """The numbers that a name with options stands for; more than one for a list of k."""
    _torchmetrics()
    name = METRICS.name(named.name)
    if name == "topk":
        return [_ours(f"top{k}", METRICS["topk"], {"k": k}) for k in ks_of(named.options)]
    if name is not None:
        return [_ours(name, METRICS[name], named.options)]
    registered = REGISTERED_METRICS.name(named.name)
    if registered is not None:
        return [Entry(registered, with_classes(registered, REGISTERED_METRICS[registered], named.options))]
    factory = _torchmetrics_class(named)
    build = with_classes(named.name, factory, named.options)
    return [Entry(named.name, build, skips_unlabelled="ignore_index" in parameters_of(factory))]


def _ours(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> Entry:
    form: Literal["classes", "numbers"] = "numbers" if name in _OF_NUMBERS else "classes"
    return Entry(name, with_classes(name, factory, options), form, skips_unlabelled=True)


def _torchmetrics() -> Any:
    try:
        import torchmetrics
        import torchmetrics.classification
    except ImportError:
        raise MissingPackageError("torchmetrics", "evaluation", "torch") from None
    return torchmetrics


def _torchmetrics_class(named: Named) -> Callable[..., Any]:
    """A class of torchmetrics by its name, the one for several classes first."""
    library = _torchmetrics()
    found: dict[str, Any] = {}
    for room in (library, library.classification):
        for name, member in vars(room).items():
            if isinstance(member, type) and issubclass(member, library.Metric):
                found[name] = member
    by_fold = {fold(name): member for name, member in found.items()}
    spellings = [fold(named.name)] if "task" in named.options else [f"multiclass{fold(named.name)}", fold(named.name)]
    for spelling in spellings:
        if spelling in by_fold:
            return by_fold[spelling]  # type: ignore[no-any-return]
    known = [*METRICS, *REGISTERED_METRICS, *(name.removeprefix("Multiclass") for name in found)]
    raise UsageError(f"unknown metric {named.name!r}. {did_you_mean(named.name, known)}")


@METRICS.register("topk", "top_k")
def _topk(k: int = 1) -> Any:
    from kdhooks.torch.class_metrics import TopK

    return TopK(k)


@METRICS.register("accuracy", "acc")
def _accuracy() -> Any:
    return _topk(1)


@METRICS.register("loss", "cross_entropy")
def _loss() -> Any:
    from kdhooks.torch.class_metrics import MeanCrossEntropy

    return MeanCrossEntropy()


@METRICS.register("perplexity")
def _perplexity() -> Any:
    from kdhooks.torch.class_metrics import Perplexity

    return Perplexity()


def _class_counts(kind: Any) -> Callable[..., Any]:
    def build(average: str = "macro", *, num_classes: int) -> Any:
        from kdhooks.torch.class_metrics import ClassCounts

        if average not in ("macro", "micro", "weighted"):
            raise UsageError(f"{kind}: average must be macro, micro or weighted, not {average!r}")
        return ClassCounts(kind, num_classes, average)  # type: ignore[arg-type]

    return build


for _kind in ("F1", "precision", "recall"):
    METRICS.add(_kind, _class_counts(_kind))


@METRICS.register("Dice")
def _dice(background: int | None = 0, *, num_classes: int) -> Any:
    from kdhooks.torch.class_metrics import Dice

    if background is not None and (isinstance(background, bool) or not 0 <= background < num_classes):
        raise UsageError(f"Dice: background must be a class from 0 to {num_classes - 1}, or null, not {background!r}")
    return Dice(num_classes, background)


@METRICS.register("MSE")
def _mse() -> Any:
    return _torchmetrics().MeanSquaredError()


@METRICS.register("RMSE")
def _rmse() -> Any:
    return _torchmetrics().MeanSquaredError(squared=False)


@METRICS.register("MAE")
def _mae() -> Any:
    return _torchmetrics().MeanAbsoluteError()


_OF_NUMBERS = frozenset({"MSE", "RMSE", "MAE"})
