"""A causal language model learns from the top-k logits of a larger one, which are kept on disk.

    python examples/causal_lm_top_k.py             # about five minutes
    python examples/causal_lm_top_k.py --quick     # a few steps, to see that it runs

Both models are Llamas of Hugging Face's transformers, trained from nothing on the text of Python's own manual, which
every Python carries; the tokens are a byte-pair encoding made from it. Of each token's 2,048 logits the store keeps
the 32 largest and the mass of all others, as float16, and rows hold no padding. The loop is an ordinary one: the store
is one line of the configuration. Needs `pip install 'kdhooks[torch,cache,transformers]'`.
"""

from __future__ import annotations

import argparse
import copy
import math
import re
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from kdhooks import Distillation
from kdhooks.cache.maintenance import info

VOCABULARY, LONGEST, PAD = 2048, 96, 0
TEACHER = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6}
STUDENT = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}


def configuration(folder: Path) -> dict[str, Any]:
    """What kdhooks shall do: KL to the teacher, whose outputs are stored."""
    criterion = {"temperature": 1.0, "loss_types": ["CE", "KL"], "loss_weights": [0.3, 0.7]}
    return {
        "distillation": {
            "train": {"criterion": {"KnowledgeDistillationLoss": criterion}},
            "cache": {"path": str(folder), "top_k": 32, "dtype": "float16"},
        }
    }


def paragraphs() -> list[str]:
    """The paragraphs of Python's manual, those that are next to nothing left out."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    return [" ".join(one.split()) for one in re.split(r"\n\s*\n", text) if len(one) > 80]


def encoding(texts: list[str]) -> Tokenizer:
    """A byte-pair encoding of these texts (Sennrich, Haddow & Birch 2016), token 0 being padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<pad>"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.enable_padding(pad_id=PAD)
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


def batches(texts: list[str], tokenizer: Tokenizer, seed: int, size: int = 32) -> list[dict[str, Tensor]]:
    """An epoch: batches in a new order, each padded to its own longest text."""
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    made = []
    for begin in range(0, len(order), size):
        rows = tokenizer.encode_batch([texts[index] for index in order[begin : begin + size]])
        ids, mask = torch.tensor([row.ids for row in rows]), torch.tensor([row.attention_mask for row in rows])
        made.append({"input_ids": ids, "attention_mask": mask})
    return made


def model(shape: dict[str, int]) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            max_position_embeddings=LONGEST,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=True,
            use_cache=False,
            **shape,
        )
    )


def train(
    student: LlamaForCausalLM,
    texts: list[str],
    tokenizer: Tokenizer,
    epochs: int,
    distiller: Distillation | None = None,
) -> float:
    """An ordinary loop; the lines of kdhooks are marked. Returns the seconds it took."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3, weight_decay=0.05)
    began = time.perf_counter()
    if distiller is not None:
        distiller.on_train_begin()  # kdhooks
    for epoch in range(epochs):
        for batch in batches(texts, tokenizer, seed=epoch):
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            output = student(**batch, labels=labels)
            loss = output.loss
            if distiller is not None:
                mask = batch["attention_mask"].bool()
                loss = distiller.on_after_compute_loss(batch, output, loss, mask=mask)  # kdhooks
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
        if distiller is not None:
            distiller.on_epoch_end()  # kdhooks
    if distiller is not None:
        distiller.on_train_end()  # kdhooks
    return time.perf_counter() - began


@torch.no_grad()
def perplexity(student: LlamaForCausalLM, texts: list[str], tokenizer: Tokenizer) -> float:
    """Of tokens that nobody was trained on; a whole number of 2,048 would be a blind guess."""
    student.eval()
    total, count = 0.0, 0
    for batch in batches(texts, tokenizer, seed=0):
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        tokens = int((labels[:, 1:] != -100).sum())
        total += float(student(**batch, labels=labels).loss) * tokens
        count += tokens
    student.train()
    return math.exp(total / count)


def main() -> None:
    parser = argparse.ArgumentParser(description="top-k logits of a causal language model")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    texts = paragraphs()
    unseen, seen = texts[::10], [text for index, text in enumerate(texts) if index % 10]
    if quick:
        unseen, seen = unseen[:32], seen[:64]
    tokenizer = encoding(seen)
    teacher, student = model(TEACHER), model(STUDENT)
    train(teacher, seen, tokenizer, 1 if quick else 12)
    epochs = 2 if quick else 12
    alone, live = copy.deepcopy(student), copy.deepcopy(student)
    seconds = {"student alone": train(alone, seen, tokenizer, epochs)}
    with tempfile.TemporaryDirectory() as folder:
        settings = configuration(Path(folder))
        stored = Distillation(settings, student_model=student, teacher_model=teacher)
        seconds["top-32 from the store"] = train(student, seen, tokenizer, epochs, stored)
        store = info(folder)
        del settings["distillation"]["cache"]
        every_step = Distillation(settings, student_model=live, teacher_model=teacher)
        seconds["all logits, live teacher"] = train(live, seen, tokenizer, epochs, every_step)

    print(f"{'':<26}{'parameters':>12}{'perplexity':>12}{'seconds':>9}")
    rows = {"teacher": teacher, "student alone": alone, "top-32 from the store": student}
    for name, trained in (rows | {"all logits, live teacher": live}).items():
        parameters = sum(one.numel() for one in trained.parameters())
        took = f"{seconds[name]:>9.0f}" if name in seconds else ""
        print(f"{name:<26}{parameters:>12,}{perplexity(trained, unseen, tokenizer):>12.1f}{took}")
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches(seen, tokenizer, seed=0))
    whole = tokens * VOCABULARY * 4
    print(f"stored: {store.rows:,} paragraphs in {store.bytes / 1e6:.1f} MB; all logits would be {whole / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
