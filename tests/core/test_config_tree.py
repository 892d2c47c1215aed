"""The tree of rules as a whole: its defaults, its words, the names it knows; nothing passes unchecked."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest

from kdhooks.config import DistillationConf, add_known_loss, describe, known, load
from kdhooks.config.finetune_settings import FinetuneSettings, StartingPointSettings
from kdhooks.config.model import AdaptationSettings, DataloaderSettings, EvaluationSettings, Settings, TrainSettings
from kdhooks.config.schema import ROOT
from kdhooks.config.search_settings import AutoDistillationSettings, FlashSettings
from kdhooks.config.sections import Names, Section
from kdhooks.errors import ConfigError, UsageError
from kdhooks.names import Table

KD = "distillation.train.criterion.KnowledgeDistillationLoss"


def at(path, value):
    """A dict with one value at a path."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def train(**values):
    return load({"distillation": {"train": values}}).distillation.train


def refused(source):
    with pytest.raises(ConfigError) as caught:
        DistillationConf(source)
    return [str(problem) for problem in caught.value.problems]


def test_a_registered_loss_can_be_named(monkeypatch):
    tables = []
    for name in ("STUDENT_LOSSES", "TEACHER_LOSSES"):
        table = getattr(known, name)
        copy = Table(table.what)
        for entry, value in table.items():
            copy.add(entry, value)
        monkeypatch.setattr(known, name, copy)
        monkeypatch.setattr(f"kdhooks.config.leaves.{name}", copy)
        tables.append(copy)
    criterion = {"KnowledgeDistillationLoss": {"loss_types": ["CE", "my_loss"]}}
    assert refused({"distillation": {"train": {"criterion": criterion}}}) == [
        f"<dict>: {KD}.loss_types[1]: unknown loss against the teacher 'my_loss'\n"
        "  Known: CE, dist, dkd, hard_label, JSD, KL, L1, logit_standardization, mft, MSE, reverse_KL, skewed_kl, "
        "teacher_free"
    ]
    add_known_loss("My-Loss")
    assert train(criterion=criterion).criterion[0].options["loss_types"] == ("CE", "My-Loss")
    with pytest.raises(UsageError) as caught:
        add_known_loss("my_loss", replace=False)
    assert str(caught.value) == (
        "the loss against the teacher 'my_loss' exists already; pass replace=True to replace it"
    )


def test_the_defaults_of_the_tree_are_those_of_the_settings():
    assert load() == load({}) == Settings()
    whole = {}
    for described in describe():
        twice = ("evaluation", "auto_distillation.evaluation", "auto_distillation.train")
        if described.default not in (None, {}, []) and not described.path.startswith(twice):
            holder = whole
            *above, last = described.path.split(".")
            for name in above:
                holder = holder.setdefault(name, {})
            holder[last] = described.default
    whole["distillation"]["train"].pop("dataloader")
    for name in set(whole["distillation"]["train"]["criterion"]) - {"KnowledgeDistillationLoss"}:  # need layers
        whole["distillation"]["train"]["criterion"].pop(name)
    adapting = {key: value for key, value in whole.pop("domain_adaptation").items() if not key.endswith("dataloader")}
    assert adapting["adversary"].pop("optimizer") == {"Adam": {"learning_rate": 0.001}}  # a path differs
    criterion = {"criterion": {"MCC": {}}}
    for values in (adapting, {}):
        made = load({"domain_adaptation": criterion | values}).domain_adaptation
        assert made == AdaptationSettings(criterion=made.criterion)
    assert set(adapting) >= {"joint_forward", "alternating", "adversary", "reversal", "gather", "ignore_index"}
    whole["finetune"].pop("delta")  # needs layers as well
    searching = whole.pop("auto_distillation")
    layers = {"layer_mappings": [["a", "b"]]}
    stages = {name: {**searching.pop(f"{name}_distillation"), **layers} for name in ("flash", "regular")}
    pruners = searching["search"].pop("pruner")  # one at a time
    made = load({"auto_distillation": searching}).auto_distillation
    assert made == AutoDistillationSettings()
    for name, options in pruners.items():
        assert load({"auto_distillation": {"search": {"pruner": {name: options}}}}).auto_distillation.search.pruner
    for name, values in stages.items():
        (stage,) = getattr(load({"auto_distillation": {f"{name}_distillation": values}}).auto_distillation, name).stages
        assert (stage.block, stage.train_steps, stage.criterion["add_origin_loss"]) == ("", None, False)
    flash = load({"auto_distillation": {"flash_distillation": stages["flash"]}}).auto_distillation.flash
    assert flash == FlashSettings(flash.stages)
    found = load(whole)
    assert found.finetune == FinetuneSettings(l2_sp=StartingPointSettings())
    assert found.distillation.train.criterion[0].options == {
        "temperature": 1.0,
        "loss_types": ("CE", "KL"),
        "loss_weights": (0.5, 0.5),
        "ignore_index": -100,
        "combine": "losses",
    }
    plain = {"optimizer": {"SGD": {"learning_rate": 0.001}}}
    settings = load({"distillation": {"train": plain}})
    loop = {
        field.name: getattr(found.distillation.train, field.name)
        for field in fields(TrainSettings)
        if field.name != "criterion"
    }
    assert loop == {name: getattr(settings.distillation.train, name) for name in loop}
    assert (found.model, found.device, found.tuning) == (settings.model, settings.device, settings.tuning)
    data = ROOT.key("distillation").rule.key("train").rule.key("dataloader").rule
    for key in data.keys:
        if key.default is not None:
            assert data.check({key.name: key.default}, "", None) == DataloaderSettings()


def test_every_key_is_described_in_one_line():
    for described in describe():
        assert described.doc and "\n" not in described.doc and not described.doc.endswith("."), described
    paths = [described.path for described in describe()]
    assert len(paths) == len(set(paths))
    assert "distillation.train.criterion.KnowledgeDistillationLoss.temperature" in paths


def test_every_key_of_every_section_refuses_a_list_of_nonsense():
    """No rule lets anything through unchecked, and none raises anything but a ConfigError."""

    def walk(section, path):
        for key in section.keys:
            where = f"{path}.{key.name}" if path else key.name
            yield where, key.rule
            if isinstance(key.rule, Section):
                yield from walk(key.rule, where)

    for path, rule in walk(ROOT, ""):
        for nonsense in ([[3]], {"no such key": object()}, object(), -0.5, "no such word / at all"):
            text = isinstance(nonsense, str)
            if text and (
                isinstance(rule, Names)
                or path.endswith((".path", ".resume", ".inputs", ".outputs", ".pretrained"))
                or path.endswith((".metrics", ".study_name", ".block_names", ".feature_mask"))
                or (path.startswith("tuning.loggers.") and not path.endswith(".mode"))  # names, addresses, folders
            ):
                continue
            assert refused(at(path, nonsense)), (path, nonsense)


def test_settings_are_frozen_all_the_way_down():
    def walk(value):
        assert not is_dataclass(value) or value.__dataclass_params__.frozen
        for field in fields(value) if is_dataclass(value) else ():
            walk(getattr(value, field.name))

    walk(Settings(evaluation=EvaluationSettings(), auto_distillation=AutoDistillationSettings(flash=FlashSettings())))
