"""Domain adaptation without a framework: validators, the cycle of the target's batches, which sections act."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdhooks.config import DistillationConf
from kdhooks.criterion import Objective, OwnLoss, Step, Term, with_own_loss
from kdhooks.domains import VALIDATORS, check_target, distils, validate
from kdhooks.domains.batches import split_target
from kdhooks.domains.cycle import TargetBatches
from kdhooks.domains.validators import entropy, information_maximization, probabilities, soft_neighborhood_density
from kdhooks.errors import DataError, UsageError

ROWS = np.random.default_rng(5).normal(size=(1100, 4))


def snd_by_loops(predicted, temperature=0.05):
    """Saito et al. 2021, one pair of rows at a time."""
    total = 0.0
    for i, one in enumerate(predicted):
        exponents = []
        for j, other in enumerate(predicted):
            if i != j:
                cosine = sum(a * b for a, b in zip(one, other, strict=True))
                cosine /= math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
                exponents.append(math.exp(cosine / temperature))
        shares = [exponent / sum(exponents) for exponent in exponents]
        total -= sum(share * math.log(share) for share in shares)
    return total / len(predicted)


def test_validators_against_numbers_of_an_oracle():
    predicted = probabilities(ROWS[:40])
    assert soft_neighborhood_density(predicted) == pytest.approx(snd_by_loops(predicted), rel=1e-8)
    by_hand = -np.mean([sum(p * math.log(p) for p in row) for row in predicted])
    assert entropy(predicted) == pytest.approx(by_hand, rel=1e-8)
    mean = predicted.mean(0)
    assert information_maximization(predicted) == pytest.approx(-sum(mean * np.log(mean)) - by_hand, rel=1e-8)


def test_chunks_change_nothing_and_rows_are_spread():
    whole = probabilities(ROWS)
    assert soft_neighborhood_density(whole[:600]) == pytest.approx(
        soft_neighborhood_density(whole[:600][::-1]), rel=1e-10
    )
    found = validate(ROWS, ["snd"], rows=550)
    assert found == {"snd": pytest.approx(soft_neighborhood_density(whole[::2]), rel=1e-10)}


def test_edges_of_validators():
    sure = np.eye(3)
    assert entropy(sure) == 0.0
    assert information_maximization(sure) == pytest.approx(math.log(3))
    assert soft_neighborhood_density(np.eye(3)[:1]) == 0.0
    assert soft_neighborhood_density(np.tile(sure[:1], (5, 1))) == pytest.approx(math.log(4))
    assert entropy(probabilities([[1e4, -1e4]])) == 0.0


def test_names_and_directions_of_validators():
    assert {name: one.higher_is_better for name, one in VALIDATORS.items()} == {
        "entropy": False,
        "SND": True,
        "information_maximization": True,
    }
    assert VALIDATORS.name("im") == "information_maximization"


class Data:
    """Three batches a pass; remembers how it was asked."""

    def __init__(self, passes=3):
        self.passes, self.start, self.asked = passes, None, []

    def states(self):
        return {"rng": len(self.asked)}

    def epoch(self, number):
        self.asked.append(number)
        self.start = {"pass": number}
        return iter([(f"x{number}{index}", f"y{number}{index}") for index in range(3 if number < self.passes else 0)])

    def rest_of_epoch(self, number, skip, start, now):
        batches = list(self.epoch(number))
        self.asked.append((number, skip, start, now))
        return iter(batches[skip:])


def test_a_pass_over_the_target_is_followed_by_the_next():
    cycle = TargetBatches(Data())
    assert [cycle.next() for _ in range(5)] == [(x, None) for x in ("x00", "x01", "x02", "x10", "x11")]
    state = cycle.state()
    assert state == {"pass": 1, "served": 2, "start": {"pass": 1}, "now": {"rng": 2}}
    data = Data()
    resumed = TargetBatches(data, labels=True)
    resumed.restore(state)
    assert data.asked[-1] == (1, 2, {"pass": 1}, {"rng": 2})
    assert [resumed.next() for _ in range(2)] == [("x12", "y12"), ("x20", "y20")]


def test_a_target_without_batches():
    with pytest.raises(DataError) as caught:
        TargetBatches(Data(passes=0)).next()
    assert str(caught.value) == "the target_dataloader had no batch; a generator can be iterated over only once"


def test_batches_of_a_target_may_have_no_labels():
    fields = {"input_ids": 1, "attention_mask": 2}
    assert split_target(fields) == (fields, None)
    assert split_target({**fields, "labels": 3}) == (fields, 3)
    assert split_target({**fields, "id": 4}, inputs=["input_ids"]) == ({"input_ids": 1}, None)
    assert split_target(("a", "b", "y"), input_columns=(0, 1)) == (("a", "b"), "y")
    with pytest.raises(DataError):
        split_target(("a", "b", "c"))


@pytest.mark.parametrize(
    ("written", "teacher", "expected"),
    [
        ({}, False, True),
        ({"distillation": {}}, False, True),
        ({"domain_adaptation": {"criterion": "MCC"}}, True, False),
        ({"domain_adaptation": {"criterion": "MCC"}, "distillation": {"train": {"epoch": 3}}}, False, False),
        ({"domain_adaptation": {"criterion": "MCC"}, "distillation": {"train": {"epoch": 3}}}, True, True),
        (
            {
                "domain_adaptation": {"criterion": "MCC"},
                "distillation": {"train": {"criterion": "KnowledgeDistillationLoss"}},
            },
            False,
            True,
        ),
    ],
)
def test_when_the_criterion_of_distillation_acts(written, teacher, expected):
    assert distils(DistillationConf(written), object() if teacher else None) is expected


class Adding:
    student_label, adapts, only_adds = "CE", True, True

    def __init__(self, *terms):
        self.terms = terms

    def student_weight(self, step):
        return 0.0


def test_a_criterion_that_only_adds_leaves_the_loop_s_loss_its_weight():
    (own, adding) = with_own_loss([Adding()])
    assert isinstance(own, OwnLoss) and own.student_weight(3) == 1.0
    assert with_own_loss([]) and with_own_loss([adding, OwnLoss()])[0] is adding
    loss = object()
    total, names, values = Objective([own, adding]).total(Step(0, None, None), loss)
    assert total is loss and names == ("CE", "total") and values == [loss, loss]


def test_a_term_may_have_nothing_to_compute_and_may_measure_something():
    weight = lambda step: 1.0  # noqa: E731
    one = Term("one", weight, lambda step: 2.0, measures=lambda: {"seen": 0.5})
    two = Term("two", weight, lambda step: 1 / 0, when=lambda step: step.target_labels is not None)
    total, names, values = Objective(with_own_loss([Adding(one, two)])).total(Step(0, None, None), 1.0)
    assert (total, names, values) == (3.0, ("CE", "one", "one.seen", "total"), [1.0, 2.0, 0.5, 3.0])


def test_a_target_needs_a_criterion_and_labels_a_batch():
    check_target([OwnLoss()], None, None)
    check_target([OwnLoss(), Adding()], "x", "y")
    with pytest.raises(UsageError):
        check_target([OwnLoss()], "x", None)
    with pytest.raises(UsageError):
        check_target([Adding()], None, "y")
