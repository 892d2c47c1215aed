"""The formulas of the losses that own parameters or memory, in NumPy, from their parameters by name.

`numbers` holds what a module's ``state_dict`` does, as arrays of one dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.contract.feature_oracle import channels_last, norm, pooled
from tests.contract.oracle import Array

Numbers = dict[str, Array]


def relu(x: Array) -> Array:
    return np.where(x > 0, x, x.dtype.type(0))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def convolved(x: Array, weight: Array, bias: Array | None) -> Array:
    """A convolution [N, C, H, W] that keeps the space, padded with zeros."""
    size = weight.shape[2]
    edge = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    height, width = x.shape[2:]
    result = np.zeros((len(x), len(weight), height, width), x.dtype)
    for i in range(size):
        for j in range(size):
            result += np.einsum("nchw,oc->nohw", padded[:, :, i : i + height, j : j + width], weight[:, :, i, j])
    return result if bias is None else result + bias[None, :, None, None]


def vid(numbers: Numbers, student: Array, teacher: Array, eps: float = 1e-5, convention: str = "paper") -> Any:
    x = channels_last(student)
    for layer in (0, 2, 4):
        x = x @ numbers[f"regressor.{layer}.weight"].T + numbers[f"regressor.{layer}.bias"]
        x = relu(x) if layer < 4 else x
    variance = np.log1p(np.exp(numbers["raw_variance"])) + eps
    cost = np.log(np.sqrt(variance)) + (channels_last(teacher) - x) ** 2 / (2 * variance)
    return cost.sum() / len(cost) if convention == "paper" else cost.mean()


def mgd(numbers: Numbers, student: Array, teacher: Array, mask: Array, convention: str = "paper") -> Any:
    x = student
    if "align.weight" in numbers:
        x = convolved(x, numbers["align.weight"], numbers["align.bias"])
    x = relu(convolved(x * mask, numbers["generation.0.weight"], numbers["generation.0.bias"]))
    squared = (teacher - convolved(x, numbers["generation.2.weight"], numbers["generation.2.bias"])) ** 2
    return squared.sum() / len(squared) if convention == "paper" else squared.mean()


def normalised(x: Array, numbers: Numbers, name: str) -> Array:
    """BatchNorm in training."""
    mean, variance = (reduce(x, axis=(0, 2, 3), keepdims=True) for reduce in (np.mean, np.var))
    weight, bias = (numbers[f"{name}.{part}"][None, :, None, None] for part in ("weight", "bias"))
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def nearest(x: Array, height: int, width: int) -> Array:
    i, j = (np.arange(new) * old // new for new, old in ((height, x.shape[2]), (width, x.shape[3])))
    return x[:, :, i][:, :, :, j]


def averaged(x: Array, size: int) -> Array:
    n, c, h, w = x.shape
    return x.reshape(n, c, size, h // size, size, w // size).mean((3, 5))


def review(numbers: Numbers, student: list[Array], teacher: list[Array]) -> Any:
    total, deeper = student[0].dtype.type(0), None
    for level in reversed(range(len(student))):
        name = f"fusions.{level}"
        x = normalised(convolved(student[level], numbers[f"{name}.enter.0.weight"], None), numbers, f"{name}.enter.1")
        if deeper is not None:
            deeper = nearest(deeper, *x.shape[2:])
            both = np.concatenate([x, deeper], 1)
            share = sigmoid(convolved(both, numbers[f"{name}.attention.0.weight"], numbers[f"{name}.attention.0.bias"]))
            x = x * share[:, :1] + deeper * share[:, 1:]
        theirs = teacher[level]
        x = deeper = nearest(x, *theirs.shape[2:])
        x = normalised(convolved(x, numbers[f"{name}.leave.0.weight"], None), numbers, f"{name}.leave.1")
        weights, values = [1.0], [((x - theirs) ** 2).mean()]
        for size in (4, 2, 1):
            if size < x.shape[2]:
                weights.append(weights[-1] / 2)
                values.append(((averaged(x, size) - averaged(theirs, size)) ** 2).mean())
        total += sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    return total


def crd(
    numbers: Numbers,
    student: Array,
    teacher: Array,
    negatives: Array,
    temperature: float = 0.07,
    convention: str = "paper",
    log_constants: list[Any] | None = None,
) -> Any:
    """`negatives` are rows of the memory [N, K]; `log_constants` those of both sides, once they are known."""
    embedded = crd_embedded(numbers, student, teacher)
    constants = log_constants or crd_log_constants(numbers, embedded, negatives, temperature)
    total = student.dtype.type(0)
    share = negatives.shape[1] / len(numbers["student_memory"])
    for side, (anchors, memory) in enumerate(
        ((embedded[0], numbers["teacher_memory"]), (embedded[1], numbers["student_memory"]))
    ):
        constant = np.exp(constants[side]) if convention == "common" else 1.0
        for i, anchor in enumerate(anchors):
            positive = np.exp(embedded[0][i] @ embedded[1][i] / temperature) / constant
            total -= np.log(positive / (positive + share))
            for row in negatives[i]:
                score = np.exp(anchor @ memory[row] / temperature) / constant
                total -= np.log(1 - score / (score + share))
    return total / len(student)


def crd_embedded(numbers: Numbers, student: Array, teacher: Array) -> list[Array]:
    """Unit embeddings [N, width] of both features."""
    embedded = []
    for side, feature in (("student", student), ("teacher", teacher)):
        pooled_feature = feature.reshape(*feature.shape[:2], -1).mean(2) if feature.ndim >= 4 else feature
        pooled_feature = feature.mean(1) if feature.ndim == 3 else pooled_feature
        x = pooled_feature @ numbers[f"{side}_embedding.weight"].T + numbers[f"{side}_embedding.bias"]
        embedded.append(np.stack([one / norm(one) for one in x]))
    return embedded


def crd_log_constants(numbers: Numbers, embedded: list[Array], negatives: Array, temperature: float) -> list[Any]:
    """log(M times the mean of e^{s·t / τ}) over a batch's positives and negatives, for each side."""
    found = []
    for anchors, memory in ((embedded[0], numbers["teacher_memory"]), (embedded[1], numbers["student_memory"])):
        scores = [
            np.exp(np.concatenate([[embedded[0][i] @ embedded[1][i]], memory[negatives[i]] @ anchor]) / temperature)
            for i, anchor in enumerate(anchors)
        ]
        found.append(np.log(np.mean(scores) * len(memory)))
    return found


__all__ = ["convolved", "crd", "crd_embedded", "mgd", "pooled", "review", "vid"]
