"""A small wav2vec 2.0 (Baevski et al. 2020) as teacher, and the same with fewer layers as student."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

from speech.recordings import DIGITS

LAYERS = "wav2vec2.encoder.layers"


def network(layers: int, seed: int, width: int = 96) -> Wav2Vec2ForSequenceClassification:
    """A classifier with so many transformer layers, of random weights."""
    torch.manual_seed(seed)
    return Wav2Vec2ForSequenceClassification(
        Wav2Vec2Config(
            num_labels=DIGITS,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=2 * width,
            conv_dim=(width // 2,) * 5,
            conv_kernel=(10, 3, 3, 3, 2),
            conv_stride=(5, 2, 2, 2, 2),
            num_feat_extract_layers=5,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            classifier_proj_size=width // 2,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            layerdrop=0.0,  # a layer that is left out by chance has no features
            apply_spec_augment=False,
        )
    )


def kept_layers(teacher: int, student: int) -> list[int]:
    """The teacher's layers that the student begins with, the last among them: of 6 and 2 the layers 2 and 5.

    >>> kept_layers(6, 2)
    [2, 5]
    """
    return [(number + 1) * teacher // student - 1 for number in range(student)]


def configuration(teacher: int, student: int) -> dict[str, Any]:
    """Weight transfer from the kept layers, and distillation of logits and of these layers' hidden states."""
    kept = kept_layers(teacher, student)
    rename: dict[str, str | None] = {}
    for number in range(teacher):  # in this order, so that none is renamed twice
        new = f"{LAYERS}.{kept.index(number)}." if number in kept else None
        rename[rf"^{LAYERS}\.{number}\."] = new
    pairs = [[f"{LAYERS}.{mine}", f"{LAYERS}.{theirs}"] for mine, theirs in enumerate(kept)]
    logits = {"temperature": 2.0, "loss_types": ["CE", "KL"], "loss_weights": [0.3, 0.7]}
    hidden = {
        "layer_mappings": pairs,
        "loss_types": ["MSE"] * student,
        "loss_weights": [0.5] * student,
        "add_origin_loss": False,
    }
    criteria = {"KnowledgeDistillationLoss": logits, "IntermediateLayersKnowledgeDistillationLoss": hidden}
    return {"distillation": {"train": {"criterion": criteria}}, "finetune": {"rename": rename}}
