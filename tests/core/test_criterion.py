"""Weighing and summing with plain numbers: no framework is needed to say what a total is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from kdhooks.criterion import Objective, Step, Term, as_criteria
from kdhooks.errors import ModelError, UsageError


@dataclass
class Fixed:
    """A criterion of numbers."""

    student_weight: Any = lambda step: 1.0
    terms: list[Term] = field(default_factory=list)
    student_label: str = "CE"


def term(name: str, weight: float | Any, value: Any) -> Term:
    return Term(
        name, weight if callable(weight) else lambda step: weight, value if callable(value) else lambda s: value
    )


def never(step: Step) -> Any:
    raise AssertionError("a term of weight 0 was computed")


def total(criteria: list[Fixed], loss: Any = 2.0, index: int = 0) -> tuple[Any, tuple[str, ...], list[Any]]:
    return Objective(criteria).total(Step(index, None, None), loss)


class Loss(float):
    """A number with an identity."""


def test_components_are_unweighted_and_the_total_is_last() -> None:
    criterion = Fixed(lambda step: 0.5, [term("KL", 3.0, 10.0), term("MSE", 1.0, 7.0)])
    assert total([criterion]) == (38.0, ("CE", "KL", "MSE", "total"), [2.0, 10.0, 7.0, 38.0])


def test_a_term_of_weight_zero_is_not_computed() -> None:
    criterion = Fixed(terms=[term("KL", 0.0, never), term("MSE", 0, never)])
    loss = Loss(2.0)
    found, names, values = total([criterion], loss)
    assert found is loss and values[-1] is loss
    assert names == ("CE", "total")


def test_the_students_weight_is_the_sum_over_criteria() -> None:
    loss = Loss(2.0)
    halves = [Fixed(lambda step: 0.25), Fixed(lambda step: 0.75)]
    assert total(halves, loss)[0] is loss
    assert total([*halves, Fixed(lambda step: 1.0)], loss)[0] == 4.0


def test_a_students_weight_of_zero_drops_even_infinity() -> None:
    assert total([Fixed(lambda step: 0.0, [term("KL", 2.0, 5.0)])], math.inf)[0] == 10.0


def test_with_everything_at_zero_there_is_still_a_total_of_the_students_graph() -> None:
    assert total([Fixed(lambda step: 0.0, [term("KL", 0.0, never)])]) == (0.0, ("CE", "total"), [2.0, 0.0])


def test_a_weight_of_one_adds_the_very_value() -> None:
    value = Loss(5.0)
    assert total([Fixed(lambda step: 0.0, [term("KL", 1.0, value)])])[0] is value


def test_weights_are_asked_for_their_step() -> None:
    criterion = Fixed(lambda step: 1.0, [term("KL", lambda step: step / 10, lambda step: step.index)])
    assert [total([criterion], index=index)[0] for index in (0, 5, 10)] == [2.0, 4.5, 12.0]


def test_names_are_made_unique() -> None:
    first = Fixed(terms=[term("KL", 1, 1), term("ce", 1, 1), term("kl", 1, 1), term("Total", 1, 1)])
    second = Fixed(terms=[term("KL", 1, 1)], student_label="another")
    assert total([first, second])[1] == ("CE", "KL", "ce.2", "kl.2", "Total.2", "KL.3", "total")


def test_no_criterion_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Objective([])
    assert str(caught.value) == "there is no criterion: set one, or leave it to the configuration"


def test_as_criteria_takes_one_or_several() -> None:
    one, other = Fixed(), Fixed()
    assert as_criteria(one) == (one,)
    assert as_criteria([one, other]) == as_criteria((one, other)) == (one, other)


def test_as_criteria_refuses_a_loss_function() -> None:
    with pytest.raises(ModelError) as caught:
        as_criteria([Fixed(), math.sqrt])
    assert str(caught.value) == (
        "builtin_function_or_method is no distillation criterion: it has no student_label, student_weight and terms. "
        "The loss against the target is the loop's own and is handed to on_after_compute_loss"
    )


# ---- teachers of a step ----------------------------------------------------------------------------


class HasLogits:
    logits = 1


class MappingWithLogits(dict):  # type: ignore[type-arg]
    """A mapping that is also an object, as transformers' outputs are."""


@pytest.mark.parametrize(
    ("given", "keys", "names"),
    [
        ("anything", (), ("teacher",)),
        (None, (), ("teacher",)),
        (HasLogits(), (), ("teacher",)),
        (("logits", "features"), (), ("teacher",)),
        (["one"], (), ("teacher0",)),
        (["one", "two"], (), ("teacher0", "teacher1")),
        ({"a": 1, "b": 2}, (), ("a", "b")),
        ({"logits": 1, "b": 2}, (), ("teacher",)),
        (MappingWithLogits(logits=1), (), ("teacher",)),
        ({"out": 1, "aux": 2}, ("out",), ("teacher",)),
        ({"out": 1, "aux": 2}, ("other",), ("out", "aux")),
    ],
)
def test_names_of_teachers_without_models(given: Any, keys: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert Step(0, None, None, given).names(keys) == names


@pytest.mark.parametrize(
    ("given", "name", "output"),
    [
        ("said", "teacher", "said"),
        (("said", "more"), "teacher", ("said", "more")),
        (["one", "two"], "teacher1", "two"),
        ({"a": 1, "b": 2}, "b", 2),
        ({"out": 1, "aux": 2}, "teacher", {"out": 1, "aux": 2}),
    ],
)
def test_outputs_handed_in_without_models(given: Any, name: str, output: Any) -> None:
    assert Step(0, None, None, given).teacher(name) == output


def test_a_teacher_runs_once_and_on_its_own_input() -> None:
    seen: list[Any] = []

    def teacher(value: Any, step: Step) -> str:
        seen.append((value, step.index))
        return "said"

    step = Step(0, "input", None, teachers={"a": teacher, "b": teacher})
    assert step.names() == ("a", "b")
    assert [step.teacher("a"), step.teacher("a")] == ["said", "said"]
    assert Step(1, "input", None, teacher_input="other", teachers={"a": teacher}).teacher("a") == "said"
    assert seen == [("input", 0), ("other", 1)]


def test_outputs_for_some_teachers_only() -> None:
    step = Step(0, "input", None, {"a": 1}, teachers={"a": never, "b": never})
    assert step.teacher("a") == 1
    with pytest.raises(UsageError) as caught:
        step.teacher("b")
    assert str(caught.value) == (
        "teacher_output must hold one output for each of the 2 teachers (a, b), "
        "as a list in this order or as a mapping by name"
    )


def test_no_teacher_at_all() -> None:
    with pytest.raises(UsageError) as caught:
        Step(0, "input", None).teacher("teacher")
    assert str(caught.value) == (
        "there is no teacher: set teacher_model, or hand teacher_output to on_after_compute_loss"
    )
