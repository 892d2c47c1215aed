"""Every loss that `test_losses` doesn't hold, against NumPy oracles in value and gradient.

A loss of the table without a case here fails `test_every_loss_has_an_oracle`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.contract import feature_oracle as oracle
from tests.contract import feature_oracle_modules as module_oracle
from tests.contract import oracle as logit_oracle
from tests.contract.backends import Array, ContractBackend, ContractModule, Features, as_list, wide
from tests.contract.feature_cases import (
    CASES,
    LOGITS,
    MODULES,
    NEEDS_TARGET,
    drawn,
    labelled,
    of_features,
    of_modules,
)
from tests.contract.feature_oracle_logits import LOGIT_VALUES


def slopes(value: Callable[[Any], Any], student: Features) -> Any:
    """The oracle's gradients in longdouble."""
    at = wide(student)
    if not isinstance(at, list):
        return oracle.slope(value, at)
    return [
        oracle.slope(lambda moved, here=here: value([*at[:here], moved, *at[here + 1 :]]), at[here])  # type: ignore[misc]
        for here in range(len(at))
    ]


def same(found: Any, expected: Any) -> None:
    for ours, theirs in zip(as_list(found), as_list(expected), strict=True):
        np.testing.assert_allclose(ours, np.asarray(theirs, np.float64), rtol=1e-8, atol=1e-9)


def test_every_loss_has_an_oracle(backend: ContractBackend) -> None:
    held = set(logit_oracle.ROWS) | set(LOGIT_VALUES) | set(oracle.VALUES) | set(MODULES)
    assert held == set(backend.kinds())
    assert set(CASES) == set(oracle.VALUES)
    assert set(LOGITS) == set(LOGIT_VALUES)


@functools.cache
def expected_feature(name: str, case: int) -> tuple[float, Any]:
    """The oracle's value and gradient, once for all backends."""
    student_shape, teacher_shape, options = CASES[name][case]
    student, teacher = drawn(student_shape, 1, name), drawn(teacher_shape, 2, name)
    fixed: dict[str, Any] = {}
    if name == "nst" and options.get("kernel") == "gaussian":
        fixed["variances"] = oracle.nst_variances(student, teacher)  # constant for the gradient

    def value(at: Any) -> Any:
        return oracle.VALUES[name](at, wide(teacher), **options, **fixed)

    return float(value(wide(student))), slopes(value, student)


@of_features
def test_a_feature_loss_and_its_gradient(backend: ContractBackend, name: str, case: int) -> None:
    student_shape, teacher_shape, options = CASES[name][case]
    student, teacher = drawn(student_shape, 1, name), drawn(teacher_shape, 2, name)
    value, gradient = backend.feature(name, student, teacher, **options)
    expected, slope = expected_feature(name, case)
    assert value == pytest.approx(expected, rel=1e-10, abs=1e-12)
    same(gradient, slope)


def module_value(
    name: str, module: ContractModule, options: dict[str, Any], student: Any, teacher: Any
) -> Callable[..., Any]:
    """The oracle of a module at this step, as a function of its numbers and the student's feature."""
    convention = options.get("convention", "paper")
    if name == "vid":
        return lambda numbers, at: module_oracle.vid(numbers, at, wide(teacher), convention=convention)
    if name == "mgd":
        mask = module.mask(student, teacher)
        return lambda numbers, at: module_oracle.mgd(numbers, at, wide(teacher), mask, convention)
    if name == "review":
        several = as_list(wide(teacher))
        return lambda numbers, at: module_oracle.review(numbers, as_list(at), several)
    negatives, numbers = module.negatives(student), module.numbers
    embedded = module_oracle.crd_embedded(numbers, student, teacher)
    constants = module_oracle.crd_log_constants(numbers, embedded, negatives, 0.07)
    return lambda numbers, at: module_oracle.crd(
        numbers, at, wide(teacher), negatives, convention=convention, log_constants=constants
    )


@of_modules
def test_a_module_its_gradient_and_that_of_its_parameters(backend: ContractBackend, name: str, case: int) -> None:
    student_shape, teacher_shape, options = MODULES[name][case]
    student, teacher = drawn(student_shape, 1), drawn(teacher_shape, 2)
    module, again = (backend.module(name, student_shape, teacher_shape, **options) for _ in range(2))
    numbers = {key: wide(one) for key, one in module.numbers.items()}
    of = module_value(name, module, options, student, teacher)
    value, gradient = module.run(student, teacher)
    assert value == pytest.approx(float(of(numbers, wide(student))), rel=1e-10)
    same(gradient, slopes(lambda at: of(numbers, at), student))
    for key, found in again.slopes(student, teacher).items():
        if found.size > 60:  # the small ones say enough about their kind; each takes its size in values
            continue
        moved = oracle.slope(lambda at, key=key: of({**numbers, key: at}, wide(student)), numbers[key])  # type: ignore[misc]
        np.testing.assert_allclose(found, np.asarray(moved, np.float64), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in LOGITS.items() for case in range(len(cases))]
)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
@pytest.mark.parametrize(("shape", "axis"), [((6, 5), -1), ((2, 4, 5), -1), ((2, 5, 2, 2), 1)])
def test_a_logit_loss_and_its_gradient(
    backend: ContractBackend, name: str, case: int, temperature: float, shape: tuple[int, ...], axis: int
) -> None:
    options = LOGITS[name][case]
    student, teacher = drawn(shape, 1) * 2, drawn(shape, 2) * 2
    positions = tuple(np.delete(shape, axis))
    mask = np.random.default_rng(3).random(positions) < 0.8
    labels = labelled(positions, 5)
    keywords = {"temperature": temperature, "mask": mask, "axis": axis, **options}
    if name in NEEDS_TARGET:
        keywords["target"] = labels
    value, gradient = backend.loss(name, student, teacher, **keywords)
    counted = mask & (labels >= 0) if name in NEEDS_TARGET else mask
    assert 2 < counted.sum() < counted.size
    rows = [np.moveaxis(one, axis, -1).astype(np.longdouble)[counted] for one in (student, teacher)]

    def expected(at: Array) -> Any:
        return LOGIT_VALUES[name](at, rows[1], labels[counted], temperature, **options)

    assert value == pytest.approx(float(expected(rows[0])), rel=1e-10)
    found = np.moveaxis(gradient, axis, -1)
    same(found[counted], oracle.slope(expected, rows[0]))
    assert not found[~counted].any()


def test_all_pairs_of_shapes_are_used() -> None:
    """The cases have every number of axes that a docstring names."""
    ranks = {name: {len(case[0]) for case in cases if isinstance(case[0], tuple)} for name, cases in CASES.items()}
    assert set(itertools.chain(*ranks.values())) == {2, 3, 4}
