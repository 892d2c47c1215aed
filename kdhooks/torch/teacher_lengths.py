"""A batch of padded tokens as two narrower ones, for a teacher of which only the output is wanted.

The rows of a frozen model don't see each other, and it computes nothing for padding that anybody looks at, so short
rows need not be as wide as the longest. Rules: only where the speed is left to us, on a CPU, for padding on the right
that an attention mask tells; nothing where an output is as wide as its tokens. The first batch of a run that is
parted is computed whole as well, and where the two are apart by more than rounding no batch is parted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdhooks.messages import logger
from kdhooks.torch.teacher_difference import agree, seen
from kdhooks.torch.teacher_inference import UnknownOutputError, rebuilt

_TOKENS = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})
"""Arguments [N, T] that are cut to a width."""

_FEWEST = 8
"""Rows of a part."""

_WORTH = 0.85
"""The parts must have at most this share of the whole batch's positions."""

_WITHIN = {torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""How far the norm of the difference to the whole batch may be, as a share; `_PRECISELY` in other dtypes."""

_PRECISELY = 1e-4

_Call = Callable[..., Any]


class ByLength:
    """Forwards of one teacher, parted where that pays.

    Args:
        kind: names the teacher in the message.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._ends = self._proven = False

    def run(self, forward: _Call, args: Any, kwargs: Mapping[str, Any], whole: Callable[[], Any]) -> Any:
        """The output of a batch.

        Args:
            forward: the teacher's.
            args: of the model.
            kwargs: of the model.
            whole: gives the output of the batch as it is.
        """
        rows = None if self._ends or args else parted(kwargs)
        if rows is None:
            return whole()
        plain = None if self._proven else whole()
        output = _joined([forward(**_narrow(kwargs, part)) for part in rows], rows)
        if output is not None and self._proven:
            return output
        if output is not None and agree(seen(output, None), seen(plain, None), within=_within(plain)):
            self._proven = True
            return output
        self._ends = True
        logger.debug("the teacher %s gets its batches whole: by length it gives other values", self._kind)
        return whole() if self._proven else plain


def parted(kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """The rows of the short ones and of the long ones, or None where the batch stays whole."""
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.device.type != "cpu" or not _TOKENS.issuperset(kwargs):
        return None
    rows, width = mask.shape
    if rows < 2 * _FEWEST or not all(isinstance(one, Tensor) and one.shape == mask.shape for one in kwargs.values()):
        return None
    lengths = mask.ne(0).sum(1)
    expected = torch.arange(width) < lengths[:, None]
    if not torch.equal(mask.to(torch.int64), expected.to(torch.int64)):  # padding on the left, or weights of tokens
        return None
    ordered, order = lengths.sort(stable=True)
    short = torch.arange(_FEWEST, rows - _FEWEST + 1)
    positions = short * ordered[short - 1] + (rows - short) * width
    best = int(positions.argmin())
    if int(positions[best]) > _WORTH * rows * width or int(ordered[short[best] - 1]) == 0:
        return None
    return order[: short[best]], order[short[best] :]


def _narrow(kwargs: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    width = int(kwargs["attention_mask"][rows].ne(0).sum(1).max())
    return {name: tensor[rows, :width] for name, tensor in kwargs.items()}


def _joined(outputs: Sequence[Any], rows: Sequence[Tensor]) -> Any:
    """The outputs of the parts as one, in the order of the batch; None where they can't be put together."""
    parts: list[list[Tensor]] = [[] for _ in outputs]
    try:
        for output, found in zip(outputs, parts, strict=True):
            rebuilt(output, lambda tensor, found=found: found.append(tensor) or tensor)  # type: ignore[misc]
    except UnknownOutputError:
        return None
    first = parts[0]
    alike = all(len(part) == len(first) for part in parts) and all(
        one.ndim and len(one) == len(places) and one.shape[1:] == other.shape[1:]
        for part, places in zip(parts, rows, strict=True)
        for one, other in zip(part, first, strict=True)
    )
    if not alike or not first:
        return None
    back = torch.cat(list(rows)).argsort()
    joined = iter([torch.cat(several)[back] for several in zip(*parts, strict=True)])
    return rebuilt(outputs[0], lambda _: next(joined))


def _within(output: Any) -> float:
    floats = [one.dtype for one in seen(output, None).tensors() if one.is_floating_point()]
    return max((_WITHIN.get(dtype, _PRECISELY) for dtype in floats), default=_PRECISELY)
