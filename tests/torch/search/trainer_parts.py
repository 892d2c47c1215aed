"""A tiny teacher, sentences that say their label in the first word, and a space of tiny MobileBERTs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, MobileBertConfig

WORDS = 40
SPACE = {"hidden_size": [8, 16], "num_feedforward_networks": [1, 2]}

Rows = list[dict[str, Any]]


def teacher(labels: int = 2, **options: Any) -> BertForSequenceClassification:
    """Two layers of 16 channels."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=WORDS, max_position_embeddings=16, num_labels=labels, **sizes, **options)
    return BertForSequenceClassification(config).eval()


def mobile(**options: Any) -> MobileBertConfig:
    """Two layers; whatever the search does not decide is as small as it can be."""
    sizes = {
        "hidden_size": 16,
        "embedding_size": 8,
        "intra_bottleneck_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "num_feedforward_networks": 1,
        "num_hidden_layers": 2,
    }
    return MobileBertConfig(**{**sizes, **options})


def rows(count: int, *, words: int = 5) -> Rows:
    """Sentences of tokens, with a text and a number that no model takes."""
    generator = torch.Generator().manual_seed(count)
    made = []
    for number in range(count):
        ids = torch.randint(2, WORDS, (words,), generator=generator).tolist()
        made.append({"input_ids": ids, "attention_mask": [1] * words, "label": ids[0] % 2, "idx": number, "text": "?"})
    return made


def classic(folder: Path, **search: Any) -> dict[str, Any]:
    """The classic dict, for two steps of each of two blocks and two of the whole."""
    return {
        "search": {
            "search_space": SPACE,
            "search_algorithm": "Grid",
            "metrics": ["accuracy"],
            "max_trials": 2,
            "storage": "memory",
            **search,
        },
        "flash_distillation": {
            "block_names": [f"mobilebert.encoder.layer.{i}" for i in range(2)],
            "layer_mappings": [
                [[f"mobilebert.encoder.layer.{i}.output", f"bert.encoder.layer.{i}.output"]] for i in range(2)
            ],
            "train_steps": [2, 2],
        },
        "regular_distillation": {
            "layer_mappings": [[["classifier"]]],
            "loss_types": [["KL"]],
            "add_origin_loss": [True],
            "train_steps": [2],
        },
        "tuning": {"workspace": {"path": str(folder)}},
    }
