"""The out-of-the-box mode from end to end, on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    BertForPreTraining,
    DistilBertConfig,
    EvalPrediction,
    MobileBertForSequenceClassification,
)

import kdhooks.search
from kdhooks import ConfigError, DistillationConf
from kdhooks.errors import DataError, UsageError
from kdhooks.search import Trainer
from tests.torch.search.trainer_parts import SPACE, WORDS, classic, mobile, rows, teacher

AUTO = AutoModelForSequenceClassification


def a_trainer(folder: Path, **changes: Any) -> Trainer:
    made = Trainer(mobile(), train_dataset=rows(24), eval_dataset=rows(16), **{"batch_size": 8, **changes})
    made.autodistillation_config = classic(folder)
    return made


def test_a_configuration_and_data_are_enough(tmp_path: Path) -> None:
    trainer, taught = a_trainer(tmp_path), teacher()
    before = {name: value.clone() for name, value in taught.state_dict().items()}
    best = trainer.autodistillation(taught, model_cls=AUTO)
    assert best == trainer.best_model_arch == trainer.search_result.best_model_arch
    assert best is not None and set(best) == set(SPACE)
    assert [candidate.state for candidate in trainer.search_result.candidates] == ["complete", "complete"]
    first = trainer.search_result.candidates[0]
    assert 0 <= first.metrics["accuracy"] <= 1
    assert [(stage["kind"], stage["block"], stage["steps"]) for stage in first.stages] == [
        ("flash", "mobilebert.encoder.layer.0", 2),
        ("flash", "mobilebert.encoder.layer.1", 2),
        ("regular", "", 2),
    ]
    assert "CE" in first.stages[2]["losses"] and "KL[classifier]" in first.stages[2]["losses"]
    assert all(torch.equal(value, before[name]) for name, value in taught.state_dict().items())


def test_the_same_seed_finds_the_same(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        torch.manual_seed(0)
        trainer, taught = a_trainer(tmp_path / name, seed=7), teacher()
        trainer.autodistillation(taught, model_cls=AUTO)
        found.append([(one.arch, one.metrics, one.stages[-1]["losses"]) for one in trainer.search_result.candidates])
    assert found[0] == found[1]


def test_a_configuration_may_be_a_file_or_an_object(tmp_path: Path) -> None:
    content = DistillationConf(kdhooks.search.forms.as_configuration(classic(tmp_path, max_trials=1)))
    trainer = a_trainer(tmp_path)
    trainer.autodistillation_config = content
    assert trainer.autodistillation(teacher(), model_cls=AUTO) is not None
    assert not content.has("auto_distillation.train"), "the user's own object is left alone"


def test_the_best_model_has_the_weights_that_were_judged(tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path)
    trainer.autodistillation_config = classic(tmp_path, storage=None, keep_weights="best")
    trainer.autodistillation(teacher(), model_cls=AUTO)
    assert trainer.agent is not None
    student = trainer.agent.best_model()
    assert isinstance(student, MobileBertForSequenceClassification)
    best = trainer.search_result.best
    logits, labels = predicted(student, trainer)
    assert (logits.argmax(1) == labels).mean() == pytest.approx(best.metrics["accuracy"])


def predicted(model: Any, trainer: Trainer) -> tuple[Any, Any]:
    from kdhooks.torch.rows import predictions

    return predictions(model.eval(), trainer.get_eval_dataloader())


def test_compute_metrics_judges(tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(np.asarray(prediction.predictions).shape + np.asarray(prediction.label_ids).shape)
        return {"eval_f1": 0.25, "accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    trainer = a_trainer(tmp_path, compute_metrics=compute_metrics)
    trainer.autodistillation_config = classic(tmp_path, metrics=["f1", "accuracy"])
    trainer.autodistillation(teacher(), model_cls=AUTO)
    assert seen == [(16, 2, 16)] * 2
    assert [one.metrics["f1"] for one in trainer.search_result.candidates] == [0.25, 0.25]


def test_logits_may_be_preprocessed(tmp_path: Path) -> None:
    trainer = a_trainer(
        tmp_path,
        compute_metrics=lambda prediction: {"accuracy": float(prediction.predictions.ndim)},
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
    )
    trainer.autodistillation(teacher(), model_cls=AUTO)
    assert trainer.search_result.best.metrics == {"accuracy": 1.0}


def test_the_users_own_functions_come_first(tmp_path: Path) -> None:
    trained: list[int] = []
    trainer = a_trainer(tmp_path, compute_metrics=lambda prediction: {"accuracy": 0.0})

    def build(arch: dict[str, Any]) -> Any:
        return AUTO.from_config(mobile(vocab_size=WORDS, **arch))

    best = trainer.autodistillation(
        teacher(),
        build,
        train_func=lambda model: trained.append(model.config.hidden_size),
        eval_func=lambda model: {"accuracy": model.config.hidden_size / 100},
    )
    assert trained == [8, 8] or trained == [8, 16]
    assert best is not None
    assert trainer.search_result.best.metrics["accuracy"] == best["hidden_size"] / 100


def test_the_classic_example_runs_as_it_is_written(tmp_path: Path) -> None:
    """Attention probabilities, pairs in tuples, `knowledge_transfer`, heads of a pretraining model."""
    layers = 2
    trainer = Trainer(mobile(), train_dataset=masked(16), eval_dataset=masked(8), batch_size=4)
    trainer.autodistillation_config = {
        "search": {
            "search_space": {
                "hidden_size": [8, 12, 16, 20],
                "intra_bottleneck_size": [4, 6, 8, 10],
                "num_attention_heads": [1, 2, 4, 8],
                "intermediate_size": [8, 12, 16],
                "num_feedforward_networks": [2, 4, 6],
            },
            "max_trials": 3,
            "storage": "memory",
        },
        "flash_distillation": {
            "knowledge_transfer": {
                "block_names": [f"mobilebert.encoder.layer.{i}" for i in range(layers)],
                "layer_mappings_for_knowledge_transfer": [
                    [
                        (
                            f"mobilebert.encoder.layer.{i}.attention.self",
                            "1",
                            f"bert.encoder.layer.{i}.attention.self",
                            "1",
                        ),
                        (f"mobilebert.encoder.layer.{i}.output", f"bert.encoder.layer.{i}.output"),
                    ]
                    for i in range(layers)
                ],
                "loss_types": [["KL", "MSE"] for i in range(layers)],
                "train_steps": [2 for i in range(layers)],
            },
            "regular_distillation": {
                "layer_mappings_for_knowledge_transfer": [[("cls", "0", "cls", "0")]],
                "loss_types": [["KL"]],
                "add_origin_loss": [True],
                "train_steps": [2],
            },
        },
        "tuning": {"workspace": {"path": str(tmp_path)}},
    }
    taught = BertForPreTraining(teacher().config).eval()
    assert taught.config._attn_implementation == "sdpa", "whose kernels have no probabilities"
    best_model_arch = trainer.autodistillation(taught, model_cls=AutoModelForPreTraining)
    states = {one.state: one.reason for one in trainer.search_result.candidates}
    assert best_model_arch is not None, states
    assert taught.config._attn_implementation == "sdpa", "as it was"
    complete = [one for one in trainer.search_result.candidates if one.state == "complete"]
    assert complete[0].stages[0]["losses"].keys() >= {"KL[mobilebert.encoder.layer.0.attention.self]", "total"}


def masked(count: int) -> list[dict[str, Any]]:
    """Sentences whose first word is to be found."""
    return [
        {"input_ids": [1, *row["input_ids"][1:]], "labels": [row["input_ids"][0], *[-100] * 4]} for row in rows(count)
    ]


def test_a_parameter_that_the_configuration_lacks_ends_the_search_before_it_begins(tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path)
    trainer.autodistillation_config = classic(tmp_path, search_space={"hiden_size": [8], "layers": [1, 2]})
    with pytest.raises(ConfigError) as caught:
        trainer.autodistillation(teacher(), model_cls=AUTO)
    assert [(problem.path, problem.message) for problem in caught.value.problems] == [
        ("auto_distillation.search.search_space.hiden_size", "MobileBertConfig has no parameter 'hiden_size'"),
        ("auto_distillation.search.search_space.layers", "MobileBertConfig has no parameter 'layers'"),
    ]
    assert caught.value.problems[0].suggestion == "Did you mean 'hidden_size'?"
    assert trainer.agent is None


def test_parameters_that_do_not_fit_together_are_the_candidates_own_failure(tmp_path: Path) -> None:
    trainer = Trainer(teacher().config, train_dataset=rows(16), eval_dataset=rows(8), batch_size=8)
    trainer.autodistillation_config = {
        "search": {"search_space": {"num_attention_heads": [2, 3]}, "search_algorithm": "Grid", "storage": "memory"},
        "regular_distillation": {"layer_mappings": [["classifier"]], "train_steps": 1},
        "tuning": {"workspace": {"path": str(tmp_path)}},
    }
    assert trainer.autodistillation(teacher(), model_cls=AUTO) == {"num_attention_heads": 2}
    failed = next(one for one in trainer.search_result.candidates if one.state == "failed")
    assert failed.arch == {"num_attention_heads": 3}
    assert failed.reason.startswith(
        "model_builder raised ValueError: The hidden size (16) is not a multiple of the number of attention heads (3)"
    )


def test_a_study_of_another_configuration_is_refused(tmp_path: Path) -> None:
    content = classic(tmp_path, storage=None, max_trials=1, keep_weights="none")
    trainer = a_trainer(tmp_path)
    trainer.autodistillation_config = content
    found = trainer.autodistillation(teacher(), model_cls=AUTO)
    assert trainer.autodistillation(teacher(), model_cls=AUTO) == found, "which was trained already"
    trainer.config = mobile(intermediate_size=16)
    with pytest.raises(ConfigError, match=r'of another search: built from was "MobileBertConfig [0-9a-f]{8} for Auto'):
        trainer.autodistillation(teacher(), model_cls=AUTO)


def test_a_field_that_the_student_lacks_is_taken_from_the_teacher_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = [{**row, "token_type_ids": [0] * 5} for row in rows(16)]
    sizes = {"dim": 8, "n_heads": 2, "n_layers": 1, "hidden_dim": 8, "max_position_embeddings": 16}
    trainer = Trainer(DistilBertConfig(**sizes), train_dataset=data, eval_dataset=data, batch_size=8)
    trainer.autodistillation_config = {
        "search": {"search_space": {"hidden_dim": [8]}, "storage": "memory", "max_trials": 1},
        "regular_distillation": {"layer_mappings": [["classifier"]], "train_steps": 1},
        "tuning": {"workspace": {"path": str(tmp_path)}},
    }
    assert trainer.autodistillation(teacher(), model_cls=AUTO) == {"hidden_dim": 8}
    told = [text for text in caplog.messages if "token_type_ids" in text]
    assert told == [
        "the student's forward takes no 'token_type_ids', so the teacher, whose input is the student's, goes without it"
    ]


def test_initial_weights_are_matched_as_the_configuration_says(tmp_path: Path) -> None:
    source = MobileBertForSequenceClassification(mobile(vocab_size=WORDS, max_position_embeddings=16))
    seen: list[dict[str, torch.Tensor]] = []
    trainer = a_trainer(tmp_path, pretrained_model=source)
    trainer.autodistillation_config = {
        **classic(tmp_path, search_space={"hidden_size": [16]}),
        "finetune": {"exclude": ["classifier"]},
    }
    trainer.autodistillation(
        teacher(),
        model_cls=AUTO,
        train_func=lambda model: seen.append({name: value.clone() for name, value in model.state_dict().items()}),
    )
    theirs = source.state_dict()
    different = {name for name, value in seen[0].items() if not torch.equal(value, theirs[name])}
    assert different == {"classifier.weight"}, "whose bias is 0 in both"


def test_loaders_take_the_place_of_datasets(tmp_path: Path) -> None:
    source = Trainer(train_dataset=rows(16), batch_size=8)
    batches = [{**batch, "idx": torch.zeros(8)} for batch in source.get_train_dataloader()]
    trainer = Trainer(mobile(), train_dataloader=batches, eval_dataloader=batches)
    trainer.autodistillation_config = classic(tmp_path, max_trials=1)
    assert trainer.autodistillation(teacher(), model_cls=AUTO) is not None


def test_a_tokenizer_pads(tmp_path: Path) -> None:
    class Tokenizer:
        padded = 0

        def pad(self, features: Any, **options: Any) -> dict[str, torch.Tensor]:
            self.padded += 1
            longest = max(len(row["input_ids"]) for row in features)
            ids = [[*row["input_ids"], *[0] * (longest - len(row["input_ids"]))] for row in features]
            return {"input_ids": torch.tensor(ids), "label": torch.tensor([row["label"] for row in features])}

    data = [*rows(8), *rows(8, words=3)]
    tokenizer = Tokenizer()
    trainer = a_trainer(tmp_path, processing_class=tokenizer)
    trainer.train_dataset = trainer.eval_dataset = data
    assert trainer.autodistillation(teacher(), model_cls=AUTO) is not None
    assert tokenizer.padded > 0


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path)
    trainer.autodistillation_config = None
    with pytest.raises(UsageError) as caught:
        trainer.autodistillation(teacher(), model_cls=AUTO)
    assert str(caught.value) == "set trainer.autodistillation_config: a path, a dict or a DistillationConf"
    trainer.autodistillation_config = {"distillation": {}}
    with pytest.raises(ConfigError) as wrong:
        trainer.autodistillation(teacher(), model_cls=AUTO)
    assert str(wrong.value) == (
        "<dict>: there is no section auto_distillation\n  Put search, flash_distillation and so on below it."
    )
    with pytest.raises(UsageError) as both:
        Trainer(mobile(), model=mobile())
    assert str(both.value) == ("config and model are two names of one thing, what candidates are built from: give one")
    with pytest.raises(UsageError) as none:
        Trainer(mobile()).get_train_dataloader()
    assert str(none.value) == "the trainer has no train_dataset and no train_dataloader"


def test_odd_data_are_told(tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path)
    trainer.train_dataset = [[1, 2], [3, 4]] * 8
    with pytest.raises(DataError) as caught:
        trainer.autodistillation(teacher(), model_cls=AUTO)
    assert str(caught.value) == "the rows of a dataset must be mappings by the names of the model's inputs, not a list"
    trainer.train_dataset = iter(rows(8))
    with pytest.raises(DataError, match=r"^a dataset must have len\(\) and rows by number, and this one is a "):
        trainer.autodistillation(teacher(), model_cls=AUTO)
    trainer = a_trainer(tmp_path)
    trainer.eval_dataset = {"matched": rows(8), "mismatched": rows(8)}
    with pytest.raises(UsageError) as several:
        trainer.autodistillation(teacher(), model_cls=AUTO)
    assert str(several.value) == "eval_dataset holds several datasets: candidates are judged by one, so give the one"
