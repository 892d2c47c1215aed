"""Findings about the batches: inputs, labels and their order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kdhooks.check.observation import Array, DataFacts, InputFacts, Observation
from kdhooks.check.report import Finding, Severity, some

_FEWEST = 16  # rows that an order can be seen in


def data_findings(seen: Observation) -> Iterator[Finding]:
    """Everything that the batches show."""
    data = seen.data
    if data.batches == 0:
        yield Finding(
            "error",
            "no data",
            "the dataloader has no batches",
            "a dataset smaller than batch_size with drop_last gives none",
        )
        return
    for tensor in data.inputs:
        yield from _input(tensor)
    own = [term for term in seen.terms if term.of_student]
    regression = any(term.name in ("MSE", "L1", "BCE") for term in own)
    yield from _labels(data, seen.student.classes, sum(term.weight for term in own), regression)
    yield from _order(data)
    if data.last_rows == 1 and seen.student.norms:
        layers = seen.student.vector_norms
        yield Finding(
            "warning",
            "last batch",
            f"the last batch of an epoch has a single row, and {layers[0] if layers else 'batch normalisation'} "
            + ("can't train on one" if layers else "takes its statistics from it alone"),
            "drop_last=True, or another batch_size",
        )


def _input(tensor: InputFacts) -> Iterator[Finding]:
    name = tensor.name
    if tensor.non_finite:
        numbers = ", ".join(map(str, tensor.non_finite[:4]))
        yield Finding(
            "error",
            "NaN",
            f"{name} holds NaN or infinite numbers in batch {numbers}",
            "clean the data: one of them spoils every weight",
        )
    image = len(tensor.shape) == 4 and tensor.dtype == "uint8"
    if not tensor.floating and not image:
        return
    described = (
        f"{name} ranges from {tensor.low:.3g} to {tensor.high:.3g} (mean {tensor.mean:.3g}, deviation {tensor.std:.3g})"
    )
    if tensor.low >= 0 and 50 < tensor.high <= 255:
        yield Finding(
            "warning",
            "normalisation",
            f"{described}: these look like pixels of 0-255",
            "divide by 255 and normalise as for the teacher's training",
        )
    elif tensor.std == 0:
        yield Finding(
            "warning", "normalisation", f"{name} is {tensor.mean:.3g} everywhere", "look at what the dataset returns"
        )
    elif tensor.std > 10 or tensor.std < 0.01 or abs(tensor.mean) > 5 * max(1.0, tensor.std):
        yield Finding(
            "warning",
            "normalisation",
            f"{described}, far from mean 0 and deviation 1",
            "normalise as for the teacher's training",
        )


def _labels(data: DataFacts, classes: int, weight: float, regression: bool) -> Iterator[Finding]:
    if not data.label_dtype:
        yield Finding("info", "labels", "the batches have no labels, so nothing here could be compared with them")
        return
    if data.soft_labels:
        yield Finding(
            "info",
            "labels",
            "the labels are distributions over the classes; accuracy is taken from the most probable one",
        )
    elif "float" in data.label_dtype:
        if regression:
            return
        yield Finding(
            "error",
            "labels",
            f"the labels are {data.label_dtype} of shape {list(data.label_shape)}",
            "class indices are integers: target.long()",
        )
        return
    if len(data.label_shape) == 2 and data.label_shape[1] == 1 and data.row_labels:
        yield Finding(
            "warning",
            "labels",
            f"the labels have shape {list(data.label_shape)}: cross-entropy wants one axis less than the logits",
            "target.squeeze(1)",
        )
    if data.labels_are_inputs:
        yield Finding(
            "info",
            "labels",
            "the labels are the input tokens: accuracy is taken for the next token, as causal language models do",
            "fit() shifts nothing: give it labels that are shifted by one",
        )
    labelled = data.labelled
    if len(labelled) == 0:
        severity: Severity = "warning" if weight else "info"
        yield Finding(
            severity,
            "labels",
            f"none of the {len(data.labels)} labels counts (all are {data.ignore_index}): the loss against the target "
            "is 0",
            "see that labelled samples come in every batch, or give the target's loss weight 0",
        )
        return
    if classes > 1:
        yield from _range(labelled, classes)
    if 0 < len(labelled) < len(data.labels):
        yield Finding(
            "info",
            "labels",
            f"{1 - len(labelled) / len(data.labels):.1%} of the labels are {data.ignore_index}, unlabelled; the "
            "teacher still teaches them",
        )


def _range(labelled: Array, classes: int) -> Iterator[Finding]:
    wrong = np.unique(labelled[(labelled < 0) | (labelled >= classes)])
    if not len(wrong):
        return
    from_one = labelled.min() == 1 and labelled.max() == classes
    yield Finding(
        "error",
        "labels",
        f"labels go from 0 to {classes - 1} for {classes} outputs, and here are {some(list(map(str, wrong)))}",
        "the labels count from 1: subtract 1"
        if from_one
        else "mark what has no label as -100, and see that the head has an output for every class",
    )


def _order(data: DataFacts) -> Iterator[Finding]:
    labels = data.labelled
    if data.row_labels and len(labels) >= _FEWEST:
        values, counts = np.unique(labels, return_counts=True)
        alike = float((labels[1:] == labels[:-1]).mean())
        by_chance = float(((counts / len(labels)) ** 2).sum())
        if len(values) == 1:
            yield _unshuffled(f"all {len(labels)} labels seen are {values[0]}")
        elif (np.diff(labels) >= 0).all():
            yield _unshuffled(f"the {len(labels)} labels seen come sorted")
        elif alike > 0.8 and by_chance < 0.5:
            yield _unshuffled(f"{alike:.0%} of neighbouring labels are equal, and {by_chance:.0%} would be by chance")
    if data.repeats and (data.steps is None or data.steps > 1):
        yield Finding(
            "info",
            "order",
            "a second pass over the data begins with the same batch: every epoch may have the same order",
        )


def _unshuffled(what: str) -> Finding:
    return Finding(
        "warning", "order", f"{what}: the data is not shuffled", "shuffle: true, or DataLoader(..., shuffle=True)"
    )
