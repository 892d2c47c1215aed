"""What an estimate needs to know of a model: how many parameters, and how they are laid out in blocks."""

from __future__ import annotations

from dataclasses import dataclass

from kdhooks.errors import UsageError


@dataclass(frozen=True)
class Model:
    """The sizes of a transformer, or of any model that is a row of blocks.

    Attributes:
        parameters: of the whole model.
        layers: how many equal blocks it has.
        width: numbers a token has between two blocks.
        vocabulary: how many logits a token has, or classes a row.
        feed_forward: numbers a token has inside of a block's feed-forward part; None is four times the width.
        gated: whether that part has a gate (SwiGLU), and so three matrices and not two.
        outside: parameters outside of the blocks (embedding, head, last normalisation), which FSDP gathers with the
            root and keeps from the forward to the backward; None is two tables of the vocabulary and a scale.

    Example:
        >>> Model(parameters=8_030_261_248, layers=32, width=4096, vocabulary=128_256).block
        218112000
    """

    parameters: int
    layers: int
    width: int
    vocabulary: int
    feed_forward: int | None = None
    gated: bool = False
    outside: int | None = None

    def __post_init__(self) -> None:
        for name in ("parameters", "layers", "width", "vocabulary"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} of a model is a whole number from 1 on, and not {value!r}")
        if self.root > self.parameters:
            raise UsageError(
                f"{self.root:,} parameters are outside of the blocks, more than the model has: {self.parameters:,}. "
                "With a tied head write outside=vocabulary * width"
            )

    @property
    def root(self) -> int:
        """Parameters outside of the blocks."""
        return (2 * self.vocabulary + 1) * self.width if self.outside is None else self.outside

    @property
    def block(self) -> int:
        """Parameters of one block."""
        return (self.parameters - self.root) // self.layers

    @property
    def saved(self) -> int:
        """Numbers that a block keeps of each token for its backward, where attention keeps no matrix of its own.

        Inputs and outputs of both normalisations, queries, keys, values and their result (8 widths), and what goes into
        and comes out of the activation of the feed-forward part, twice that with a gate. With 4 widths there and none
        they are 16, the 32 bytes in half precision of Korthikanti et al., "Reducing activation recomputation in large
        transformer models", 2022, section 4.1, without dropout.
        """
        inner = 4 * self.width if self.feed_forward is None else self.feed_forward
        return 8 * self.width + (4 if self.gated else 2) * inner


LLAMA_8B = Model(8_030_261_248, 32, 4096, 128_256, 14_336, gated=True)
"""A teacher: Llama 3.1 8B."""

LLAMA_1B = Model(1_235_814_400, 16, 2048, 128_256, 8192, gated=True, outside=128_257 * 2048)
"""A student: Llama 3.2 1B, whose head is its embedding."""
