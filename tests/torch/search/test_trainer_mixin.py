"""A trainer of transformers that searches as well."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from transformers import AutoModelForSequenceClassification, MobileBertForSequenceClassification, TrainingArguments
from transformers import Trainer as TransformersTrainer

from kdhooks.search import Trainer, TrainerMixin
from tests.torch.search.trainer_parts import WORDS, classic, mobile, rows, teacher

AUTO = AutoModelForSequenceClassification


class WithAutoDistillation(TrainerMixin, TransformersTrainer):
    """A user's own trainer."""


def test_a_trainer_of_transformers_gains_the_method(tmp_path: Path) -> None:
    args = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        max_steps=3,
        learning_rate=1e-3,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    student = MobileBertForSequenceClassification(mobile(vocab_size=WORDS))
    trainer = WithAutoDistillation(
        model=student,
        args=args,
        train_dataset=rows(24),
        eval_dataset=rows(16),
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    content = classic(tmp_path)
    del content["flash_distillation"], content["regular_distillation"]["train_steps"], content["tuning"]
    trainer.autodistillation_config = content
    best = trainer.autodistillation(teacher())
    assert best is not None
    assert trainer.search_result.candidates[0].stages[0]["steps"] == 3, "max_steps"
    assert trainer.agent is not None and trainer.agent.config.workspace == tmp_path
    assert trainer.train().global_step == 3, "what it could do it still does"


def test_arguments_alone_will_do(tmp_path: Path) -> None:
    args = SimpleNamespace(per_device_train_batch_size=4, remove_unused_columns=True, seed=5, num_train_epochs=0.5)
    trainer = Trainer(mobile(), args, train_dataset=rows(16), eval_dataset=rows(8))
    trainer.autodistillation_config = {
        "search": {"search_space": {"hidden_size": [8]}, "max_trials": 1, "storage": "memory"},
        "regular_distillation": {"layer_mappings": [["classifier"]], "add_origin_loss": True},
        "tuning": {"workspace": {"path": str(tmp_path)}},
    }
    assert trainer.autodistillation(teacher(), model_cls=AUTO) == {"hidden_size": 8}
    assert trainer.search_result.best.stages[0]["steps"] == 2
    assert trainer.agent is not None and trainer.agent.settings.search.seed == 5
