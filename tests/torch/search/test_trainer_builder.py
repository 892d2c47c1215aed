"""The builder of the out-of-the-box mode: from a configuration of transformers to a candidate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    MobileBertConfig,
    MobileBertForSequenceClassification,
)

from kdhooks.errors import DataError, MissingPackageError, UsageError
from kdhooks.search import Trainer
from kdhooks.search.trainers.builder import ConfigBuilder
from tests.torch.search.trainer_parts import WORDS, mobile, teacher

AUTO = AutoModelForSequenceClassification


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_candidate_has_the_parameters_of_its_architecture_and_what_follows_from_them() -> None:
    model = ConfigBuilder(mobile(), AUTO)({"intra_bottleneck_size": 4, "num_hidden_layers": 1})
    assert isinstance(model, MobileBertForSequenceClassification)
    assert len(model.mobilebert.encoder.layer) == 1
    assert model.config.true_hidden_size == 4, "computed from the bottleneck, not copied from the base"
    assert model.config.hidden_size == 16, "of the base"


@pytest.mark.parametrize("config", [mobile(), MobileBertForSequenceClassification(mobile())], ids=["instance", "model"])
def test_a_configuration_and_a_model_say_the_same(config: Any) -> None:
    made = ConfigBuilder(config, AUTO)({"hidden_size": 8}).config
    assert (made.hidden_size, made.embedding_size, made.num_hidden_layers) == (8, 8, 2)


def test_a_configuration_class_has_the_defaults_of_its_class() -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 8, "intra_bottleneck_size": 8, "vocab_size": 10}
    made = ConfigBuilder(MobileBertConfig, AUTO)(sizes).config
    assert made.embedding_size == MobileBertConfig().embedding_size


def test_a_model_class_needs_no_configuration() -> None:
    builder = ConfigBuilder(None, BertForSequenceClassification)
    made = builder.configuration({"num_hidden_layers": 3})
    assert isinstance(made, BertConfig)
    assert made.num_hidden_layers == 3


def test_the_class_of_a_model_is_the_class_of_candidates() -> None:
    assert ConfigBuilder(teacher()).model_cls is BertForSequenceClassification


def test_a_folder_is_read_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mobile(num_labels=3).save_pretrained(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for folder in (tmp_path, str(tmp_path)):
        made = ConfigBuilder(folder, AUTO)({"hidden_size": 8})
        assert (made.config.hidden_size, made.config.embedding_size, made.config.num_labels) == (8, 8, 3)


def test_vocabulary_and_labels_are_the_teachers_where_nothing_else_is_said() -> None:
    taught = teacher(labels=3, id2label={0: "bad", 1: "so so", 2: "good"}, label2id={"bad": 0, "so so": 1, "good": 2})
    made = ConfigBuilder(mobile(), AUTO, teacher=taught)({}).config
    assert (made.vocab_size, made.max_position_embeddings) == (WORDS, 16)
    assert made.id2label == {0: "bad", 1: "so so", 2: "good"}
    said = ConfigBuilder(mobile(vocab_size=50, num_labels=5), AUTO, teacher=taught)({}).config
    assert (said.vocab_size, said.num_labels) == (50, 5)
    assert ConfigBuilder(mobile(), AUTO, teacher=taught)({"num_labels": 4}).config.num_labels == 4


def test_names_of_other_classes_are_translated() -> None:
    base = DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=16, vocab_size=WORDS)
    made = ConfigBuilder(base, AUTO)({"hidden_size": 8, "num_hidden_layers": 1}).config
    assert (made.dim, made.n_layers, made.hidden_dim) == (8, 1, 16)


def test_an_unknown_parameter_is_told() -> None:
    with pytest.raises(UsageError) as caught:
        ConfigBuilder(mobile(), AUTO)({"hiden_size": 8})
    assert str(caught.value) == (
        "hiden_size: MobileBertConfig has no parameter 'hiden_size'. Did you mean 'hidden_size'?"
    )


def test_parameters_that_do_not_fit_together_raise_what_transformers_raises() -> None:
    with pytest.raises(ValueError, match="is not a multiple of the number of attention heads"):
        ConfigBuilder(BertConfig(vocab_size=10), AUTO)({"hidden_size": 10, "num_attention_heads": 3})


def test_without_a_class_or_a_configuration_the_cure_is_told() -> None:
    with pytest.raises(UsageError) as caught:
        ConfigBuilder(mobile())
    assert str(caught.value) == (
        "there is no class to build candidates from: pass model_cls, an AutoModel... class as in "
        "model_cls=AutoModelForSequenceClassification, or a model_builder of your own"
    )
    with pytest.raises(UsageError) as caught:
        ConfigBuilder(None, AUTO)
    assert str(caught.value) == (
        "AutoModelForSequenceClassification alone does not say which architecture is meant: give the Trainer a "
        "configuration class, a configuration, a checkpoint's folder or a model"
    )
    with pytest.raises(UsageError) as caught:
        ConfigBuilder({"hidden_size": 8}, AUTO)
    assert str(caught.value) == (
        "candidates are built from a configuration class of transformers, a configuration, a checkpoint's folder or a "
        "model of transformers, not from a mapping"
    )


def test_a_folder_without_a_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^there is no configuration in '{tmp_path}': "):
        ConfigBuilder(tmp_path, AUTO)
    with pytest.raises(DataError, match=r"^there is no configuration in '\./nowhere': "):
        ConfigBuilder("./nowhere", AUTO)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingPackageError) as caught:
        ConfigBuilder("somewhere", AUTO)
    assert str(caught.value) == (
        "kdhooks.search.Trainer needs the package 'transformers': pip install 'kdhooks[transformers]'"
    )


def test_initial_weights_are_taken_where_shapes_agree(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = MobileBertForSequenceClassification(mobile(vocab_size=WORDS))
    source.save_pretrained(tmp_path)
    for pretrained in (source, source.state_dict(), tmp_path):
        builder = ConfigBuilder(source.config, AUTO, pretrained=pretrained)
        whole = builder({})
        assert same(whole, source)
        part = builder({"intermediate_size": 4})
        taken = "mobilebert.encoder.layer.0.attention.self.query.weight"
        assert torch.equal(part.state_dict()[taken], source.state_dict()[taken])
        assert part.state_dict()["mobilebert.encoder.layer.0.intermediate.dense.weight"].shape == (4, 8)
    assert not any(module._forward_hooks for module in whole.modules()), "nothing of ours stays"
    assert same(ConfigBuilder(tmp_path, AUTO, pretrained=True)({}), source)


def test_without_a_wish_weights_are_random(tmp_path: Path) -> None:
    source = MobileBertForSequenceClassification(mobile(vocab_size=WORDS))
    assert not same(ConfigBuilder(source, AUTO)({}), source)


def test_weights_of_a_class_are_no_weights() -> None:
    with pytest.raises(UsageError) as caught:
        ConfigBuilder(mobile(), AUTO, pretrained=True)({})
    assert str(caught.value) == (
        "pretrained_model=True needs a folder or a model to take weights from, not an object of type MobileBertConfig"
    )


def test_the_trainers_builder_can_be_called_alone() -> None:
    trainer = Trainer(mobile())
    assert trainer.model_builder_builtin({"hidden_size": 8}, AUTO).config.hidden_size == 8
    assert Trainer(model=teacher()).model_builder_builtin({"num_hidden_layers": 1}).config.num_hidden_layers == 1
