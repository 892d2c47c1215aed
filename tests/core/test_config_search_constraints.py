"""Constraints that can't be read, or that name what is not there."""

from __future__ import annotations

import pytest

from tests.core.search.mistakes import refused

SEARCH = "auto_distillation.search"


def in_search(**values):
    return refused({"auto_distillation": {"search": values}})


EXAMPLE = "Write one comparison, as in latency <= 5 ms"
READ = "Write it as in latency <= 5 ms, or hidden_size % heads == 0"


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        ("latency", f"'latency' compares nothing\n  {EXAMPLE}"),
        ("1 <= width <= 5", "'1 <= width <= 5' compares twice\n  Write one constraint for each comparison."),
        ("width = 5", "'width = 5' has a single '='\n  Write width == 5"),
        ("latency <=", "'latency <=' has an empty side\n  Write both sides, as in latency <= 5 ms"),
        ("latency <= fast", "'fast' is no number, and latency is a metric\n  Write a number, as in latency <= 5 ms"),
        ("latency == 5 ms", "a metric is limited by <= or >=, not by ==\n  Write latency <= 5 ms"),
        ("latency <= 5 MB", "'MB' is no unit of latency\n  Units: s, ms, us, µs, or a plain number"),
        (
            "file_size <= 20 ms",
            "'ms' is no unit of file_size\n  Units: B, KB, MB, GB, KiB, MiB, GiB, or a plain number",
        ),
        ("parameters <= 10 %", "'%' is no unit of parameters\n  Units: K, M, G, or a plain number"),
        ("accuracy >= 3 MB", "'MB' is no unit of accuracy\n  Units: %, or a plain number"),
        ("latency <= 0", "no model has a latency <= 0\n  Write a number above 0."),
        (
            "latancy <= 5 ms",
            "'latancy' is neither a metric nor a parameter of the search space\n  Did you mean 'latency'?",
        ),
        ("widht >= 3", "'widht' is neither a metric nor a parameter of the search space\n  Did you mean 'width'?"),
        (
            "width % haeds == 0",
            "'haeds' is neither a metric nor a parameter of the search space\n  Did you mean 'heads'?",
        ),
        (
            "zzz <= 3",
            "'zzz' is neither a metric nor a parameter of the search space\n"
            "  Metrics: latency, throughput, parameters, macs, file_size, peak_memory, accuracy. "
            "Parameters: width, heads, block",
        ),
        ("width <= 5 ms", "width is a parameter of the search space, which has no unit\n  Write the number without ms"),
        (
            "latency * 2 <= width",
            "the metric latency stands in a formula, and a limit has it alone on one side\n  Write latency <= 5 ms",
        ),
        (
            "accuracy / 2 <= 3",
            "the metric accuracy stands in a formula, and a limit has it alone on one side\n  Write accuracy >= 0.9",
        ),
        (
            "block * 2 == 4",
            "block has values that are no numbers, so nothing can be computed with it\n"
            "  Use when below a parameter for what depends on a choice.",
        ),
        ("3 <= 4", "'3 <= 4' names neither a metric nor a parameter\n  Write one, as in latency <= 5 ms"),
        ("width ** 2 <= 4", f"in 'width ** 2': '*' is not expected there\n  {READ}"),
        ("width & 1 == 0", f"in 'width & 1': may hold numbers, parameters, + - * / // % and brackets only\n  {READ}"),
        ("(width + 1 <= 4", f"in '(width + 1': a bracket has no partner\n  {READ}"),
        ("width heads <= 4", f"in 'width heads': 'heads' is not expected there\n  {READ}"),
        ("width + <= 4", f"in 'width +': ends too early\n  {READ}"),
        (f"width{' + 1' * 40} <= 4", f"in 'width{' + 1' * 40}': is too long\n  {READ}"),
    ],
)
def test_a_constraint_that_means_nothing(constraint, text):
    space = {"width": [1, 2], "heads": {"low": 1, "high": 4}, "block": ["conv", "attention"]}
    found = in_search(search_space=space, constraints=["latency <= 1 s", constraint])
    assert found == [f"<dict>: {SEARCH}.constraints[1]: {text}"]


def test_a_constraint_of_a_space_that_the_program_sets():
    assert in_search(constraints=["latancy <= 5 ms", 3, ""]) == [
        f"<dict>: {SEARCH}.constraints[1]: expected a constraint as in 'latency <= 5 ms', got 3",
        f"<dict>: {SEARCH}.constraints[2]: expected a constraint as in 'latency <= 5 ms', got ''",
    ]
    assert in_search(constraints="latancy <= 5 ms") == [
        f"<dict>: {SEARCH}.constraints: unknown metric 'latancy'\n  Did you mean 'latency'?"
    ]
