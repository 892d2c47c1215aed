"""The section ``auto_distillation``: every classic spelling, and what a search may say."""

from __future__ import annotations

import copy

import pytest

from kdhooks.config import DistillationConf, load
from kdhooks.config.model import EvaluationSettings, MetricSettings, Named, TrainSettings
from kdhooks.config.search_settings import (
    AutoDistillationSettings,
    Choices,
    FlashSettings,
    SearchSettings,
    StageSettings,
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
