"""What ``auto_distillation.search`` may say: the space, the algorithm, metrics, constraints and the study."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdhooks.config import DistillationConf, load
from kdhooks.config.model import Named
from kdhooks.config.search_settings import Choices, Limit, Range, Relation, SearchSettings, When
from kdhooks.config.search_space import can_be
from kdhooks.errors import ConfigError


def search(**values):
    return load({"auto_distillation": {"search": values}}).auto_distillation.search


def test_a_space_has_choices_ranges_and_conditions():
    where = "auto_distillation.search.search_space"
    found = search(
        search_space={
            "block": ["conv", "attention"],
            "kernel": {"choices": [3, 5], "when": {"block": "conv"}},
            "heads": {"low": 2, "high": 8, "step": 2, "when": {"block": ["attention"]}},
            "deep": {"choices": [True, False], "when": {"heads": [4, 8], "block": "attention"}},
            "layers": {"low": 2, "high": 12},
            "rate": {"low": 1.0e-5, "high": 1.0e-2, "log": True},
            "width": {"low": 0.1, "high": 0.7, "step": 0.2},
            "dropout": {"low": 0, "high": 0.5},
            "norm": None,
            "act": "relu",
            "sizes": range(2, 7, 2),
        }
    )
    attention = When("block", ("attention",))
    assert found.search_space == (
        Choices("block", ("conv", "attention"), path=f"{where}.block"),
        Choices("kernel", (3, 5), (When("block", ("conv",)),), f"{where}.kernel"),
        Range("heads", 2, 8, 2, when=(attention,), path=f"{where}.heads"),
        Choices("deep", (True, False), (When("heads", (4, 8)), attention), f"{where}.deep"),
        Range("layers", 2, 12, path=f"{where}.layers"),
        Range("rate", 1e-5, 1e-2, log=True, integer=False, path=f"{where}.rate"),
        Range("width", 0.1, 0.7, 0.2, integer=False, path=f"{where}.width"),
        Range("dropout", 0.0, 0.5, integer=False, path=f"{where}.dropout"),
        Choices("norm", (None,), path=f"{where}.norm"),
        Choices("act", ("relu",), path=f"{where}.act"),
        Choices("sizes", (2, 4, 6), path=f"{where}.sizes"),
    )
    assert [type(number) for number in (found.search_space[7].low, found.search_space[2].step)] == [float, int]


@pytest.mark.parametrize(
    ("spelling", "held"),
    [
        *[
            ("bo", "BO"),
            ("Bayesian Optimization", "BO"),
            ("BayesianOptimization", "BO"),
            ("GP", "BO"),
            ("grid", "Grid"),
        ],
        *[
            ("Grid Search", "Grid"),
            ("random_search", "Random"),
            ("tpe", "TPE"),
            ("CMAES", "CMA-ES"),
            ("cma-es", "CMA-ES"),
        ],
        *[("NSGAII", "NSGA-II"), ("nsga2", "NSGA-II"), ("Random", "Random")],
    ],
)
def test_algorithms_are_words(spelling, held):
    assert search(search_algorithm=spelling).search_algorithm == held


def test_metrics_know_their_direction():
    assert search() == SearchSettings()
    found = search(metrics=["accuracy", "Latency", "peak memory", "throughput", "my score"])
    assert found.metrics == ("accuracy", "latency", "peak_memory", "throughput", "my score")
    assert found.higher_is_better == (True, False, False, True, True)
    alone = search(metrics="file-size", higher_is_better=True, best_by="File_size")
    assert (alone.metrics, alone.higher_is_better, alone.best_by) == (("file_size",), (True,), "file_size")
    assert search(metrics=["perplexity"], higher_is_better=[False]).higher_is_better == (False,)
    assert search(best_by="Ideal").best_by == "ideal"


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("latency <= 5 ms", ("latency", True, 0.005)),
        ("latency<=5ms", ("latency", True, 0.005)),
        ("5 ms >= latency", ("latency", True, 0.005)),
        ("latency ≤ 200 us", ("latency", True, 2e-4)),
        ("latency <= 1.5 s", ("latency", True, 1.5)),
        ("latency <= 0.25", ("latency", True, 0.25)),
        ("throughput >= 2 K", ("throughput", False, 2000.0)),
        ("parameters <= 10e6", ("parameters", True, 1e7)),
        ("parameters <= 4.5M", ("parameters", True, 4.5e6)),
        ("MACs <= 2 g", ("macs", True, 2e9)),
        ("file_size <= 20 MB", ("file_size", True, 2e7)),
        ("file size <= 20 MiB", ("file_size", True, 20 * 2.0**20)),
        ("peak_memory <= 1_000 kb", ("peak_memory", True, 1e6)),
        ("accuracy >= 90 %", ("accuracy", False, 0.9)),
        ("accuracy >= 0.9", ("accuracy", False, 0.9)),
        ("top-5 >= 90%", ("top-5", False, 0.9)),
        ("score >= -3", ("score", False, -3.0)),
    ],
)
def test_limits_have_units(text, limit):
    found = search(metrics=["accuracy", "top-5", "score"], constraints=[text])
    (one,) = found.limits
    assert (one.metric, one.at_most, one.bound) == (limit[0], limit[1], pytest.approx(limit[2], rel=1e-12))
    assert (one.text, one.path) == (text, "auto_distillation.search.constraints[0]")


def test_a_strict_limit_leaves_the_bound_out():
    below, above = search(constraints=["parameters < 100", "accuracy > 0.5"]).limits
    assert below.violation(100) > 0 >= below.violation(math.nextafter(100, 0))
    assert above.violation(0.5) > 0 >= above.violation(math.nextafter(0.5, 1))
    (positive,) = search(metrics="score", constraints="score > 0").limits
    assert positive.violation(0.0) > 0 >= positive.violation(0.1)
    assert positive.violation(-0.1) == pytest.approx(0.1)


def test_relations_are_arithmetic_between_parameters():
    space = {"hidden_size": [64, 96], "heads": [1, 4, 5], "rate": {"low": 0.1, "high": 0.9}}
    texts = ["hidden_size % heads == 0", "hidden_size / (2 * heads) >= 8", "0.5 <= rate", "latency <= 5 ms"]
    found = search(search_space=space, constraints=texts)
    where = "auto_distillation.search.constraints"
    assert found.relations == (
        Relation("hidden_size % heads", "==", "0", texts[0], f"{where}[0]"),
        Relation("hidden_size / (2 * heads)", ">=", "8", texts[1], f"{where}[1]"),
        Relation("0.5", "<=", "rate", texts[2], f"{where}[2]"),
    )
    assert found.limits == (Limit("latency", True, 0.005, texts[3], f"{where}[3]"),)
    assert found.relations[0].names == ("hidden_size", "heads")
    (alone,) = search(constraints="width * depth <= 64").relations  # the program sets the space
    assert (alone.names, alone.path) == (("width", "depth"), where)


def test_what_else_a_search_may_say():
    found = search(
        max_trials=None,
        seed=7,
        pruner={"median": {"warm_up": 2}},
        storage="sqlite:///study.db",
        study_name="mine",
        timeout="1 h 30 min",
        startup_trials=4,
        keep_weights="none",
        heartbeat=5,
    )
    assert found == SearchSettings(
        max_trials=None,
        seed=7,
        pruner=Named("median", {"warm_up": 2}, "auto_distillation.search.pruner.median"),
        storage="sqlite:///study.db",
        study_name="mine",
        timeout=5400.0,
        startup_trials=4,
        keep_weights="none",
        heartbeat=5.0,
    )


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(90, 90.0), (0.5, 0.5), ("2 h", 7200.0), ("90min", 5400.0), ("1.5 Days", 129600.0), ("30 s", 30)],
)
def test_a_timeout_is_seconds_or_a_text(given, seconds):
    assert search(timeout=given).timeout == seconds


@pytest.mark.parametrize("name", ["median", "hyperband", "Successive Halving"])
def test_pruners_need_no_options(name):
    assert search(pruner=name).pruner.options == {}


@pytest.mark.parametrize(
    "url",
    [
        *["sqlite:///study.db", "journal:runs/study.log", "postgresql://me@host/db", "postgresql+psycopg://me@host/db"],
        *["mysql+pymysql://me@host/db", "grpc://localhost:13000", "memory"],
    ],
)
def test_storages_are_urls(url):
    assert search(storage=url).storage == url


def test_a_parameter_knows_what_it_can_be():
    width = Range("width", 0.1, 0.7, 0.2, integer=False)
    assert [can_be(width, value) for value in (0.1, 0.3, 0.5, 0.7, 0.2, 0.9, True, "0.3")] == [True] * 4 + [False] * 4
    assert can_be(Range("rate", 0.0, 1.0, integer=False), 0.123) and not can_be(Range("layers", 2, 12), 2.5)
    assert can_be(Choices("norm", (None, 1)), None) and not can_be(Choices("norm", (None, 1)), True)


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.sampled_from(["a", "KL", "5 ms", "<="])
)
KEYS = [
    *["search", "search_space", "flash_distillation", "knowledge_transfer", "regular_distillation", "a", "low", "high"],
    *["step", "log", "when", "choices", "block_names", "layer_mappings", "loss_types", "loss_weights", "train_steps"],
    *["add_origin_loss", "constraints", "metrics", "higher_is_better", "pruner", "median", "evaluation", "measure"],
]
NESTED = st.recursive(
    PLAIN,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)),
    max_leaves=20,
)
RANGE = st.fixed_dictionaries({}, optional={key: PLAIN for key in ("low", "high", "step", "log", "choices", "when")})


@pytest.mark.parametrize(
    "values",
    [
        st.fixed_dictionaries({}, optional={key: NESTED for key in KEYS}),
        st.fixed_dictionaries({"search": st.fixed_dictionaries({}, optional={key: NESTED for key in KEYS})}),
        st.fixed_dictionaries(
            {"flash_distillation": st.fixed_dictionaries({}, optional={key: NESTED for key in KEYS})}
        ),
        st.builds(lambda one, two: {"search": {"search_space": {"a": one, "low": two}}}, RANGE, RANGE),
    ],
)
def test_any_data_is_a_search_or_a_config_error(values):
    @given(values)
    def check(section):
        try:
            DistillationConf({"auto_distillation": section})
        except ConfigError as error:
            assert all(problem.message and problem.path for problem in error.problems), str(error)

    check()


NAMES = st.text(alphabet="abclatency_ 0123456789.<>=+-*/%()msMB", max_size=25)


@given(NAMES, st.sampled_from(["<=", ">=", "==", "<", ""]), NAMES, st.booleans())
def test_any_text_is_a_constraint_or_a_config_error(left, comparison, right, with_space):
    space = {"search_space": {"a": [1, 2], "b": ["x", "y"]}} if with_space else {}
    text = f"{left}{comparison}{right}"
    try:
        found = search(constraints=[text], **space)
    except ConfigError as error:
        (problem,) = error.problems
        assert problem.path == "auto_distillation.search.constraints[0]"
    else:
        (one,) = (*found.limits, *found.relations)
        assert one.text == text
        if isinstance(one, Relation):
            assert one.holds(dict.fromkeys(one.names, 2)) in (True, False)
