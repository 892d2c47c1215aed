"""Autocast changes no loss: what is compared is computed in float32 or wider."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from kdhooks.torch.losses import LOSSES, build_feature_loss, logit_loss, loss_kind
from tests.contract.feature_cases import CASES, MODULES, NEEDS_TARGET, drawn


def tensors(features: Any) -> Any:
    if isinstance(features, list):
        return [tensors(one) for one in features]
    return torch.tensor(features).to(torch.bfloat16)


def wider(features: Any) -> Any:
    return [one.float() for one in features] if isinstance(features, list) else features.float()


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"crd", "mgd"}))
def test_autocast_and_half_precision_compute_as_float32(name: str) -> None:
    feature = loss_kind(name) == "feature"
    student_shape, teacher_shape, options = {**CASES, **MODULES}[name][0] if feature else ((6, 5), (6, 5), {})
    target = torch.arange(6) % 5 if name in NEEDS_TARGET else None
    loss: Any = build_feature_loss(name, student_shape, teacher_shape, **options) if feature else None
    if loss is None:
        loss = lambda s, t: logit_loss(name)(s, t, temperature=2.0, target=target)  # noqa: E731
    student, teacher = tensors(drawn(student_shape, 1, name)), tensors(drawn(teacher_shape, 2, name))
    wide = wider(student), wider(teacher)
    expected = copy.deepcopy(loss)(*wide)
    with torch.autocast("cpu", torch.bfloat16):
        inside = copy.deepcopy(loss)(*wide)
    half = loss(student, teacher)
    assert torch.equal(inside, expected) and torch.equal(half, expected)
    assert inside.dtype == half.dtype == torch.float32
