"""Training and measuring with the `Trainer` of transformers; nothing here knows that anything is distilled."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from speech.recordings import Recording


def rows(recordings: Sequence[Recording]) -> list[dict[str, Any]]:
    """As a `Trainer` takes them."""
    return [{"input_values": torch.from_numpy(one.samples), "labels": one.digit} for one in recordings]


def train(model: Any, steps: int, recordings: Sequence[Recording], callbacks: Sequence[Any] = ()) -> None:
    """Train a model with batches of 16."""
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="kdhooks-"),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 10),
        logging_steps=max(1, steps // 4),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=5,
    )
    Trainer(model, arguments, train_dataset=rows(recordings), callbacks=list(callbacks)).train()


@torch.inference_mode()
def accuracy(model: Any, recordings: Sequence[Recording]) -> float:
    """Per cent of the recordings whose digit is found."""
    model.eval()
    found = []
    for at in range(0, len(recordings), 50):
        part = recordings[at : at + 50]
        logits: Tensor = model(torch.stack([torch.from_numpy(one.samples) for one in part]).to(model.device)).logits
        found += (logits.argmax(-1).cpu() == torch.tensor([one.digit for one in part])).tolist()
    return 100 * statistics.mean(found)


@torch.inference_mode()
def latency(model: Any, recording: Recording, rounds: int = 30) -> float:
    """Milliseconds for one recording, the median."""
    given = torch.from_numpy(recording.samples)[None].to(model.device)
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        model(given).logits.cpu()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)
