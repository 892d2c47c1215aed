"""Losses between what transformers attend to: attention maps and relations of values.

Shapes: attention [N, heads, T, T] (queries, then keys), values [N, heads, T, d] or [N, T, D]; `mask`
[N, T] says which tokens are not padding, for queries and for keys. Student and teacher have the same
number of heads and tokens.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhooks.errors import ModelError
from kdhooks.losses import shapes
from kdhooks.torch.losses.features import check_fit, in_full_precision
from kdhooks.torch.losses.positions import mean
from kdhooks.torch.losses.table import on_features

_NOWHERE = -1e30  # a score that no query attends to, also where the model says -inf


@on_features("attention_kl")
@in_full_precision
def attention_kl(
    student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None, scores: bool = False
) -> Tensor:
    """KL(A_teacher || A_student) of attention over keys; mean over batch, heads and queries that count.

    Wang et al. 2020, "MiniLM", equation 6. TinyBERT's own loss on attention scores is their mean
    squared error (Jiao et al. 2020, equation 7): ``MSE``.

    Args:
        student_feature: [N, heads, T, T] attention probabilities, as transformers return them.
        teacher_feature: of the same shape.
        mask: [N, T], tokens that count.
        scores: what is given are scores before the softmax (-inf where nothing may attend).
    """
    check_fit(
        "attention_kl",
        student_feature,
        teacher_feature,
        student_feature.shape == teacher_feature.shape and student_feature.ndim == 4,
        "attention [N, heads, T, T] of one shape",
    )
    pairs = None if mask is None else _pairs(student_feature, mask)
    log_q, log_p = (_log_attention(one, pairs, scores) for one in (student_feature, teacher_feature))
    return _divergence(log_q, log_p, mask, pairs)


@on_features("value_relation")
@in_full_precision
def value_relation(
    student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None, heads: int | None = None
) -> Tensor:
    """KL(R_teacher || R_student) with R = softmax(V Vᵀ / √d); mean over batch, heads and queries that count.

    Wang et al. 2020, "MiniLM", equations 8 to 10; with `heads` as relation heads, MiniLMv2.

    Args:
        student_feature: values [N, heads, T, d], or hidden values [N, T, D] that `heads` divides.
        teacher_feature: the same with any width.
        mask: [N, T], tokens that count.
        heads: for [N, T, D]: how many heads to split it into; None is one.
    """
    student, teacher = _by_heads(student_feature, heads), _by_heads(teacher_feature, heads)
    same = student.shape[:3] == teacher.shape[:3]
    check_fit("value_relation", student_feature, teacher_feature, same, "values of one batch, heads and tokens")
    pairs = None
    if mask is not None:
        tokens = _tokens(student, mask, student.shape[2])[:, None, :, None]
        student, teacher = student.where(tokens, 0.0), teacher.where(tokens, 0.0)
        pairs = tokens & tokens.mT
    log_q, log_p = (
        _log_attention(one @ one.mT / math.sqrt(one.shape[3]), pairs, scores=True) for one in (student, teacher)
    )
    return _divergence(log_q, log_p, mask, pairs)


def _by_heads(values: Tensor, heads: int | None) -> Tensor:
    """[N, heads, T, d] of values."""
    if values.ndim == 4:
        return values
    heads = heads or 1
    if values.ndim != 3 or values.shape[2] % heads:
        raise ModelError(
            f"the loss 'value_relation' needs values [N, heads, T, d], or [N, T, D] with D divisible by heads={heads}; "
            f"a feature has shape {list(values.shape)}"
        )
    by_heads: Tensor = values.unflatten(2, (heads, -1)).transpose(1, 2)
    return by_heads


def _log_attention(attention: Tensor, pairs: Tensor | None, scores: bool) -> Tensor:
    """Log-probabilities over the keys that count; those that don't are at `_NOWHERE`."""
    if scores:
        attention = attention.clamp(min=_NOWHERE)
        return (attention if pairs is None else attention.where(pairs, _NOWHERE)).log_softmax(-1)
    if pairs is not None:  # blanked before the logarithm, whose slope at 0 is infinite
        attention = attention.where(pairs, 1.0)
    logs = attention.clamp(min=torch.finfo(attention.dtype).eps).log()
    return logs if pairs is None else logs.where(pairs, _NOWHERE)


def _pairs(attention: Tensor, mask: Tensor) -> Tensor:
    """[N, 1, T, T]: a query that counts and a key that counts."""
    tokens = _tokens(attention, mask, attention.shape[3])[:, None, :, None]
    return tokens & tokens.mT


def _tokens(feature: Tensor, mask: Tensor, tokens: int) -> Tensor:
    expected = [feature.shape[0], tokens]
    shapes.check_tokens(mask.shape, expected)
    return mask.to(feature.device, torch.bool)


def _divergence(log_q: Tensor, log_p: Tensor, mask: Tensor | None, pairs: Tensor | None) -> Tensor:
    """Sum over keys, mean over batch, heads and queries."""
    distance = F.kl_div(log_q, log_p, reduction="none", log_target=True)
    if mask is None or pairs is None:
        return mean(distance, None, -1)
    queries = mask.to(log_q.device, torch.bool).sum() * log_q.shape[1]
    return distance.where(pairs, 0.0).sum() / queries.clamp(min=1)
