"""The section ``auto_distillation`` as a whole: measurement, training, views, and the classic mapping without it."""

from __future__ import annotations

import re
from pathlib import Path

from kdhooks.cli import main
from kdhooks.config import DistillationConf, describe, load
from kdhooks.config.model import DataloaderSettings, EvaluationSettings, MetricSettings, Named, TrainSettings
from kdhooks.config.search_settings import AutoDistillationSettings, MeasureSettings
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
