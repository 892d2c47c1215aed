"""Small models and data for tests of the callback of transformers' `Trainer`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from kdhooks import Distillation
from kdhooks.integrations.transformers import DistillationCallback

PAD, WORDS, CLASSES = 0, 23, 3


def bert(kind: Any, seed: int, width: int = 16, layers: int = 2, dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(seed)
    shared: dict[str, Any] = {"vocab_size": WORDS, "num_labels": CLASSES, "num_attention_heads": 2}
    made = kind(
        BertConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            intermediate_size=2 * width,
            max_position_embeddings=32,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            **shared,
        )
    )
    return made  # type: ignore[no-any-return]


def llama(seed: int, width: int = 16, layers: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=32,
            pad_token_id=PAD,
        )
    )


def t5(seed: int, width: int = 16, dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(seed)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=WORDS,
            d_model=width,
            d_kv=8,
            d_ff=2 * width,
            num_layers=2,
            num_heads=2,
            dropout_rate=dropout,
            decoder_start_token_id=PAD,
            pad_token_id=PAD,
        )
    )


MODELS: dict[str, Any] = {
    "causal": llama,
    "masked": lambda seed, **sizes: bert(BertForMaskedLM, seed, **sizes),
    "sequences": lambda seed, **sizes: bert(BertForSequenceClassification, seed, **sizes),
    "tokens": lambda seed, **sizes: bert(BertForTokenClassification, seed, **sizes),
    "seq2seq": t5,
}


def rows(task: str, count: int = 12, seed: int = 5) -> list[dict[str, Tensor]]:
    """Rows of 4 to 9 tokens, not padded."""
    draws = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        length = int(torch.randint(4, 10, (), generator=draws))
        tokens = torch.randint(1, WORDS, (length,), generator=draws)
        row = {"input_ids": tokens, "attention_mask": torch.ones(length, dtype=torch.int64)}
        if task == "sequences":
            row["labels"] = torch.randint(CLASSES, (), generator=draws)
        elif task == "tokens":
            row["labels"] = torch.randint(CLASSES, (length,), generator=draws)
        elif task == "seq2seq":
            row["labels"] = torch.randint(1, WORDS, (int(torch.randint(3, 7, (), generator=draws)),), generator=draws)
        else:  # of a causal model the first two are the prompt's, of a masked one every second is left out
            row["labels"] = tokens.clone()
            row["labels"][slice(0, 2) if task == "causal" else slice(0, None, 2)] = -100
        found.append(row)
    return found


def padded(batch: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """As a collator does: zeros behind tokens, -100 behind labels."""
    made = {}
    for name in batch[0]:
        fill = -100 if name == "labels" else 0
        if batch[0][name].ndim == 0:
            made[name] = torch.stack([row[name] for row in batch])
        else:
            columns = [row[name] for row in batch]
            made[name] = nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=fill)
    return made


def arguments(folder: Path, **changed: Any) -> TrainingArguments:
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "max_steps": 4,
        "per_device_train_batch_size": 3,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**(options | changed))


def trainer(
    model: nn.Module,
    folder: Path,
    task: str,
    callback: Any = None,
    kind: Any = Trainer,
    given: Any = None,
    **changed: Any,
) -> Any:
    """A `Trainer` for a task; with a callback, or without one."""
    options: dict[str, Any] = {"train_dataset": rows(task), "data_collator": padded, **(given or {})}
    if callback is not None:
        options["callbacks"] = [callback]
    return kind(model, arguments(folder, **changed), **options)


def conf(weights: tuple[Any, Any] = (0.4, 0.6), pairs: list[Any] | None = None, **options: Any) -> dict[str, Any]:
    """A configuration of KL to the teacher, and of pairs of layers where some are named."""
    criterion: dict[str, Any] = {
        "KnowledgeDistillationLoss": {"temperature": 2.0, "loss_types": ["CE", "KL"], "loss_weights": list(weights)}
    }
    if pairs is not None:
        criterion["IntermediateLayersKnowledgeDistillationLoss"] = {
            "layer_mappings": pairs,
            "loss_types": ["MSE"] * len(pairs),
            "loss_weights": [0.5] * len(pairs),
            "feature_matchers": ["auto"] * len(pairs),
            **options,
        }
    return {"distillation": {"train": {"criterion": criterion}}}


def callback(task: str, **options: Any) -> DistillationCallback:
    """A callback whose teacher is twice as wide as the student."""
    return DistillationCallback(Distillation(conf(**options), teacher_model=MODELS[task](9, width=32)))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def losses(trained: Any, name: str = "loss") -> list[float]:
    return [entry[name] for entry in trained.state.log_history if name in entry]


def quiet() -> None:
    """What transformers itself warns of, where that is not what a test is about."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
