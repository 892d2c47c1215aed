"""Three small readers of sentences: a BiLSTM, a BlendCNN and a transformer of two layers.

Rules: all take word numbers [N, T] with padding (0) on the right and return logits [N, 2]; what is padding has
no influence; nothing is taken from a teacher, every weight begins at random. The numbers are a vocabulary's or a
tokenizer's; `words` is either how many there are, or `corpus.numbers_of`, the student's own number of each.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def vectors(words: int, width: int) -> nn.Embedding:
    """Small random vectors; with torch's, of deviation 1, rare words stay noise for many epochs."""
    made = nn.Embedding(words, width)
    nn.init.normal_(made.weight, std=0.1)
    return made


class WordVectors(nn.Module):
    """A vector of each word, found by the number that the word has for others."""

    def __init__(self, words: int | Tensor, width: int) -> None:
        super().__init__()
        numbers = torch.arange(words) if isinstance(words, int) else words
        self.register_buffer("numbers", numbers)
        self.vectors = vectors(int(numbers.max()) + 1, width)

    def forward(self, words: Tensor) -> Tensor:
        """Vectors [..., width] of word numbers [...]."""
        found: Tensor = self.vectors(self.numbers[words])  # type: ignore[index]
        return found


class Mean(nn.Module):
    """The mean over the places that count; a layer of its own, so that it can be tapped."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[N, width] of hidden states [N, T, width] and their mask [N, T]."""
        counts = mask[:, :, None].to(x.dtype)
        return (x * counts).sum(1) / counts.sum(1)


class BiLSTM(nn.Module):
    """LSTMs in both directions over word embeddings, the largest of their outputs in time, one hidden layer.

    Tang et al. 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", section 3.1,
    with the maximum over time for the last states.
    """

    def __init__(self, words: int | Tensor, *, embedding: int = 100, hidden: int = 128, dropout: float = 0.5) -> None:
        super().__init__()
        self.embedding = WordVectors(words, embedding)
        self.rightward = nn.LSTM(embedding, hidden, batch_first=True)
        self.leftward = nn.LSTM(embedding, hidden, batch_first=True)
        self.head = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 2)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor) -> Tensor:
        """Logits [N, 2] of word numbers [N, T]."""
        # Reversing only the words, not the padding behind them, keeps padding out without packing, and plain
        # batches are where CPUs have a fast LSTM in bf16.
        places, lengths = torch.arange(words.shape[1]), (words != 0).sum(1, keepdim=True)
        padding = places >= lengths
        reverse = torch.where(padding, places, lengths - 1 - places)
        both = torch.stack((words, words.gather(1, reverse)))
        embedded = self.dropout(self.embedding(both))
        outputs = torch.cat((self.rightward(embedded[0])[0], self.leftward(embedded[1])[0]), 2)
        logits: Tensor = self.head(outputs.masked_fill(padding[:, :, None], -math.inf).amax(1))
        return logits


class BlendCNN(nn.Module):
    """Parallel convolutions of several widths over word embeddings, the largest of each in time, one hidden layer.

    Every width has its filters beside the others (Kim 2014, "Convolutional Neural Networks for Sentence
    Classification"); the blend of all widths feeds the hidden layer.
    """

    def __init__(
        self,
        words: int | Tensor,
        *,
        embedding: int = 100,
        filters: int = 100,
        widths: tuple[int, ...] = (1, 2, 3, 5),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.embedding = WordVectors(words, embedding)
        self.widths = widths
        self.convolutions = nn.ModuleList(nn.Conv1d(embedding, filters, width) for width in widths)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(filters * len(widths), filters),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(filters, 2),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Tensor) -> Tensor:
        """Logits [N, 2] of word numbers [N, T]."""
        embedded = self.dropout(self.embedding(words) * (words != 0)[:, :, None]).transpose(1, 2)
        lengths = (words != 0).sum(1)
        found = []
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            out = F.relu(convolution(F.pad(embedded, (0, width - 1))))  # the first place of a window is a word
            padding = torch.arange(out.shape[2]) >= lengths[:, None]
            found.append(out.masked_fill(padding[:, None, :], 0.0).amax(2))
        logits: Tensor = self.head(torch.cat(found, 1))
        return logits


class Layer(nn.Module):
    """Self-attention, then two linear layers, each added to its input and normalised (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm1, self.norm2, self.dropout = nn.LayerNorm(width), nn.LayerNorm(width), nn.Dropout(dropout)

    def forward(self, x: Tensor, attend: Tensor) -> Tensor:
        """Hidden states [N, T, width]; `attend` [N, 1, 1, T] is true where a token counts."""
        q, k, v = self.qkv(x).float().unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        with torch.autocast("cpu", enabled=False):  # in bf16 its backward is slower than all else together
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        x = self.norm1(x + self.dropout(self.out(attended.transpose(1, 2).flatten(2))))
        hidden: Tensor = self.norm2(x + self.dropout(self.mlp(x)))
        return hidden


class Transformer(nn.Module):
    """Layers of self-attention, the mean of the last hidden states, a linear layer.

    Args:
        words: how many tokens there are, or the number of each.
        width: of the hidden states.
        layers: how many.
        heads: of each attention.
        dropout: of embeddings and of what each layer adds.
    """

    def __init__(
        self,
        words: int | Tensor,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.words, self.places = WordVectors(words, width), vectors(64, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(layers))
        self.mean, self.head = Mean(), nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [N, 2] of tokens and their mask, [N, T] both."""
        x = self.dropout(self.norm(self.words(input_ids) + self.places.weight[: input_ids.shape[1]]))
        for layer in self.layers:
            x = layer(x, attention_mask[:, None, None, :].bool())
        logits: Tensor = self.head(self.dropout(self.mean(x, attention_mask)))
        return logits
