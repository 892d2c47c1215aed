"""Everything that students need, made once: sentences in both tokenizations, the teacher, what it answers.

Rules: what is dear to compute (the fine-tuned weights, logits, hidden states) is kept in a folder as tensors
and read with ``weights_only=True``; the folder belongs to one set of data and one `Size`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .augment import make_more
from .corpus import Vocabulary, batches, read
from .students import Mean, Transformer
from .teacher import Tokens, cut, fine_tune, logits_of, pretrained, small
from .training import UNLABELLED, Texts, joined

Watch = Callable[[str], object]


@dataclass(frozen=True)
class Size:
    """How much is prepared.

    Attributes:
        minilm: whether the teacher is MiniLM, or a small encoder with random weights.
        teacher_epochs: of its fine-tuning.
        teacher_rate: its learning rate.
        times: sentences without labels for each labelled one.
    """

    minilm: bool = True
    teacher_epochs: int = 3
    teacher_rate: float = 5e-5
    times: int = 8


@dataclass(frozen=True)
class Prepared:
    """What students train and are measured with.

    Attributes:
        train, dev, test: the three files.
        more: sentences without labels, made from those of `train`.
        teacher: fine-tuned.
        words: how many the vocabulary has.
        pieces: how many tokens of the teacher there are, up to the last that is met.
    """

    train: Texts
    dev: Texts
    test: Texts
    more: Texts
    teacher: nn.Module
    words: int
    pieces: int

    @property
    def both(self) -> Texts:
        """Training sentences and those without labels."""
        return joined(self.train, self.more)


def once(path: Path | None, make: Callable[[], Any]) -> Any:
    """What a file holds, or what is made now and kept there."""
    if path is not None and path.is_file():
        return torch.load(path, weights_only=True)
    made = make()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(made, path)
    return made


def prepare(folder: Path, size: Size, *, keep: Path | None = None, watch: Watch = print) -> Prepared:
    """Read, fine-tune, augment and ask the teacher.

    Args:
        folder: with train.tsv, dev.tsv and test.tsv.
        size: how much.
        keep: where what was computed is kept; None computes everything.
        watch: gets a line now and then.
    """
    torch.manual_seed(0)
    parts = {name: read(folder / f"{name}.tsv") for name in ("train", "dev", "test")}
    train = parts["train"]
    teacher, tokenizer = pretrained() if size.minilm else small(train)
    vocabulary = Vocabulary(train.words)
    more = make_more(train.words, size.times, seed=0)
    sentences = {**{name: part.words for name, part in parts.items()}, "more": more}
    labels = {**{name: part.labels for name, part in parts.items()}, "more": torch.full((len(more),), UNLABELLED)}
    tokens: dict[str, Tokens] = {name: tokenizer(words) for name, words in sentences.items()}

    def taught() -> dict[str, Any]:
        learned, judged = ((tokens[name], labels[name]) for name in ("train", "dev"))
        fine_tune(teacher, learned, judged, epochs=size.teacher_epochs, rate=size.teacher_rate, watch=watch)
        return teacher.state_dict()

    def answers() -> dict[str, Tensor]:
        watch(f"teacher: answers to {sum(map(len, sentences.values())):,} sentences")
        return {name: logits_of(teacher, tokens[name]) for name in sentences}

    teacher.load_state_dict(once(keep and keep / "teacher.pt", taught))
    logits = once(keep and keep / f"logits-{size.times}.pt", answers)
    texts = {
        name: Texts(vocabulary.encode(words), tokens[name], labels[name], logits[name])
        for name, words in sentences.items()
    }
    pieces = int(max(values["input_ids"].max() for values in tokens.values())) + 1
    return Prepared(**texts, teacher=teacher.eval(), words=len(vocabulary), pieces=pieces)


class StoredTeacher(nn.Module):
    """Gives a teacher's hidden states from memory, at layers that can be mapped like any others.

    A step that needs features of sentences met before needs no encoder: this module's layers, `states.0` and so
    on, pass on what was stored, and its input says of which rows. `mean` is the mean of the last ones.

    Args:
        states: for each layer the hidden states of all tokens that count, one sentence after the other,
            [tokens, width].
        lengths: tokens of each sentence, [N].
    """

    def __init__(self, states: Sequence[Tensor], lengths: Tensor) -> None:
        super().__init__()
        self.states, self.mean = nn.ModuleList(nn.Identity() for _ in states), Mean()
        self.stored, self.lengths = list(states), lengths
        self.begins = lengths.cumsum(0) - lengths

    def forward(self, rows: Tensor) -> Tensor:
        """Sentences by number [N]; their states are [N, T, width], 0 where a sentence is over, the mean [N, width]."""
        lengths, places = self.lengths[rows], torch.arange(int(self.lengths[rows].max()))
        counts = places < lengths[:, None]
        where = torch.where(counts, self.begins[rows][:, None] + places, 0)
        out = torch.empty(0)
        for layer, stored in zip(self.states, self.stored, strict=True):
            out = layer(stored[where].float() * counts[:, :, None])
        mean: Tensor = self.mean(out, counts)
        return mean


def layers_of(teacher: nn.Module) -> list[str]:
    """The layers that students follow: embeddings, the middle of the stack, its end."""
    if isinstance(teacher, Transformer):
        return ["norm", "layers.1", "layers.3"]
    return ["encoder.embeddings", "encoder.encoder.layer.2", "encoder.encoder.layer.5"]


@torch.no_grad()
def store(teacher: nn.Module, tokens: Tokens, names: Sequence[str]) -> StoredTeacher:
    """Run the teacher once over all sentences and keep the hidden states of some layers in bf16.

    Each channel is standardised to mean 0 and deviation 1 over all tokens: of an encoder's channels a few are much
    larger than all others, and a loss on the raw states follows little but them.
    """
    lengths = tokens["attention_mask"].sum(1)
    begins, caught = lengths.cumsum(0) - lengths, {}
    kept: list[Tensor] = []

    def catch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            caught[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [teacher.get_submodule(name).register_forward_hook(catch(name)) for name in names]
    teacher.eval()
    for rows in batches(lengths, 128, None):
        part = cut(tokens, rows)
        with torch.autocast("cpu", torch.bfloat16):
            teacher(**part)
        counts = part["attention_mask"].bool()
        where = (begins[rows][:, None] + torch.arange(counts.shape[1]))[counts]
        for at, name in enumerate(names):
            if len(kept) == at:
                kept.append(torch.zeros(int(lengths.sum()), caught[name].shape[-1], dtype=torch.bfloat16))
            kept[at][where] = caught[name][counts].bfloat16()
    for handle in handles:
        handle.remove()
    for state in kept:
        for some in state.split(64, 1):  # few channels at a time, for they are float32 here
            some.copy_(standardised(some.float()))
    return StoredTeacher(kept, lengths)


def standardised(states: Tensor) -> Tensor:
    """Channels [tokens, width] with mean 0 and deviation 1 over all tokens; a constant channel is 0."""
    deviation, mean = torch.std_mean(states, 0)
    return (states - mean) / deviation.clamp(min=1e-6)


def without_labels(texts: Texts) -> Texts:
    """The same sentences, all labels forgotten."""
    return replace(texts, labels=torch.full_like(texts.labels, UNLABELLED))
