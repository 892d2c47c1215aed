"""How a model is run, once that is known: what an ``auto`` of the configuration became, apart from any framework.

A choice is plain data, so that a state, a store of outputs and the other ranks can hold the very same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from kdhooks.errors import CheckpointError

Precision = Literal["fp32", "bf16", "fp16"]
"""What a model computes in."""

_PRECISIONS = (None, "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Choice:
    """How a model's forward is run.

    Attributes:
        precision: what it computes in; None follows what surrounds the call.
        channels_last: whether its maps lie in memory as [N, H, W, C].
        compile: whether its forward is compiled.
        ipex: whether it is optimized by Intel's extension.
        folded: whether a teacher's normalisations are folded into the convolutions before them.

    Example:
        >>> str(Choice("bf16", channels_last=True))
        'bf16, channels last'
        >>> Choice.from_dict(Choice("bf16").to_dict()) == Choice("bf16")
        True
    """

    precision: Precision | None = None
    channels_last: bool = False
    compile: bool = False
    ipex: bool = False
    folded: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a state or a store."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Choice:
        """What `to_dict` gave; a key that is missing has its default.

        Raises:
            CheckpointError: this is no choice, or one of a newer kdhooks.
        """
        known = {field.name for field in fields(cls)}
        given = dict(saved) if isinstance(saved, Mapping) else None
        right = (
            given is not None
            and set(given) <= known
            and given.get("precision") in _PRECISIONS
            and all(isinstance(value, bool) for name, value in given.items() if name != "precision")
        )
        if given is None or not right:
            raise CheckpointError(f"a saved choice of how a teacher runs can't be read: {saved!r}")
        return cls(**given)

    def __str__(self) -> str:
        parts: list[str] = [self.precision or "the loop's precision"]
        parts += [words for on, words in self._words() if on]
        return ", ".join(parts)

    def _words(self) -> tuple[tuple[bool, str], ...]:
        return (
            (self.channels_last, "channels last"),
            (self.compile, "compiled"),
            (self.ipex, "ipex"),
            (self.folded, "folded"),
        )
