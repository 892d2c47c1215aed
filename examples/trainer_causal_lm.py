"""A causal language model learns from a larger one in the `Trainer` of Hugging Face's transformers.

    python examples/trainer_causal_lm.py             # about six minutes
    python examples/trainer_causal_lm.py --quick     # a few steps, to see that it runs

Both models are Llamas, trained from nothing on the text of Python's own manual, which every Python carries. A row is a
prompt, the topic's name, and a paragraph on it. Neither prompt nor padding counts: their labels are -100, and the
callback leaves them out of the distillation as the `Trainer` leaves them out of its loss. Micro-batches of unequal
length are accumulated; both parts of the loss are divided by the tokens of the whole batch. The `Trainer` is an
ordinary one: ``callbacks=[...]`` is all that is added. Needs `pip install 'kdhooks[torch,transformers]'`.
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from kdhooks import Distillation
from kdhooks.integrations.transformers import DistillationCallback

VOCABULARY, LONGEST, PAD, IGNORED = 1024, 96, 0, -100
TEACHER = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6}
STUDENT = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
CRITERION = {"temperature": 1.0, "loss_types": ["CE", "KL"], "loss_weights": [0.3, 0.7]}
CONFIGURATION = {"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": CRITERION}}}}

Row = dict[str, list[int]]


@dataclass(frozen=True)
class Sizes:
    """How long everything takes.

    Attributes:
        teacher_steps: of the teacher's training.
        steps: of each student's.
        rows: to train on, at most.
        held_out: to evaluate on.
    """

    teacher_steps: int = 1200
    steps: int = 800
    rows: int = 10_000
    held_out: int = 200


def paragraphs() -> list[tuple[str, str]]:
    """The topics and paragraphs of Python's manual, those that are next to nothing left out."""
    found = []
    for name in sorted(topics):
        for one in re.split(r"\n\s*\n", topics[name]):
            text = " ".join(one.split())
            if len(text) > 80:
                found.append((name, text))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(1)).tolist()
    return [found[index] for index in order]


def encoding(texts: list[str]) -> Tokenizer:
    """A byte-pair encoding of these texts (Sennrich, Haddow & Birch 2016), token 0 being padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<pad>"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def as_row(tokenizer: Tokenizer, prompt: str, text: str) -> Row:
    """A prompt and its text as tokens; the prompt has no labels."""
    asked, answer = tokenizer.encode(f"{prompt}:").ids, tokenizer.encode(text).ids
    tokens = (asked + answer)[:LONGEST]
    return {"input_ids": tokens, "labels": ([IGNORED] * len(asked) + answer)[:LONGEST]}


def collated(rows: list[Row]) -> dict[str, Tensor]:
    """Rows behind which padding stands, which the mask and the labels tell."""

    def padded(name: str, fill: int) -> Tensor:
        columns = [torch.tensor(row[name]) for row in rows]
        return nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=fill)

    tokens = padded("input_ids", PAD)
    return {"input_ids": tokens, "attention_mask": (tokens != PAD).long(), "labels": padded("labels", IGNORED)}


def llama(sizes: dict[str, int], seed: int) -> LlamaForCausalLM:
    """A Llama that knows nothing yet."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=LONGEST, pad_token_id=PAD, **sizes)
    )


def trained(model: nn.Module, steps: int, data: tuple[list[Row], list[Row]], callbacks: list[Any]) -> float:
    """Train a model as anybody would, with a callback or without one; its perplexity on what was held out."""
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="kdhooks-"),
        max_steps=steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 20),
        weight_decay=0.05,
        logging_steps=max(1, steps // 4),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=3,
    )
    trainer = Trainer(
        model,
        arguments,
        data_collator=collated,
        train_dataset=data[0],
        eval_dataset=data[1],
        callbacks=callbacks,
    )
    trainer.train()
    return math.exp(trainer.evaluate()["eval_loss"])


def main() -> None:
    """Train the teacher, the student by itself, and the student with its teacher."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    sizes = Sizes(12, 8, 400, 32) if parser.parse_args().quick else Sizes()

    pairs = paragraphs()[: sizes.rows + sizes.held_out]
    tokenizer = encoding([text for _, text in pairs[sizes.held_out :]])
    rows = [as_row(tokenizer, *pair) for pair in pairs]
    data = rows[sizes.held_out :], rows[: sizes.held_out]

    teacher = llama(TEACHER, seed=1)
    found = {"teacher": trained(teacher, sizes.teacher_steps, data, [])}
    found["student alone"] = trained(llama(STUDENT, seed=2), sizes.steps, data, [])
    callback = DistillationCallback(Distillation(CONFIGURATION, teacher_model=teacher))
    student = llama(STUDENT, seed=2)
    found["student distilled"] = trained(student, sizes.steps, data, [callback])

    print(f"\n{len(data[0])} rows to train on; perplexity of the labelled tokens of {len(data[1])} others:")
    counts = {"teacher": teacher, "student alone": student, "student distilled": student}
    for name, perplexity in found.items():
        size = sum(one.numel() for one in counts[name].parameters())
        print(f"  {name:<18} {size:>9,} parameters  {perplexity:8.2f}")


if __name__ == "__main__":
    main()
