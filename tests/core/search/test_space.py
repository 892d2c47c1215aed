"""The search space: what belongs to it, how it is counted, told apart and encoded."""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdhooks.config.search_settings import Choices, Dimension, Range, Relation, When
from kdhooks.errors import UsageError
from kdhooks.search.proposals.space import Space
from tests.core.search.searches import space

NAMES = ("a", "b", "c", "d")


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Small spaces of all kinds of dimensions, with conditions and a relation."""
    kinds = draw(st.lists(st.sampled_from(["numbers", "texts", "range", "log", "steps"]), min_size=1, max_size=4))
    dimensions: list[Dimension] = []
    for name, kind in zip(NAMES, kinds, strict=False):
        when: tuple[When, ...] = ()
        if dimensions and draw(st.booleans()):
            other = dimensions[draw(st.integers(0, len(dimensions) - 1))]
            values = Space([replace(other, when=())]).axes[other.name].values
            when = (When(other.name, (values[draw(st.integers(0, len(values) - 1))],)),)
        dimensions.append(
            {
                "numbers": Choices(name, (4, 1, 2.5), when),
                "texts": Choices(name, ("x", True, None, 1), when),
                "range": Range(name, 2, 8, 3, when=when),
                "log": Range(name, 1, 4, log=True, when=when),
                "steps": Range(name, 0.1, 0.3, 0.1, integer=False, when=when),
            }[kind]
        )
    numbers = [one.name for one, kind in zip(dimensions, kinds, strict=False) if kind != "texts"]
    relations = []
    if len(numbers) > 1 and draw(st.booleans()):
        relations = [Relation(f"{numbers[0]} * 2", "<=", f"{numbers[1]} + 3", "related")]
    return Space(dimensions, relations)


@given(spaces())
@settings(max_examples=80)
def test_points_are_all_architectures_once(some: Space) -> None:
    """Against a plain product of all values, from which what conditions and relations forbid is taken."""
    points = list(some.points())
    keys = [some.key(point) for point in points]
    assert len(set(keys)) == len(keys) == some.size()
    expected = set()
    for values in itertools.product(*(some.axes[name].values for name in some.names)):
        arch: dict[str, Any] = {}
        for dimension, value in zip(some.dimensions, values, strict=True):
            fits = [(one.name in arch and (arch[one.name], type(arch[one.name]) is bool)) for one in dimension.when]
            wanted = [[(value, type(value) is bool) for value in one.values] for one in dimension.when]
            if all(have in want for have, want in zip(fits, wanted, strict=True)):
                arch[dimension.name] = value
        if some.keeps_relations(arch):
            expected.add(some.key(arch))
    assert set(keys) == expected


@given(spaces(), st.integers(0, 1000))
@settings(max_examples=80)
def test_a_code_stands_for_its_architecture(some: Space, seed: int) -> None:
    generator = random.Random(seed)
    for arch in [*some.points(), some.draw(generator)]:
        code = some.encode(arch)
        assert list(code) == list(some.names)
        assert some.decode(code) == arch
        assert some.key(json.loads(json.dumps(arch))) == some.key(arch)
        assert some.distance(arch, arch) == 0.0
        if some.keeps_relations(arch):
            assert some.check(arch) == arch


def test_the_size_counts_conditions_and_relations() -> None:
    assert space().size() == len(list(space().points())) == 170
    assert Space([Range("width", 1, 10**4), Range("depth", 1, 100)]).size() == 10**6
    assert Space([Range("width", 1, 10**4), Range("depth", 1, 101)]).size() is None
    assert Space([Range("rate", 0.0, 1.0, integer=False)]).size() is None
    wide = Space([Range("width", 1, 10**9), Range("depth", 1, 10**9)], [Relation("width", ">", "depth", "w > d")])
    assert wide.size() is None
    assert wide.exceeds(100)


def test_the_product_order() -> None:
    some = Space([Choices("width", (16, 8)), Choices("block", ("conv", "dense"))])
    assert [tuple(point.values()) for point in some.points()] == [
        (16, "conv"),
        (16, "dense"),
        (8, "conv"),
        (8, "dense"),
    ]


def test_numbers_have_an_order_and_texts_have_none() -> None:
    """Numbers are coded by their rank, whatever their order in the file."""
    some = Space([Choices("width", (512, 128, 384)), Choices("block", ("conv", "dense"))])
    assert [some.encode({"width": width, "block": "conv"})["width"] for width in (128, 384, 512)] == [0, 1, 2]
    assert some.distance({"width": 128, "block": "conv"}, {"width": 384, "block": "conv"}) == 0.25
    assert some.distance({"width": 128, "block": "conv"}, {"width": 128, "block": "dense"}) == 1.0


def test_values_that_a_person_would_write() -> None:
    assert list(Space([Range("rate", 0.1, 0.5, 0.1, integer=False)]).axes["rate"].values) == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_drawn_rates_are_logarithmic() -> None:
    some, generator = Space([Range("rate", 1e-5, 1e-1, log=True, integer=False)]), random.Random(3)
    logs = [math.log10(some.draw(generator)["rate"]) for _ in range(2000)]
    assert min(logs) >= -5 and max(logs) <= -1
    assert abs(sum(logs) / len(logs) + 3) < 0.1


def test_an_architecture_is_spelled_as_the_space_spells_it() -> None:
    some = space()
    arch = some.check({"kernel": 5.0, "block": "conv", "depth": np.int64(2), "width": np.float32(64)})
    assert json.dumps(arch) == '{"width": 64, "depth": 2, "block": "conv", "kernel": 5}'
    assert some.key(arch) == '{"block":"conv","depth":2,"kernel":5,"width":64}'


CONV: dict[str, Any] = {"width": 64, "depth": 2, "block": "conv", "kernel": 3}


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({**CONV, "widht": 1}, "the search space has no parameter 'widht'. Did you mean 'width'?"),
        ({"width": 64, "block": "mix"}, "the architecture {width: 64, block: mix} lacks the parameter 'depth'"),
        (
            {"width": 64, "depth": 2, "block": "mix", "kernel": 3},
            "the architecture {width: 64, depth: 2, block: mix, kernel: 3} can't have 'kernel': that is only there "
            "where block is conv",
        ),
        ({**CONV, "width": 65}, "'width' can't be 65: it is one of 8, 16, 32, 64, 128, 256"),
        ({**CONV, "depth": 2.5}, "'depth' can't be 2.5: it is one of 6 numbers between 1 and 6"),
        ({**CONV, "depth": True}, "'depth' can't be True: it is one of 6 numbers between 1 and 6"),
        (
            {**CONV, "width": 256, "depth": 6},
            "the architecture {width: 256, depth: 6, block: conv, kernel: 3} breaks the relation "
            "'width * depth <= 1024'",
        ),
    ],
)
def test_what_does_not_belong_to_the_space(arch: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        space().check(arch)
    assert str(caught.value) == message


def test_a_number_outside_of_an_interval() -> None:
    some = Space([Range("rate", 0.0, 1.0, integer=False)])
    assert some.check({"rate": 1}) == {"rate": 1.0}
    with pytest.raises(UsageError) as caught:
        some.check({"rate": math.nan})
    assert str(caught.value) == "'rate' can't be nan: it is a number between 0.0 and 1.0"


WIDTH = Choices("width", (1, 2))


@pytest.mark.parametrize(
    ("dimensions", "relations", "message"),
    [
        ([], [], "the search space is empty: it needs one parameter at least"),
        ([WIDTH, WIDTH], [], "the search space has a parameter twice: width, width"),
        ([Choices("width", ())], [], "the search space has no value for 'width'"),
        ([Choices("a", (1,), (When("b", (1,)),))], [], "a condition speaks of 'b', which is not searched"),
        (
            [Choices("a", (1,), (When("b", (1,)),)), Choices("b", (1,), (When("a", (1,)),))],
            [],
            "conditions go in a circle: a, b",
        ),
        (
            [WIDTH],
            [Relation("widht", ">", "1", "widht > 1")],
            "the relation 'widht > 1' speaks of 'widht', which is not searched. Did you mean 'width'?",
        ),
        (
            [WIDTH, Choices("block", ("conv",))],
            [Relation("block", ">", "1", "block > 1")],
            "the relation 'block > 1' counts with 'block', whose values are no numbers",
        ),
    ],
)
def test_what_is_no_space(dimensions: list[Dimension], relations: list[Relation], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Space(dimensions, relations)
    assert str(caught.value) == message


def test_relations() -> None:
    heads = Space(
        [Choices("hidden", (96, 128, 192)), Choices("heads", (4, 8, 12))],
        [Relation("hidden % heads", "==", "0", "hidden % heads == 0")],
    )
    assert heads.size() == sum(hidden % heads == 0 for hidden in (96, 128, 192) for heads in (4, 8, 12)) == 8
    zero = Space([Choices("a", (0, 1)), Choices("b", (1, 2))], [Relation("b / a", ">", "1", "b / a > 1")])
    assert list(zero.points()) == [{"a": 1, "b": 2}]
