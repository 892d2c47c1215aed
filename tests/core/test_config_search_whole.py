"""The section ``auto_distillation`` as a whole: how lists are read, training, views, and the classic mapping."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdhooks.cli import main
from kdhooks.config import DistillationConf, describe, load
from kdhooks.config.model import DataloaderSettings, EvaluationSettings, MetricSettings, Named, TrainSettings
from kdhooks.config.search_settings import AutoDistillationSettings, MeasureSettings, StageSettings
from kdhooks.search.forms import as_configuration

AUTO_YAML = """\
auto_distillation:
  search: {search_space: {hidden_size: [128, 256]}, seed: 42}
  flash_distillation:
    block_names: [encoder.layer.0]
    layer_mappings_for_knowledge_transfer: [[[encoder.layer.0, bert.layer.0], [encoder.layer.0.output]]]
    loss_types: [[KL, MSE]]
"""


def section(**values):
    return load({"auto_distillation": values}).auto_distillation


def regular(**values):
    return section(regular_distillation=values).regular


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
    file.write_text(AUTO_YAML)
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


def test_the_command_line_validates_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "auto.yaml").write_text(AUTO_YAML)
    (tmp_path / "bad.yaml").write_text(AUTO_YAML.replace("seed: 42", "constraints: [latancy <= 5 ms]"))
    assert main(["validate", "auto.yaml", "bad.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == "auto.yaml: valid\n"
    assert err == (
        "bad.yaml:2:67: auto_distillation.search.constraints[0]: 'latancy' is neither a metric nor a parameter of the "
        "search space\n"
        "  2 |   search: {search_space: {hidden_size: [128, 256]}, constraints: [latancy <= 5 ms]}\n"
        "    |                                                                   ^^^^^^^^^^^^^^^\n"
        "  Did you mean 'latency'?\n"
    )


def test_the_stages_stand_in_their_order():
    one, two = {"layer_mappings": [[["a"]], [["b"]]]}, {"layer_mappings": [["c"]]}
    found = section(flash_distillation=one, regular_distillation=two)
    assert [stage.criterion["layer_mappings"] for stage in found.stages] == [[["a"]], [["b"]], [["c"]]]
    assert section().stages == ()


def test_the_page_of_the_configuration_has_every_key():
    page = (Path(__file__).parents[2] / "docs" / "search_configuration.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("|")]
    told = {word.split(".")[-1] for row in rows for word in re.findall(r"`([^`]+)`", row)}
    elsewhere = ("auto_distillation.train.", "auto_distillation.evaluation.", "auto_distillation.search.pruner.")
    keys = [
        described.path
        for described in describe()
        if described.path.startswith("auto_distillation.") and not described.path.startswith(elsewhere)
    ]
    classic = {"knowledge_transfer", "search", "flash_distillation", "regular_distillation", "measure"}
    assert {path.rsplit(".", 1)[1] for path in keys} - classic <= told
    assert all(f"`{name}" in page for name in classic)
