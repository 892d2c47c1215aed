"""The loop that every student runs in, alone or distilled.

Rules: a `Recipe` says all that distinguishes one student from another; the teacher's logits were computed
once and are handed in, so no step runs the teacher. The weights of a run are the best on dev among ten
looks at it, alike for all recipes; test sentences are met once, at the end.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation

from .corpus import batches, numbers_of
from .students import BiLSTM, BlendCNN, Transformer
from .teacher import Tokens, correct, cut

UNLABELLED = -100
LOOKS = 10
FEATURES = [["norm", "states.0"], ["layers.0", "states.1"], ["layers.1", "states.2"], ["mean", "mean"]]
"""The transformer's embeddings, layers and mean, and what of the teacher they follow: see `preparation.layers_of`."""


@dataclass(frozen=True)
class Recipe:
    """How one student learns.

    Attributes:
        student: BiLSTM, BlendCNN or Transformer.
        epochs: passes over the sentences that it sees.
        rate: Adam's learning rate; 5% warm-up, then a linear fall.
        dropout: of the student.
        size: sentences a batch.
        loss: the teacher's term; empty trains alone.
        temperature: T.
        weights: of the labels' and of the teacher's term.
        augment: also sees the sentences without labels.
        features: weights of the pairs of `FEATURES` beside the logits, the transformer only; a pair of weight 0 is
            left out.
        follow: their loss.
        at_least: how many times the training sentences must have a word for the student to know it.
        hard: these have the teacher's best class for a label, and there is no term of the teacher.
        decay: weight decay.
    """

    student: str
    epochs: float = 8
    rate: float = 1e-3
    dropout: float = 0.5
    size: int = 64
    loss: str = ""
    temperature: float = 1.0
    weights: tuple[float, float] = (0.5, 0.5)
    augment: bool = False
    features: tuple[float, ...] = ()
    follow: str = "MSE"
    at_least: int = 1
    hard: bool = False
    decay: float = 0.0

    def but(self, **changes: Any) -> Recipe:
        """The same with some changes."""
        return replace(self, **changes)

    def conf(self) -> dict[str, Any]:
        """What kdhooks is given; alone, the teacher's term has weight 0 and the loss is the loop's own."""
        weights = list(self.weights) if self.loss else [1.0, 0.0]
        criteria: dict[str, Any] = {
            "KnowledgeDistillationLoss": {
                "temperature": self.temperature,
                "loss_types": ["CE", self.loss or "KL"],
                "loss_weights": weights,
            }
        }
        pairs = [(pair, weight) for pair, weight in zip(FEATURES, self.features, strict=False) if weight]
        if pairs:
            criteria["IntermediateLayersKnowledgeDistillationLoss"] = {
                "layer_mappings": [pair for pair, _ in pairs],
                "loss_types": self.follow,
                "loss_weights": [weight for _, weight in pairs],
            }
        return {"distillation": {"train": {"criterion": criteria}}}


@dataclass(frozen=True)
class Texts:
    """What students read: the sentences of one part of the data in both tokenizations, and what is known of them.

    Attributes:
        words: word numbers [N, LONGEST], for BiLSTM and BlendCNN.
        tokens: the teacher's own tokens, for the transformer.
        labels: [N], -100 where there is none.
        taught: the teacher's logits [N, 2].
    """

    words: Tensor
    tokens: Tokens
    labels: Tensor
    taught: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self, student: nn.Module) -> Tensor:
        """How much of each sentence a student reads, [N]."""
        counts = self.tokens["attention_mask"] if isinstance(student, Transformer) else self.words != 0
        return counts.sum(1)

    def batch(self, student: nn.Module, rows: Tensor) -> Tensor | Tokens:
        """What a student reads of some rows, as wide as the longest of them."""
        if isinstance(student, Transformer):
            return cut(self.tokens, rows)
        words = self.words[rows]
        return words[:, : int((words != 0).sum(1).max())]


def joined(first: Texts, second: Texts) -> Texts:
    """Two parts as one."""
    tokens = {name: torch.cat([first.tokens[name], second.tokens[name]]) for name in first.tokens}
    pairs = ((first.words, second.words), (first.labels, second.labels), (first.taught, second.taught))
    words, labels, taught = (torch.cat(pair) for pair in pairs)
    return Texts(words, tokens, labels, taught)


def make(recipe: Recipe, train: Texts, *, words: int, pieces: int) -> nn.Module:
    """The student of a recipe with random weights.

    Args:
        recipe: which.
        train: the training sentences; a word or token that they lack is an unknown one.
        words: of the vocabulary of words.
        pieces: tokens of the teacher.
    """
    if recipe.student == "Transformer":
        known = numbers_of(train.tokens["input_ids"], pieces, recipe.at_least)
        return Transformer(known, dropout=recipe.dropout)
    kinds = {"BiLSTM": BiLSTM, "BlendCNN": BlendCNN}
    made: nn.Module = kinds[recipe.student](numbers_of(train.words, words, recipe.at_least), dropout=recipe.dropout)
    return made


def run(student: nn.Module, x: Tensor | Tokens) -> Tensor:
    """The student's logits, computed in bf16."""
    with torch.autocast("cpu", torch.bfloat16):
        logits: Tensor = student(**x) if isinstance(x, dict) else student(x)
    return logits.float()


@torch.no_grad()
def accuracy(student: nn.Module, texts: Texts) -> float:
    """Correct answers in percent, in evaluation mode."""
    student.eval()
    logits = torch.empty(len(texts), 2)
    for rows in batches(texts.lengths(student), 256, None):
        logits[rows] = run(student, texts.batch(student, rows))
    return correct(logits, texts.labels)


def endless(lengths: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    """Batches of one epoch after the other."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from batches(lengths, size, generator)


class Trained(NamedTuple):
    """What a run gave.

    Attributes:
        student: with the weights that were best on dev.
        dev: the accuracy of these in percent.
        seconds: of the run.
        losses: the parts of the loss at the last step, by name.
    """

    student: nn.Module
    dev: float
    seconds: float
    losses: dict[str, float]


def train(
    recipe: Recipe, student: nn.Module, texts: Texts, dev: Texts, *, seed: int, hidden: nn.Module | None = None
) -> Trained:
    """Train a student by a recipe.

    The loop is anybody's; what kdhooks adds are the lines that say ``distiller``.

    Args:
        recipe: how.
        student: its initial weights.
        texts: what it sees; where `recipe.augment`, the sentences without labels too.
        dev: chooses among ten looks.
        seed: of order and dropout.
        hidden: a teacher of hidden features whose input is the numbers of the rows.

    Returns:
        The student with the weights that were best on dev, and what is known of the run.
    """
    torch.manual_seed(seed)
    steps = math.ceil(recipe.epochs * len(texts) / recipe.size)
    looks = {round(steps * (look + 1) / LOOKS) for look in range(LOOKS)}
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.rate, weight_decay=recipe.decay, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.05 * steps), 1 - step / (steps + 1))
    )
    labels = texts.labels
    if recipe.hard:
        labels = torch.where(labels == UNLABELLED, texts.taught.argmax(1), labels)
    order, began = endless(texts.lengths(student), recipe.size, seed), time.perf_counter()
    distiller = Distillation(recipe.conf(), student_model=student, teacher_model=hidden)
    distiller.eval_func = lambda model: accuracy(model, dev)
    distiller.on_train_begin(optimizer=optimizer)
    for step in range(1, steps + 1):
        student.train()
        rows = next(order)
        x, y = texts.batch(student, rows), labels[rows]
        output = run(student, x)
        loss = F.cross_entropy(output, y, ignore_index=UNLABELLED, reduction="sum") / (y != UNLABELLED).sum().clamp(1)
        loss = distiller.on_after_compute_loss(x, output, loss, teacher_output=texts.taught[rows], teacher_input=rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step in looks:
            distiller.on_epoch_end()  # looks at dev and keeps the best weights
    losses = distiller.losses
    distiller.on_train_end()
    best, score = distiller.best_model, distiller.best_score
    if not isinstance(score, float):
        raise RuntimeError("dev was never looked at: there were no steps")
    return Trained(best, score, time.perf_counter() - began, losses)


def quiet() -> None:
    """Leave out the line that kdhooks logs for every look at dev."""
    logging.getLogger("kdhooks").setLevel(logging.WARNING)
