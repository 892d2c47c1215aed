"""The section ``auto_distillation``: every classic spelling, and what a search may say."""

from __future__ import annotations

import copy
import math

import pytest

from kdhooks.config import DistillationConf, load
from kdhooks.config.model import DataloaderSettings, EvaluationSettings, MetricSettings, Named, TrainSettings
from kdhooks.config.search_settings import (
    AutoDistillationSettings,
    Choices,
    FlashSettings,
    Limit,
    MeasureSettings,
    Range,
    Relation,
    SearchSettings,
    StageSettings,
    When,
)
from kdhooks.search.forms import as_configuration

SPACE = {
    "hidden_size": [128, 246, 384, 512],
    "intra_bottleneck_size": [64, 96, 128, 160],
    "num_attention_heads": [1, 2, 4, 8],
    "intermediate_size": [384, 512, 640],
    "num_feedforward_networks": [2, 4, 6],
}
DIMENSIONS = tuple(
    Choices(name, tuple(values), path=f"auto_distillation.search.search_space.{name}") for name, values in SPACE.items()
)
BLOCKS = [f"mobilebert.encoder.layer.{i}" for i in range(24)]
PAIRS = [
    [
        (f"mobilebert.encoder.layer.{i}.attention.self", "1", f"bert.encoder.layer.{i}.attention.self", "1"),
        (f"mobilebert.encoder.layer.{i}.output", f"bert.encoder.layer.{i}.output"),
    ]
    for i in range(24)
]
OUT_OF_THE_BOX = {
    "search": {"search_space": SPACE},
    "flash_distillation": {
        "knowledge_transfer": {
            "block_names": BLOCKS,
            "layer_mappings_for_knowledge_transfer": PAIRS,
            "loss_types": [["KL", "MSE"] for i in range(24)],
        },
        "regular_distillation": {
            "layer_mappings_for_knowledge_transfer": [[("cls", "0", "cls", "0")]],
            "loss_types": [["KL"]],
            "add_origin_loss": [True],
        },
    },
}
ADVANCED = {
    "search": {
        "search_space": SPACE,
        "search_algorithm": "BO",
        "metrics": ["accuracy", "latency"],
        "higher_is_better": [True, False],
        "max_trials": 10,
        "seed": 42,
    },
    "flash_distillation": {
        "knowledge_transfer": {
            "block_names": BLOCKS,
            "layer_mappings_for_knowledge_transfer": PAIRS,
            "loss_types": [["KL", "MSE"] for i in range(24)],
            "loss_weights": [[0.5, 0.5] for i in range(24)],
            "train_steps": [500 for i in range(24)],
        },
        "regular_distillation": {
            "layer_mappings_for_knowledge_transfer": [[("cls", "0", "cls", "0")]],
            "loss_types": [["KL"]],
            "add_origin_loss": [True],
            "train_steps": [25000],
        },
    },
}
CLASSIC_YAML = """\
model:
  name: MobileBERT_NAS
  framework: pytorch

auto_distillation:
  search:
    search_space: {
        'hidden_size': [128, 246, 384, 512],
        'intra_bottleneck_size': [64, 96, 128, 160],
        'num_attention_heads': [1, 2, 4, 8],
        'intermediate_size': [384, 512, 640],
        'num_feedforward_networks': [2, 4, 6]
        }
    search_algorithm: 'BO'
    metrics: ['accuracy', 'latency']
    higher_is_better: [True, False]
    max_trials: 10
    seed: 42
  flash_distillation:
    block_names: ['mobilebert.encoder.layer.0']
    layer_mappings_for_knowledge_transfer: [
        [
          ['mobilebert.encoder.layer.0.attention.self', '1', 'bert.encoder.layer.0.attention.self', '1'],
          ['mobilebert.encoder.layer.0.output', 'bert.encoder.layer.0.output'],
        ]
                        ]
    loss_types: [['KL', 'MSE']]
    train_steps: [5000]
  regular_distillation:
    layer_mappings_for_knowledge_transfer: [
          ['mobilebert.output', 'bert.output'],
                        ]
    loss_types: ['KL']
    add_origin_loss: True
  train:
    optimizer:
      SGD:
        learning_rate: 0.001
  evaluation:
    accuracy:
      metric:
        topk: 1
"""


def section(**values):
    return load({"auto_distillation": values}).auto_distillation


def search(**values):
    return section(search=values).search


def regular(**values):
    return section(regular_distillation=values).regular


def flash_stage(index, where, **criterion):
    pairs = [list(pair) for pair in PAIRS[index]]
    return {"layer_mappings": pairs, "loss_types": ("KL", "MSE"), **criterion}, f"{where}[{index}]"


def test_the_classic_example_of_the_trainer_out_of_the_box():
    given = copy.deepcopy(OUT_OF_THE_BOX)
    conf = DistillationConf(as_configuration(given))
    assert given == OUT_OF_THE_BOX  # nothing of the user's has changed
    found = conf.settings.auto_distillation
    flash = "auto_distillation.flash_distillation"
    where = f"{flash}.knowledge_transfer.layer_mappings_for_knowledge_transfer"
    whole = f"{flash}.regular_distillation.layer_mappings_for_knowledge_transfer[0]"
    stages = [StageSettings(block, criterion, None, path) for block, (criterion, path) in _stages(where)]
    criterion = {"layer_mappings": [["cls", "0", "cls", "0"]], "loss_types": ("KL",), "add_origin_loss": True}
    assert found == AutoDistillationSettings(
        search=SearchSettings(search_space=DIMENSIONS),
        flash=FlashSettings(tuple(stages)),
        regular=FlashSettings((StageSettings("", criterion, None, whole),)),
    )


def _stages(where, **criterion):
    return [(block, flash_stage(index, where, **criterion)) for index, block in enumerate(BLOCKS)]


def test_the_classic_example_of_the_trainer_with_functions():
    found = DistillationConf(as_configuration(ADVANCED)).settings.auto_distillation
    assert found.search == SearchSettings(
        search_space=DIMENSIONS,
        search_algorithm="BO",
        metrics=("accuracy", "latency"),
        higher_is_better=(True, False),
        max_trials=10,
        seed=42,
    )
    where = "auto_distillation.flash_distillation.knowledge_transfer.layer_mappings_for_knowledge_transfer"
    assert found.flash.stages == tuple(
        StageSettings(block, criterion, 500, path)
        for block, (criterion, path) in _stages(where, loss_weights=(0.5, 0.5))
    )
    (stage,) = found.regular.stages
    assert (stage.block, stage.train_steps, stage.criterion["loss_types"]) == ("", 25000, ("KL",))


def test_the_classic_file(tmp_path):
    file = tmp_path / "auto.yaml"
    file.write_text(CLASSIC_YAML)
    conf = DistillationConf(file)
    found = conf.settings.auto_distillation
    assert found.search == SearchSettings(
        search_space=DIMENSIONS, metrics=("accuracy", "latency"), higher_is_better=(True, False)
    )
    where = "auto_distillation.flash_distillation.layer_mappings_for_knowledge_transfer"
    criterion, path = flash_stage(0, where)
    assert found.flash == FlashSettings((StageSettings("mobilebert.encoder.layer.0", criterion, 5000, path),))
    whole = {
        "layer_mappings": [["mobilebert.output", "bert.output"]],
        "loss_types": ("KL",),
        "add_origin_loss": True,
    }
    where = "auto_distillation.regular_distillation.layer_mappings_for_knowledge_transfer"
    assert found.regular == FlashSettings((StageSettings("", whole, None, where),))
    section = "auto_distillation"
    assert found.train == TrainSettings(
        optimizer=Named("SGD", {"learning_rate": 0.001}, f"{section}.train.optimizer.SGD")
    )
    metric = MetricSettings(Named("topk", {"": 1}, f"{section}.evaluation.accuracy.metric.topk"))
    assert found.evaluation == EvaluationSettings((metric,))
    assert conf.settings.model.name == "MobileBERT_NAS"


@pytest.mark.parametrize(
    ("pairs", "losses", "weights", "origin"),
    [
        (
            "['mobilebert.encoder.layer.0.attention.self', '1', 'bert.encoder.layer.0.attention.self', '1'],"
            " ['mobilebert.encoder.layer.0.output', 'bert.encoder.layer.0.output'],",
            ("KL", "MSE"),
            (0.5, 0.5),
            False,
        ),
        ("['mobilebert.output', 'bert.output'],", ("KL",), (1.0,), True),
    ],
)
def test_the_classic_examples_of_the_criterion(pairs, losses, weights, origin, tmp_path):
    file = tmp_path / "kd.yaml"
    file.write_text(f"""\
model:
  name: mobilebert_distillation
  framework: pytorch

distillation:
  train:
    optimizer:
      SGD:
        learning_rate: 0.001
    criterion:
      IntermediateLayersKnowledgeDistillationLoss:
        layer_mappings_for_knowledge_transfer: [{pairs}]
        loss_types: {list(losses)}
        loss_weights: {[int(weight) if weight == 1 else weight for weight in weights]}
        add_origin_loss: {origin}
""")
    (criterion,) = load(file).distillation.train.criterion
    assert criterion.options["loss_types"] == losses and criterion.options["loss_weights"] == weights
    assert criterion.options["add_origin_loss"] is origin


MAPPINGS = "layer_mappings_for_knowledge_transfer"


@pytest.mark.parametrize(
    "values",
    [
        {MAPPINGS: [["a", "b"]], "loss_types": ["KL"], "add_origin_loss": True, "train_steps": 500},
        {MAPPINGS: [[("a", "b")]], "loss_types": [["KL"]], "add_origin_loss": [True], "train_steps": [500]},
        {MAPPINGS: [[["a", "b"]]], "loss_types": "KL", "add_origin_loss": [True], "train_steps": 5e2},
        {"layer_mappings": (("a", "b"),), "loss_types": ("kl",), "add_origin_loss": True, "train_steps": (500,)},
        {"knowledge_transfer": {MAPPINGS: [["a", "b"]], "loss_types": [["KL"]], "train_steps": [500]}}
        | {"add_origin_loss": [True]},
    ],
)
@pytest.mark.parametrize("place", ["beside", "inside", "without flash"])
def test_all_spellings_of_a_regular_distillation_mean_the_same(values, place):
    flash = {"block_names": ["x"], MAPPINGS: [[["x", "y"]]]}
    before = copy.deepcopy(values)
    whole = {
        "beside": {"flash_distillation": flash, "regular_distillation": values},
        "inside": {"flash_distillation": {**flash, "regular_distillation": values}},
        "without flash": {"flash_distillation": {"regular_distillation": values}},
    }[place]
    found = section(**whole)
    assert values == before
    (stage,) = found.regular.stages
    assert (stage.block, stage.train_steps) == ("", 500)
    pair = list(stage.criterion["layer_mappings"][0])
    assert {**stage.criterion, "layer_mappings": pair} == {
        "layer_mappings": ["a", "b"],
        "loss_types": stage.criterion["loss_types"],
        "add_origin_loss": True,
    }
    assert stage.criterion["loss_types"] in ("KL", ("KL",))  # one for all pairs, or one for each of one
    assert (found.flash is None) == (place == "without flash")


def test_what_is_no_list_holds_for_every_stage():
    stages = section(
        flash_distillation={
            "block_names": ["a", "b"],
            "layer_mappings": [[["a"], ["a2"]], [["b"]]],
            "loss_types": "MSE",
            "loss_weights": [[1, 2], 3],
            "add_origin_loss": [False, True],
            "train_steps": [5, 6],
            "feature_matchers": "linear",
            "feature_mask": "attention_mask",
        }
    ).flash.stages
    shared = {"loss_types": "MSE", "feature_matchers": "linear", "feature_mask": "attention_mask"}
    where = "auto_distillation.flash_distillation.layer_mappings"
    first = {"layer_mappings": [["a"], ["a2"]], "loss_weights": (1.0, 2.0), "add_origin_loss": False}
    second = {"layer_mappings": [["b"]], "loss_weights": 3.0, "add_origin_loss": True}
    assert stages == (
        StageSettings("a", first | shared, 5, f"{where}[0]"),
        StageSettings("b", second | shared, 6, f"{where}[1]"),
    )


@pytest.mark.parametrize(
    ("mappings", "stages"),
    [
        ([["a"]], [[["a"]]]),
        ([["a", "b"]], [[["a", "b"]]]),
        ([["a", "0", "b", "0"], ["c"]], [[["a", "0", "b", "0"], ["c"]]]),
        ([[["a", "b"]]], [[["a", "b"]]]),
        ([[["a", "b"], ["c", "d"]]], [[["a", "b"], ["c", "d"]]]),  # no pair of layers with selectors
        ([[["a", 0], ["b", 1]]], [[[["a", 0], ["b", 1]]]]),  # a layer has no number for a name: a pair
        ([["a", ["b", "1"]]], [[["a", ["b", "1"]]]]),
        ([[["a"]], [["b"]]], [[["a"]], [["b"]]]),
        ([[{"student": "a", "teacher": "b"}], [["c"]]], [[{"student": "a", "teacher": "b"}], [["c"]]]),
        ([{"student": "a.{i}", "teacher": "b.{i}", "i": "0..3"}], [[{"student": "a.{i}"}]]),
        ({"student": "a.{i}", "teacher": "b.{i}", "i": "0..3"}, [{"student": "a.{i}"}]),
    ],
)
def test_the_depth_of_a_list_says_what_it_is(mappings, stages):
    found = [stage.criterion["layer_mappings"] for stage in regular(layer_mappings=mappings).stages]
    if "{i}" in str(mappings):
        assert found == [mappings]
    else:
        assert found == stages


def test_a_function_may_select_as_everywhere():
    def second(output):
        return output[1]

    (stage,) = regular(layer_mappings=[[["a", second], ["b", second]]]).stages
    assert stage.criterion["layer_mappings"] == [[["a", second], ["b", second]]]


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


def test_measurement_training_and_evaluation():
    found = section(
        measure={"batch_size": 8, "threads": 1},
        train={"epoch": 3, "dataloader": {"batch_size": 16}},
        evaluation={"metric": "F1"},
    )
    assert found.measure == MeasureSettings(batch_size=8, threads=1)
    assert found.train == TrainSettings(end_epoch=3, dataloader=DataloaderSettings(16))
    assert found.evaluation == EvaluationSettings(
        (MetricSettings(Named("F1", {}, "auto_distillation.evaluation.metric")),)
    )
    assert section() == AutoDistillationSettings() == section(search=None, measure=None, evaluation=None, train=None)
    assert section(flash_distillation=None, regular_distillation=None) == AutoDistillationSettings()
    assert load({}).auto_distillation is None and load({"auto_distillation": None}).auto_distillation is None


def test_a_view_reads_and_changes_it(tmp_path):
    file = tmp_path / "auto.yaml"
    file.write_text(CLASSIC_YAML)
    conf = DistillationConf(file)
    assert conf["auto_distillation.search.seed"] == 42
    assert conf["auto_distillation.search.heartbeat"] == 20.0
    assert conf["auto_distillation.flash_distillation.layer_mappings_for_knowledge_transfer[0][1][0]"].endswith(
        ".output"
    )
    assert conf.auto_distillation.search.keep_weights == "best"
    assert conf.auto_distillation.flash_distillation.share_blocks is False
    assert conf.auto_distillation.measure.repeats == 30
    assert conf.auto_distillation.evaluation.accuracy.dataloader.batch_size == 32
    conf.auto_distillation.search.max_trials = 3
    conf["auto_distillation.flash_distillation.train_steps"] = 7
    assert conf.settings.auto_distillation.search.max_trials == 3
    assert conf.settings.auto_distillation.flash.stages[0].train_steps == 7


def test_what_is_no_classic_mapping_stays_as_it_is():
    full = {"auto_distillation": {"search": {"search_space": {"a": (1, 2)}}}}
    assert as_configuration(full) == {"auto_distillation": {"search": {"search_space": {"a": [1, 2]}}}}
    other = {"distillation": {"train": {"epoch": 2}}, "evaluation": {"accuracy": {}}}
    assert as_configuration(other) == other and as_configuration(other) is not other
    mixed = {"model": {"name": "x"}, "search": {}, "evaluation": {"metric": "F1"}, "tuning": {"random_seed": 1}}
    assert as_configuration(mixed) == {
        "model": {"name": "x"},
        "tuning": {"random_seed": 1},
        "auto_distillation": {"search": {}, "evaluation": {"metric": "F1"}},
    }
