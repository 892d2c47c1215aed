"""Arithmetic between parameters: held against Python's own, and what it refuses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdhooks.config.formulas import FormulaError, compared, formula, remainder
from kdhooks.config.search_settings import Relation
from kdhooks.errors import UsageError

VALUES = {"a": 7, "b_2": 0.25, "c.d": -3, "zero": 0}


def tree(leaf):
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(
                lambda one: f"({one[0]} {one[1]} {one[2]})"
            ),
            inner.map(lambda one: f"-{one}"),
        ),
        max_leaves=12,
    )


@given(tree(st.sampled_from(["a", "b_2", "zero", "3", "0.5", "10e2", "1_000"])))
def test_it_computes_what_python_does(text):
    try:
        right = eval(text, {}, dict(VALUES))  # of names and numbers that stand above
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            formula(text).value(VALUES)
        return
    found = formula(text).value(VALUES)
    assert math.isclose(found, right, rel_tol=1e-6, abs_tol=1e-6) or "%" in text


@given(st.text(alphabet="ab1.0e+-*/%() _<=&[]'\"", max_size=30))
def test_any_text_is_a_formula_or_a_formula_error(text):
    try:
        formula(text)
    except FormulaError as error:
        assert error.message.startswith(f"in {text!r}: ")


def test_names_may_have_points_and_are_told_once():
    found = formula("c.d * a - c.d")
    assert found.names == ("c.d", "a") and found.value(VALUES) == -18
    assert isinstance(formula("a // 2").value(VALUES), int)


@pytest.mark.parametrize(
    ("left", "comparison", "right", "holds"),
    [
        (0.1 + 0.2, "==", 0.3, True),
        (0.1 + 0.2, "!=", 0.3, False),
        (0.1 + 0.2, "<=", 0.3, True),
        (0.1 + 0.2, ">", 0.3, False),
        (10**15, "==", 10**15 + 1, False),
        (2, "<", 3, True),
        (3, ">=", 3, True),
    ],
)
def test_numbers_with_a_point_are_equal_where_nearly_so(left, comparison, right, holds):
    assert compared(left, comparison, right) is holds


def test_a_remainder_forgets_rounding():
    assert remainder(0.3, 0.1) == remainder(0.6, 0.2) == 0.0
    assert remainder(0.35, 0.1) == pytest.approx(0.05)
    assert remainder(7, 3) == 1 and isinstance(remainder(7, 3), int)


def test_a_relation_holds_or_not():
    even = Relation("hidden % heads", "==", "0", "hidden % heads == 0")
    assert even.holds({"hidden": 128, "heads": 4, "other": "x"})
    assert not even.holds({"hidden": 128, "heads": 6})
    assert not even.holds({"hidden": 128, "heads": 0})  # divides by zero
    assert even.holds({"hidden": 128})  # no such parameter in this branch of the space
    assert not Relation("1e300 * a * a", "<", "5", "").holds({"a": 1e300})
    with pytest.raises(UsageError) as caught:
        even.holds({"hidden": "wide", "heads": 1})
    assert str(caught.value) == "'hidden % heads' computes with hidden, whose value is 'wide' and no number"
