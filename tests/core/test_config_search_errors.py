"""Every mistake in ``auto_distillation.search`` is told at its line, all at once, each with one suggestion."""

from __future__ import annotations

import pytest

from tests.core.search.mistakes import refused, told

SEARCH = "auto_distillation.search"
ALGORITHMS = "expected one of 'Grid', 'Random', 'BO', 'TPE', 'CMA-ES', 'NSGA-II'"
FORMS = "Write a list of values, {low: ..., high: ...} or {choices: [...]}"


def test_a_condition_that_means_nothing(tmp_path):
    text = """\
auto_distillation:
  search:
    search_space:
      block: [conv, attention]
      one: {choices: [1, 2], when: conv}
      two: {choices: [1, 2], when: {block: []}}
      three: {choices: [1, 2], when: {block: [conv, conv]}}
      four: {when: {block: conv}}
      five: {low: 1, high: 2, when: {4: conv}}
      six: {low: 2, high: 3, when: {five: 1.5}}
"""
    where = f"{SEARCH}.search_space"
    assert told(text, tmp_path) == [
        (
            f"auto.yaml:5:36: {where}.one.when: expected values by the names of other parameters, as in "
            "{block: conv}, got 'conv'",
            "|                                    ^^^^",
        ),
        (f"auto.yaml:6:44: {where}.two.when.block: has no value", "Write at least one, as in [128, 256]"),
        (f"auto.yaml:7:53: {where}.three.when.block[1]: 'conv' is given twice", "Keep one of them."),
        (f"auto.yaml:8:7: {where}.four: has no values", FORMS),
        (f"auto.yaml:9:38: {where}.five.when.4: the name of a parameter must be text", "Put it in quotes: '4'"),
    ]


def in_search(**values):
    return refused({"auto_distillation": {"search": values}})


def test_all_mistakes_of_a_space_at_their_lines(tmp_path):
    text = """\
auto_distillation:
  search:
    search_space:
      layers: []
      heads: [1, 2, 2]
      width: {low: 4, high: 4}
      rate: {low: 0, high: 1.0e-2, log: true}
      depth: {low: 2, high: 12, step: 3}
      deep: {low: 2, high: 12, log: true, step: 2}
      size: {low: 2}
      kind: {}
      both: {choices: [1], high: 3}
      lists: [[1, 2]]
      kernel: {choices: [3, 5], wenn: {block: conv}}
      one: {choices: [1, 2], when: {one: 1}}
      two: {choices: [1, 2], when: {three: 1, blok: conv}}
      three: {choices: [1, 2], when: {one: 3, two: [1, 4], heads: 1}}
      block: [conv, attention]
      four: {low: 0, high: 9, step: 3, when: {blok: conv}}
      five: {low: 0, high: 1, when: {four: [3, 4], three: true}}
      6: [1]
      seven: {low: many, high: 3, step: 0}
      eight: {low: -1.0e308, high: 1.0e308}
      nine: {low: 0.0, high: 1.0e3, step: 1.0e-20}
"""
    where = f"{SEARCH}.search_space"
    assert told(text, tmp_path) == [
        (f"auto.yaml:4:15: {where}.layers: has no value", "Write at least one, as in [128, 256]"),
        (f"auto.yaml:5:21: {where}.heads[2]: 2 is given twice", "Keep one of them."),
        (
            f"auto.yaml:6:20: {where}.width.low: is 4, which is not below high, 4",
            "Write a low below high, or the one value alone.",
        ),
        (
            f"auto.yaml:7:19: {where}.rate.low: is 0, and a logarithm needs a number above 0",
            "Remove log, or raise low.",
        ),
        (
            f"auto.yaml:8:39: {where}.depth.step: steps of 3 from 2 don't end at high, 12",
            "Write another step, or high: 11 or 14",
        ),
        (f"auto.yaml:9:43: {where}.deep.step: stands beside log, which has no steps", "Keep one of them."),
        (f"auto.yaml:10:7: {where}.size: has no high", "Write high, which is among its values."),
        (f"auto.yaml:11:7: {where}.kind: has no values", FORMS),
        (
            f"auto.yaml:12:14: {where}.both.choices: stands beside high, and only one of them can be meant",
            "Write choices, or low and high.",
        ),
        (
            f"auto.yaml:13:15: {where}.lists[0]: expected a number, text, true, false or null, got a list",
            "Name it by a text, and let the model builder look up what it stands for.",
        ),
        (f"auto.yaml:14:33: {where}.kernel.wenn: unknown key", "Did you mean 'when'?"),
        (f"auto.yaml:15:37: {where}.one.when.one: one can't depend on itself", "Remove it."),
        (
            f"auto.yaml:16:37: {where}.two.when.three: three stands below two, so it is not decided yet",
            "Move three above two.",
        ),
        (
            f"auto.yaml:16:47: {where}.two.when.blok: no parameter 'blok' stands above",
            "Parameters above: both, deep, depth, heads, kernel, kind, layers, lists, one, rate, size, width",
        ),
        (f"auto.yaml:17:44: {where}.three.when.one: one is never 3", "Its values: 1, 2"),
        (f"auto.yaml:17:56: {where}.three.when.two[1]: two is never 4", "Its values: 1, 2"),
        (f"auto.yaml:19:47: {where}.four.when.blok: no parameter 'blok' stands above", "Did you mean 'block'?"),
        (f"auto.yaml:20:48: {where}.five.when.four[1]: four is never 4", "Its values: 0 to 9 in steps of 3"),
        (f"auto.yaml:20:59: {where}.five.when.three: three is never true", "Its values: 1, 2"),
        (f"auto.yaml:21:7: {where}.6: the name of a parameter must be text", "Put it in quotes: '6'"),
        (f"auto.yaml:22:20: {where}.seven.low: expected a number, got 'many'", "|                    ^^^^"),
        (
            f"auto.yaml:22:41: {where}.seven.step: expected a number above 0, got 0",
            "|                                         ^",
        ),
        (f"auto.yaml:23:7: {where}.eight: -1e+308 to 1e+308 is too wide", "Write a narrower range."),
        (
            f"auto.yaml:24:43: {where}.nine.step: is 1e-20, which makes too many values from 0.0 to 1000.0",
            "Write a larger step, or none.",
        ),
    ]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"search_space": {}},
            "search_space: is empty, so there is nothing to search\n"
            "  Write parameters with their values, as in hidden_size: [128, 256]",
        ),
        (
            {"search_space": ["hidden_size"]},
            "search_space: expected parameters with their values, as in hidden_size: [128, 256], got a list",
        ),
        ({"search_algorithm": "BOO"}, f"search_algorithm: {ALGORITHMS}, got 'BOO'\n  Did you mean 'BO'?"),
        ({"search_algorithm": "CMA ESS"}, f"search_algorithm: {ALGORITHMS}, got 'CMA ESS'\n  Did you mean 'CMA-ES'?"),
        ({"search_algorithm": "SMAC"}, f"search_algorithm: {ALGORITHMS}, got 'SMAC'"),
        ({"max_trial": 3}, "max_trial: unknown key\n  Did you mean 'max_trials'?"),
        ({"max_trials": 0}, "max_trials: expected a whole number of at least 1, got 0"),
        ({"metrics": []}, "metrics: expected a list of metrics, got none"),
        ({"metrics": ["accuracy", 3]}, "metrics[1]: expected text, got 3"),
        ({"metrics": ["latency", "Latency"]}, "metrics[1]: latency is given twice\n  Keep one of them."),
        (
            {"metrics": ["accuracy", "latency"], "higher_is_better": [True]},
            "higher_is_better: expected one boolean for each metric (accuracy, latency), got 1\n"
            "  Write [true, false], or remove it for just that.",
        ),
        (
            {"metrics": ["accuracy", "latency"], "higher_is_better": True},
            "higher_is_better: expected one boolean for each metric (accuracy, latency), got 1\n"
            "  Write [true, false], or remove it for just that.",
        ),
        (
            {"higher_is_better": [True, False]},
            "higher_is_better: expected one boolean for each metric (accuracy), got 2\n"
            "  Write [true], or remove it for just that.",
        ),
        (
            {"metrics": ["accuracy", "latency"], "best_by": "latancy"},
            "best_by: 'latancy' is neither 'ideal' nor one of metrics\n  Did you mean 'latency'?",
        ),
        (
            {"best_by": "throughput"},
            "best_by: 'throughput' is neither 'ideal' nor one of metrics\n  Known: accuracy, ideal",
        ),
        (
            {"search_space": {"rate": {"low": 0.0, "high": 1.0}}, "search_algorithm": "grid"},
            "search_space.rate: may be any number from 0 to 1, and a Grid has only some\n"
            "  Write choices or a step, or another search_algorithm.",
        ),
        (
            {"metrics": ["accuracy", "macs"], "search_algorithm": "CMA-ES"},
            "search_algorithm: CMA-ES searches for one metric, and there are 2\n  Write NSGA-II, TPE or BO.",
        ),
        (
            {"metrics": ["accuracy", "macs"], "pruner": "median"},
            "pruner: a pruner compares one metric, and there are 2\n  Remove it, or search for one metric.",
        ),
        ({"pruner": "medium"}, "pruner: unknown pruner 'medium'\n  Did you mean 'median'?"),
        ({"pruner": {"median": {"warmup": 2}}}, "pruner.median.warmup: unknown key\n  Did you mean 'warm_up'?"),
        (
            {"keep_weights": "bst"},
            "keep_weights: expected one of 'best', 'all', 'none', got 'bst'\n  Did you mean 'best'?",
        ),
        ({"heartbeat": 0}, "heartbeat: expected a number above 0, got 0"),
        (
            {"timeout": "2 hrs"},
            "timeout: expected seconds, or a text as in '2 h' or '90 min', got '2 hrs'\n  Units: s, min, h, d",
        ),
        (
            {"timeout": "soon"},
            "timeout: expected seconds, or a text as in '2 h' or '90 min', got 'soon'\n  Units: s, min, h, d",
        ),
        ({"timeout": -1}, "timeout: expected seconds, or a text as in '2 h' or '90 min', got -1"),
        ({"timeout": True}, "timeout: expected seconds, or a text as in '2 h' or '90 min', got true"),
        ({"storage": "study.db"}, "storage: 'study.db' is no known kind of storage\n  Write sqlite:///study.db"),
        ({"storage": "study.log"}, "storage: 'study.log' is no known kind of storage\n  Write journal:study.log"),
        (
            {"storage": "sqlite://study.db"},
            "storage: 'sqlite://study.db' is not how sqlite is written\n  Write it as in sqlite:///study.db",
        ),
        (
            {"storage": "postgres://me:secret@host/db"},
            "storage: 'postgres://me:***@host/db' is no known kind of storage\n"
            "  Did you mean 'postgresql', as in postgresql://user@host/database?",
        ),
        (
            {"storage": "redis://host"},
            "storage: 'redis://host' is no known kind of storage\n"
            "  Kinds: sqlite:///study.db, journal:study.log, postgresql://user@host/database, "
            "mysql://user@host/database, grpc://host:13000, memory",
        ),
        (
            {"storage": "grpc://host"},
            "storage: 'grpc://host' is not how grpc is written\n  Write it as in grpc://host:13000",
        ),
        ({"storage": 3}, "storage: expected where the study is stored, as in sqlite:///study.db, got 3"),
    ],
)
def test_a_wrong_value_of_a_search(values, text):
    assert in_search(**values) == [f"<dict>: {SEARCH}.{text}"]
