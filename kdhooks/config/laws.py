"""What several keys must fulfil together, and how the checked values of a section become settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdhooks.config.known import layers_fault
from kdhooks.config.mappings import LayerPair, layer_groups, layer_pairs
from kdhooks.config.model import (
    DataloaderSettings,
    EvaluationSettings,
    MetricSettings,
    Named,
    ThreadSettings,
    TrainSettings,
    TuningSettings,
)
from kdhooks.config.rules import Report
from kdhooks.config.source import join

Values = Mapping[str, Any]


def last_epoch(train: Values) -> int:
    """The default of ``end_epoch``."""
    return int(train.get("start_epoch", 0)) + int(train.get("epoch", 1))


def epochs(train: Values) -> int:
    """The default of ``epoch``."""
    return int(train.get("end_epoch", 1)) - int(train.get("start_epoch", 0)) if "end_epoch" in train else 1


def epochs_agree(values: Values, path: str, report: Report) -> None:
    """``end_epoch`` lies behind ``start_epoch``, and is what ``epoch`` says."""
    start, end = values.get("start_epoch", 0), last_epoch(values)
    given = values.get("end_epoch", end)
    if given <= start:
        message = f"the run ends at epoch {given}, but starts at epoch {start}"
        report.add(join(path, "end_epoch"), message, "Write an end_epoch above start_epoch.")
    elif given != end and "epoch" in values:
        message = f"{values['epoch']} epochs from epoch {start} end at {end}, but end_epoch is {given}"
        report.add(join(path, "epoch"), message, "Keep one of epoch and end_epoch.")


def steps_or_epochs(values: Values, path: str, report: Report) -> None:
    """A run has a number of steps or of epochs."""
    other = next((key for key in ("end_epoch", "epoch") if key in values), None)
    if values.get("steps") is not None and other is not None:
        message = f"stands beside {other}, and only one of them can say how long the run is"
        report.add(join(path, "steps"), message, f"Keep one of steps and {other}.", of_key=True)


def shards_fit(values: Values, path: str, report: Report) -> None:
    """Shards of weights have no memory format, and Intel's extension knows none."""
    if values.get("strategy") != "fsdp2":
        return
    for key in ("channels_last", "ipex"):
        if values.get(key) is True:
            message = "true can't stand beside strategy: fsdp2, which shares out the student's weights"
            report.add(join(path, key), message, f"Leave {key} out, or write strategy: ddp.")


def shared_out_alone(values: Values, path: str, report: Report) -> None:
    """A teacher that is shared out is a model of its own, and runs without Intel's extension."""
    if not values.get("sharded"):
        return
    if values.get("ema") is not None:
        message = "stands beside ema, and an average of the student is shared out as the student is"
        report.add(join(path, "sharded"), message, "Leave sharded out.", of_key=True)
    elif values.get("ipex") is True:
        message = "stands beside ipex: true, and Intel's extension needs whole weights"
        report.add(join(path, "sharded"), message, "Keep one of sharded and ipex.", of_key=True)


def train(*, epoch: int = 1, **values: Any) -> TrainSettings:
    """The settings of the built-in loop; ``epoch`` becomes ``end_epoch``."""
    end = last_epoch({**values, "epoch": epoch})
    return TrainSettings(**{"end_epoch": end, **values})


def last_batch_agrees(values: Values, path: str, report: Report) -> None:
    """``drop_last`` is another word for ``last_batch: discard``."""
    drop, last = values.get("drop_last"), values.get("last_batch")
    if drop is not None and last is not None and drop != (last == "discard"):
        message = f"{str(drop).lower()} contradicts last_batch: {last}"
        report.add(join(path, "drop_last"), message, "Keep one of drop_last and last_batch.")


def dataloader(*, drop_last: bool | None = None, **values: Any) -> DataloaderSettings:
    """The settings of a dataloader; ``drop_last`` becomes ``last_batch``."""
    if drop_last:
        values["last_batch"] = "discard"
    return DataloaderSettings(**values)


def losses_agree(values: Values, path: str, report: Report) -> None:
    """As many ``loss_weights`` as ``loss_types``."""
    types, weights = values.get("loss_types", ("CE", "KL")), values.get("loss_weights", (0.5, 0.5))
    if len(types) == len(weights):
        return
    if "loss_weights" not in values:
        message = f"{len(types)} losses need {len(types)} loss_weights"
        report.add(join(path, "loss_types"), message, "Write loss_weights, one for each loss.")
    else:
        names = ", ".join(one if isinstance(one, str) else next(iter(one)) for one in types)
        message = f"expected one weight for each of loss_types ({names}), got {len(weights)}"
        report.add(join(path, "loss_weights"), message)


def head_is_named(values: Values, path: str, report: Report) -> None:
    """A large vocabulary needs the layer that makes its logits."""
    if not values.get("student_head"):
        advice = "Write the name of the linear layer over the vocabulary, as in student_head: lm_head"
        report.add(path, "has no student_head", advice, of_key=True)


def losses_in_chunks(values: Values, path: str, report: Report) -> None:
    """Two losses that can be computed in chunks of tokens."""
    types = values.get("loss_types", ("CE", "KL"))
    if len(types) != 2 or types[0] != "CE" or types[1] not in ("KL", "JSD", "reverse_KL"):
        names = ", ".join(one if isinstance(one, str) else next(iter(one)) for one in types)
        message = f"chunks of tokens have CE and one of KL, JSD, reverse_KL, and not {names}"
        report.add(join(path, "loss_types"), message, "Write loss_types: [CE, KL]")


def without_empty(**values: Any) -> dict[str, Any]:
    """The options that have a value; an empty one holds its default."""
    return {name: value for name, value in values.items() if value is not None}


def one_kind_of_mappings(values: Values, path: str, report: Report) -> None:
    """``layer_mappings``, or its classic name."""
    given = [key for key in _MAPPINGS if values.get(key) is not None]
    if not given:
        message = "has no layer_mappings, so no layer is compared"
        report.add(path, message, "Write pairs of layers, as in layer_mappings: [[layer2, layer3]]", of_key=True)
    elif len(given) > 1:
        message = "stands beside layer_mappings, and only one of them can be meant"
        report.add(join(path, given[1]), message, "Keep one of them.", of_key=True)


def pairs_agree(values: Values, path: str, report: Report) -> None:
    """Lists that hold one for all, one for each mapping, or one for each pair."""
    key = next((key for key in _MAPPINGS if values.get(key) is not None), None)
    pairs, _ = layer_pairs(values.get(key), key) if key is not None else ([], [])
    if not pairs:
        return
    if _lists_agree(values, path, report, pairs, "layer mapping"):
        _layers_fit(values, path, report, pairs, "MSE")


def groups_agree(values: Values, path: str, report: Report) -> None:
    """Lists that hold one for all, one for each group, or one for each pair."""
    if values.get("layer_mappings") is None:
        advice = "Write groups of layers, as in layer_mappings: [[[exit1, exit2], [head]]]"
        report.add(path, "has no layer_mappings, so no layer is compared", advice, of_key=True)
        return
    pairs, _ = layer_groups(values["layer_mappings"])
    if pairs and _lists_agree(values, path, report, pairs, "group"):
        _layers_fit(values, path, report, pairs, "CE")


def _layers_fit(values: Values, path: str, report: Report, pairs: list[LayerPair], default: str) -> None:
    """Each pair has as many layers a side as its loss compares."""
    given = values.get("loss_types") or default
    losses = given if isinstance(given, tuple) else (given,)
    for index, pair in enumerate(pairs):
        of_pair = losses[0 if len(losses) == 1 else index if len(losses) == len(pairs) else pair.entry]
        fault = layers_fault(of_pair if isinstance(of_pair, str) else next(iter(of_pair)), pair)
        if fault is not None:
            report.add(join(path, pair.path), *fault)


def _lists_agree(values: Values, path: str, report: Report, pairs: list[LayerPair], what: str) -> bool:
    entries, agree = pairs[-1].entry + 1, True
    for name in ("loss_types", "loss_weights", "feature_matchers"):
        given = values.get(name)
        if isinstance(given, tuple) and len(given) not in (1, entries, len(pairs)):
            counts = f"{entries} {what}s" if entries > 1 else f"1 {what}"
            counts += f" (which stand for {len(pairs)} pairs)" if len(pairs) != entries else ""
            report.add(join(path, name), f"expected one for each of the {counts}, got {len(given)}")
            agree = False
    return agree


_MAPPINGS = ("layer_mappings", "layer_mappings_for_knowledge_transfer")


def threads_agree(values: Values, path: str, report: Report) -> None:
    """``cores_per_instance`` is another word for ``intra_num_of_threads``."""
    cores, threads = values.get("cores_per_instance"), values.get("intra_num_of_threads")
    if cores is not None and threads is not None and cores != threads:
        message = f"{cores} contradicts intra_num_of_threads: {threads}"
        report.add(
            join(path, "cores_per_instance"), message, "Keep one of them; both mean the threads of an operation."
        )


def threads(*, cores_per_instance: int | None = None, **values: Any) -> ThreadSettings:
    """The threads during evaluation."""
    if values.get("intra_num_of_threads") is None:
        values["intra_num_of_threads"] = cores_per_instance
    return ThreadSettings(**values)


def metrics_agree(values: Values, path: str, report: Report) -> None:
    """As many weights and signs as metrics, and a weight that counts."""
    names = [named.name for named in values["rest"]]
    for key, what in (("weight", "weight"), ("higher_is_better", "boolean")):
        value = values.get(key)
        if isinstance(value, float):
            value = (value,)
        if isinstance(value, tuple) and len(value) != len(names):
            message = f"expected one {what} for each metric ({', '.join(names)}), got {len(value)}"
            report.add(join(path, key), message)
        elif key == "weight" and value is not None and not any(value):
            report.add(join(path, key), "every weight is 0, so nothing would be measured", "Write one above 0.")


def metrics(
    *,
    rest: tuple[Named, ...],
    weight: tuple[float, ...] | float | None = None,
    higher_is_better: tuple[bool, ...] | bool | None = None,
) -> tuple[MetricSettings, ...]:
    """The metrics of ``multi_metrics``."""
    weights = weight if isinstance(weight, tuple) else (1.0 if weight is None else weight,) * len(rest)
    signs = higher_is_better if isinstance(higher_is_better, tuple) else (higher_is_better,) * len(rest)
    return tuple(map(MetricSettings, rest, weights, signs))


def one_kind_of_metrics(values: Values, path: str, report: Report) -> None:
    """Either ``metric`` or ``multi_metrics``."""
    if values.get("metric") is not None and values.get("multi_metrics") is not None:
        message = "stands beside metric, and only one of them can be meant"
        report.add(join(path, "multi_metrics"), message, "Move the metric into multi_metrics.", of_key=True)


def accuracy(
    *, metric: Named | None = None, multi_metrics: tuple[MetricSettings, ...] | None = None, **values: Any
) -> EvaluationSettings:
    """The settings of an evaluation."""
    if metric is not None:
        values["metrics"] = (MetricSettings(metric),)
    elif multi_metrics is not None:
        values["metrics"] = multi_metrics
    return EvaluationSettings(**values)


def tuning(*, workspace: Values | None = None, **values: Any) -> TuningSettings:
    """The settings of the seed and the run's folder."""
    folder = workspace or {}
    return TuningSettings(workspace=folder.get("path"), resume=folder.get("resume", False), **values)
