"""Sentences with labels in tab-separated files, a vocabulary of words, and batches of equal length.

Rules: a folder holds ``train.tsv``, ``dev.tsv`` and ``test.tsv``, one sentence, a tab and a label (0 or 1) a
line, as SST-2 is spread; words are what spaces divide. Nothing but the training sentences is ever counted.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

PAD, UNKNOWN, MASK = "<pad>", "<unknown>", "<mask>"
LONGEST = 40  # words that are read; none but one sentence in fifty of SST-2 is longer


@dataclass(frozen=True)
class Sentences:
    """Sentences as lists of words, and their labels [N]."""

    words: list[list[str]]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.words)


def read(path: Path) -> Sentences:
    """One file of a folder."""
    pairs = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    return Sentences([text.split() for text, _ in pairs], torch.tensor([int(label) for _, label in pairs]))


class Vocabulary:
    """Numbers for the words of some sentences; 0 is padding, 1 an unknown and 2 a masked word."""

    def __init__(self, sentences: Iterable[Sequence[str]]) -> None:
        known = sorted({word for words in sentences for word in words} - {MASK})
        self.numbers = {word: number for number, word in enumerate([PAD, UNKNOWN, MASK, *known])}

    def __len__(self) -> int:
        return len(self.numbers)

    def encode(self, sentences: Iterable[Sequence[str]]) -> Tensor:
        """Word numbers [N, LONGEST], padded on the right."""
        rows = [[self.numbers.get(word, 1) for word in words[:LONGEST]] for words in sentences]
        table = torch.zeros(len(rows), LONGEST, dtype=torch.long)
        for at, row in enumerate(rows):
            table[at, : len(row)] = torch.tensor(row)
        return table


def numbers_of(seen: Tensor, vocabulary: int, at_least: int = 1) -> Tensor:
    """A student's own numbers of words: 0 stays padding, 1 is every word that was seen fewer times than it must be.

    Args:
        seen: the numbers of the training sentences' words or tokens, any shape.
        vocabulary: how many numbers there are.
        at_least: how many times a word must be there to get a number of its own. From 2 on, number 1 is trained
            too, on the words that were seen once.

    Returns:
        The student's number for every number, [vocabulary].
    """
    counts = torch.bincount(seen.flatten(), minlength=vocabulary)
    known = (counts[1:] >= at_least).nonzero()[:, 0] + 1
    numbers = torch.ones(vocabulary, dtype=torch.long)
    numbers[0], numbers[known] = 0, torch.arange(len(known)) + 2
    return numbers


def batches(lengths: Tensor, size: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Rows of one epoch in batches whose sentences are about equally long; without a generator in no random order.

    Args:
        lengths: words or tokens of each sentence, [N].
        size: rows a batch.
        generator: shuffles the rows, sorts pools of 50 batches by length, shuffles the batches.
    """
    if generator is None:
        yield from lengths.argsort(stable=True).split(size)
        return
    made: list[Tensor] = []
    for pool in torch.randperm(len(lengths), generator=generator).split(50 * size):
        made += pool[lengths[pool].argsort(stable=True)].split(size)
    for at in torch.randperm(len(made), generator=generator).tolist():
        yield made[at]


GOOD = ("moving", "funny", "warm", "clever", "bright", "honest", "lively", "tender", "witty", "gripping", "fresh")
BAD = ("dull", "tired", "clumsy", "hollow", "stale", "lifeless", "shallow", "messy", "boring", "bland", "forced")
THINGS = ("film", "story", "plot", "cast", "script", "drama", "comedy", "thriller", "ending", "picture", "tale")
SHAPES = (
    "a {} and {} {thing}",
    "the {thing} is {} from start to end",
    "what a {} {thing} , and how {} too",
    "i found this {thing} rather {}",
    "never was a {thing} so {} or so {}",
)


def make_up(rng: random.Random) -> tuple[str, int]:
    """One made-up review and its label: a negation turns what it says, and one label in 20 is wrong."""
    label = rng.randrange(2)
    negated = rng.random() < 0.25
    words = GOOD if label != negated else BAD
    text = rng.choice(SHAPES).format(*rng.sample(words, 2), thing=rng.choice(THINGS))
    text = f"it is not true that {text}" if negated else text
    return text, label if rng.random() > 0.05 else 1 - label


def write_made_up(folder: Path, *, train: int, dev: int, test: int, seed: int = 0) -> None:
    """The three files, made up: for trying the example without SST-2."""
    rng = random.Random(seed)
    for part, count in (("train", train), ("dev", dev), ("test", test)):
        lines = [f"{text}\t{label}\n" for text, label in (make_up(rng) for _ in range(count))]
        (folder / f"{part}.tsv").write_text("".join(lines), encoding="utf-8")
