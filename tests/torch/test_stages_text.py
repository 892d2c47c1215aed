"""The classic configuration of stages on small text models with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.search.distilling.stages import parts_of

EAGER: dict[str, Any] = {"attn_implementation": "eager"}
"""The attention that returns its probabilities."""


def text_models() -> tuple[nn.Module, nn.Module]:
    from transformers import BertConfig, BertForPreTraining, MobileBertConfig, MobileBertForPreTraining

    torch.manual_seed(1)
    student = MobileBertForPreTraining(
        MobileBertConfig(
            vocab_size=50,
            hidden_size=16,
            embedding_size=8,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=16,
            intra_bottleneck_size=8,
            num_feedforward_networks=2,
            max_position_embeddings=16,
            **EAGER,
        )
    )
    teacher = BertForPreTraining(
        BertConfig(
            vocab_size=50,
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            **EAGER,
        )
    )
    return student, teacher


def text_batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        {
            "input_ids": torch.randint(50, (4, 8), generator=generator),
            "attention_mask": torch.ones(4, 8, dtype=torch.int64),
            "labels": torch.randint(50, (4, 8), generator=generator),
        }
        for _ in range(3)
    ]


def test_the_classic_configuration_of_mobilebert(tmp_path: Path) -> None:
    """With selectors of attention probabilities, hidden states of other widths, and the loop's own loss at the end."""
    student, teacher = text_models()
    names = [f"mobilebert.encoder.layer.{i}" for i in range(3)]
    given = {
        "model": {"outputs": ["prediction_logits"]},
        "tuning": {"workspace": {"path": str(tmp_path / "run")}},
        "search": {"search_space": {"hidden_size": [16, 32]}},
        "flash_distillation": {
            "knowledge_transfer": {
                "block_names": names,
                "layer_mappings_for_knowledge_transfer": [
                    [
                        (
                            f"mobilebert.encoder.layer.{i}.attention.self", "1",
                            f"bert.encoder.layer.{i}.attention.self", "1",
                        ),
                        (f"mobilebert.encoder.layer.{i}.output", f"bert.encoder.layer.{i}.output"),
                    ]
                    for i in range(3)
                ],
                "loss_types": [["KL", "MSE"] for i in range(3)],
                "loss_weights": [[0.5, 0.5] for i in range(3)],
                "train_steps": [4 for i in range(3)],
            },
            "regular_distillation": {
                "layer_mappings_for_knowledge_transfer": [[("cls", "0", "cls", "0")]],
                "loss_types": [["KL"]],
                "add_origin_loss": [True],
                "train_steps": [5],
            },
        },
    }  # fmt: skip
    parts = parts_of(given, student_model=student, teacher_model=teacher)
    for part in parts:
        part.train_dataloader = text_batches()
        assert part() is student
    assert [one["steps"] for part in parts for one in part.history] == [4, 4, 4, 5]
    for name, record in zip(names, parts[0].history, strict=True):
        assert list(record["losses"]) == [f"KL[{name}.attention.self]", f"MSE[{name}.output]", "total"]
    assert list(parts[1].history[0]["losses"]) == ["CE", "KL[cls]", "total"]
    assert all(value > 0 for part in parts for one in part.history for value in one["losses"].values())
