"""The table of a search: whole texts, marks, units, reasons, long searches and wide ones."""

from __future__ import annotations

from dataclasses import replace

from kdhooks.config.search_settings import Choices, SearchSettings
from kdhooks.search.candidates import Candidate
from kdhooks.search.results.result import SearchResult
from tests.core.search.made_up import TWO, complete, searched

MOBILEBERT = {
    "hidden_size": (128, 246, 384, 512),
    "intra_bottleneck_size": (64, 96, 128, 160),
    "num_attention_heads": (1, 2, 4, 8),
    "intermediate_size": (384, 512, 640),
    "num_feedforward_networks": (2, 4, 6),
}


def test_a_short_search_as_a_whole() -> None:
    result = SearchResult(
        [
            Candidate(
                0, {"block": "conv", "kernel": 3}, "complete", {"accuracy": 0.91, "latency": 0.0012}, seconds=61.25
            ),
            Candidate(1, {"block": "mlp"}, "complete", {"accuracy": 0.88, "latency": 0.0004}, seconds=8.0),
            Candidate(
                2, {"block": "conv", "kernel": 5}, "infeasible", {"latency": 0.0071}, reason="latency 7.1 ms > 5 ms"
            ),
            Candidate(3, {"block": "mlp"}, "failed", reason="ValueError: no", seconds=0.2),
            Candidate(4, {"block": "mlp"}, "failed", reason="ValueError: no", seconds=0.2),
            Candidate(5, {"block": "mlp"}, "pruned", {"accuracy": 0.5}, reason="pruned at epoch 1", seconds=1.0),
        ],
        replace(TWO, search_algorithm="TPE", best_by="accuracy"),
        "digits",
    )
    assert result.table() == (
        "digits: TPE, seed 42; 6 candidates in 1 min 10 s: 2 complete, 1 infeasible, 1 pruned, 2 failed\n"
        "    #  state       accuracy  latency  block  kernel  seconds\n"
        "                                [ms]\n"
        "*+  0  complete      0.9100    1.200   conv       3     61.2\n"
        " +  1  complete      0.8800    0.400    mlp       -      8.0\n"
        "    2  infeasible              7.100   conv       5      0.0\n"
        "    5  pruned        0.5000             mlp       -      1.0\n"
        "    3  failed                           mlp       -      0.2\n"
        "    4  failed                           mlp       -      0.2\n"
        "* the best: by accuracy; + the Pareto set\n"
        "failed: #3, #4: ValueError: no\n"
        "infeasible: #2: latency 7.1 ms > 5 ms\n"
        "pruned: #5: pruned at epoch 1"
    )


def test_a_long_search_is_shortened() -> None:
    result = searched(60)
    lines = result.table(top=5).splitlines()
    assert sum(line[4:].strip()[:1].isdigit() for line in lines) == 5
    assert "not shown: 55 more: 42 complete, 3 infeasible, 5 pruned, 5 failed" in lines
    assert max(len(line) for line in lines) <= 120
    whole = result.table(top=60)
    assert "not shown" not in whole
    assert all(f" {row.number}  " in whole for row in result.candidates)


def test_an_empty_search() -> None:
    assert SearchResult([], TWO, "digits").table() == "digits: BO, seed 42; no candidate yet"


def test_a_search_without_a_complete_candidate_marks_none() -> None:
    table = SearchResult([Candidate(0, {"width": 8}, "failed", reason="boom")], TWO).table()
    assert table == (
        "search: BO, seed 42; 1 candidate in 0.0 s: 1 failed\n"
        "    #  state   accuracy  latency  width  seconds\n"
        "    0  failed                         8      0.0\n"
        "failed: #0: boom"
    )


def test_the_classic_space_fits_a_terminal() -> None:
    space = tuple(Choices(name, values) for name, values in MOBILEBERT.items())
    settings = replace(TWO, search_space=space)
    arch = {name: values[-1] for name, values in MOBILEBERT.items()}
    rows = [replace(complete(at, 0.5 + at / 100, 0.001 * (at + 1)), arch=arch) for at in range(100)]
    table = SearchResult(rows, settings, "mobilebert").table()
    assert max(len(line) for line in table.splitlines()) <= 120
    assert "left out" not in table
    assert "feedforward_" in table and "num_" in table


def test_what_finds_no_place_is_named() -> None:
    names = [f"a_parameter_with_number_{at}" for at in range(20)]
    rows = [replace(complete(at, 0.5, 0.1), arch={name: at * 10**6 for name in names}) for at in range(3)]
    rows = [replace(row, arch={**row.arch, names[1]: 7}) for row in rows]
    table = SearchResult(rows, TWO).table(width=100)
    assert max(len(line) for line in table.splitlines()) <= 100
    left_out = table[table.index("columns left out for want of width: ") :]
    assert names[1] in left_out  # it is the same everywhere
    assert names[0] not in left_out
    assert names[19] in left_out


def test_one_metric_has_no_pareto_marks() -> None:
    settings = SearchSettings(metrics=("loss",), higher_is_better=(False,))
    table = SearchResult([complete(0, 2.0, names=("loss",)), complete(1, 1.0, names=("loss",))], settings).table()
    lines = table.splitlines()
    assert [line[:7] for line in lines[2:4]] == ["*   1  ", "    0  "]
    assert lines[4] == "* the best"


def test_long_reasons_are_cut_and_many_are_counted() -> None:
    rows = [Candidate(at, {}, "failed", reason=f"error {at} {'x ' * 400}") for at in range(12)]
    table = SearchResult(rows, TWO).table()
    assert table.endswith("2 more reasons are in result.json")
    assert max(len(line) for line in table.splitlines()) <= 120
    assert table.count(" ...") == 10


def test_markdown_has_everything_and_breaks_nothing() -> None:
    rows = [
        Candidate(0, {"block": "a|b*c"}, "complete", {"accuracy": 0.9, "latency": 2.0, "macs": 12000.0}, seconds=1.0),
        Candidate(1, {"block": "<b>"}, "failed", reason="line\nbreak"),
    ]
    assert SearchResult(rows, TWO).markdown() == (
        "|  | # | state | accuracy | latency \\[s] | block | macs \\[kMACs] | seconds | reason |\n"
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |\n"
        "| \\*+ | 0 | complete | 0.9000 | 2.000 | a\\|b\\*c | 12.00 | 1.0 |  |\n"
        "|  | 1 | failed |  |  | \\<b> |  | 0.0 | line break |"
    )
