"""Every loss of the table on inputs that are saturated, zero, alike or alone, in every precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.contract import feature_oracle as oracle
from tests.contract.backends import ContractBackend, as_list, each
from tests.contract.feature_cases import CASES, LOGITS, MODULES, NEEDS_TARGET, Shapes, drawn
from tests.contract.oracle import ROWS

LARGEST = {"float32": 2.0**127, "bfloat16": 2.0**127, "float16": 65504.0}
ON_LOGITS = sorted((set(ROWS) | set(LOGITS)) - set(CASES))
ON_FEATURES = sorted(CASES)
FILLS = ["large", "zeros", "same rows", "one sample", "opposite"]


def first_case(name: str) -> tuple[Shapes, Shapes, dict[str, Any]]:
    return {**CASES, **MODULES}[name][0] if name not in ON_LOGITS else ((6, 5), (6, 5), {})


def filled(shape: Shapes, fill: str, seed: int, name: str) -> Any:
    if isinstance(shape, list):
        return [filled(one, fill, seed + i, name) for i, one in enumerate(shape)]
    shape = (1, *shape[1:]) if fill == "one sample" else shape
    signs = np.sign(np.random.default_rng(seed).normal(size=shape))
    if name == "attention_kl":
        return {"zeros": np.zeros(shape)}.get(fill, oracle.softmax(1e4 * signs * np.arange(1, shape[-1] + 1)))
    if fill == "zeros":
        return np.zeros(shape)
    if fill == "same rows":
        return np.broadcast_to(signs[:1] * 1e4, shape).copy()
    if fill == "opposite":
        return np.full(shape, 1e4 if seed % 2 else -1e4)
    return signs * 1e4


def run(
    backend: ContractBackend, name: str, student: Any, teacher: Any, dtype: str, options: dict[str, Any]
) -> tuple[float, Any]:
    """Value and gradient of any loss of the table; one with parameters is made anew."""
    if name in MODULES:
        shapes = (each(one, lambda feature: feature.shape) for one in (student, teacher))
        return backend.module(name, *shapes, **options).run(student, teacher, dtype)
    if name in ON_FEATURES:
        return backend.feature(name, student, teacher, dtype=dtype, **options)
    target = np.arange(len(student)) % 5 if name in NEEDS_TARGET else None
    return backend.loss(name, student, teacher, temperature=2.0, target=target, dtype=dtype, **options)


def every_convention() -> list[Any]:
    found = []
    for name in [*ON_LOGITS, *ON_FEATURES, *sorted(MODULES)]:
        cases = {**CASES, **MODULES}[name] if name not in ON_LOGITS else [(None, None, {})]
        conventions = {case[2].get("convention", "paper") for case in cases}
        found += [pytest.param(name, one, id=f"{name}-{one}") for one in sorted(conventions)]
    return found


def test_every_loss_is_tried(backend: ContractBackend) -> None:
    assert {*ON_LOGITS, *ON_FEATURES, *MODULES} == set(backend.kinds())


@pytest.mark.parametrize(("name", "convention"), every_convention())
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_saturated_features_and_logits_stay_finite(
    backend: ContractBackend, name: str, convention: str, fill: str, dtype: str
) -> None:
    student_shape, teacher_shape, options = first_case(name)
    options = {key: value for key, value in options.items() if key != "convention"}
    if convention == "common":
        options["convention"] = convention
    student, teacher = filled(student_shape, fill, 1, name), filled(teacher_shape, fill, 2, name)
    value, gradient = run(backend, name, student, teacher, dtype, options)
    expected, slope = run(backend, name, student, teacher, "float64", options)
    assert math.isfinite(value) and math.isfinite(expected)
    for ours, theirs in zip(as_list(gradient), as_list(slope), strict=True):
        assert np.isfinite(theirs).all()
        fits = np.abs(theirs) < LARGEST[dtype] / 2  # some squares of 1e4 have slopes that fp16 hasn't
        assert np.isfinite(ours[fits]).all()


@pytest.mark.parametrize("name", [*ON_LOGITS, *ON_FEATURES, *sorted(MODULES)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_as_float32(backend: ContractBackend, name: str, dtype: str) -> None:
    student_shape, teacher_shape, options = first_case(name)
    student, teacher = (
        each(drawn(shape, seed, name), lambda one: backend.round(one, dtype))
        for seed, shape in ((1, student_shape), (2, teacher_shape))
    )
    half, slope = run(backend, name, student, teacher, dtype, options)
    expected, wider = run(backend, name, student, teacher, "float32", options)
    assert half == expected
    for ours, theirs in zip(as_list(slope), as_list(wider), strict=True):
        np.testing.assert_array_equal(ours, backend.round(theirs, dtype))


def test_saturated_decoupled_distillation_keeps_its_value(backend: ContractBackend) -> None:
    """A student that is certain of a wrong class: no logarithm of a probability that rounded to 0."""
    student, teacher = np.array([[1e4, -1e4, 0.0]]), np.array([[-1e4, 1e4, 0.0]])
    value = backend.loss("dkd", student, teacher, target=np.array([1]), dtype="float16")[0]
    assert value == pytest.approx(2e4 + 8 * 1e4, rel=1e-6)
