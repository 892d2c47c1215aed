"""What a model returned: the distribution over classes, whatever it is written as, and the loss terms beside it.

A model may return logits, or a mapping (or an object with attributes) with ``logits``, ``prob`` or ``log_prob``. A
model whose forward takes ``temperature`` has softened ``prob`` and ``log_prob`` itself; of all others they are
softened here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from kdhooks.errors import ModelError
from kdhooks.torch.outputs import describe, logits_of

DISTRIBUTIONS = ("logits", "log_prob", "prob")
_TOLERANCE = 0.05  # bf16 keeps some 2 to 3 digits of every probability


def field(output: Any, name: str) -> Any:
    """An entry of a mapping or an attribute of another object, or None."""
    if isinstance(output, Mapping):
        return output.get(name)
    return None if isinstance(output, (Tensor, list, tuple)) else getattr(output, name, None)


def class_axis(logits: Tensor) -> int:
    """The axis of the classes: 1 for [N, C, H, W], the last one for [N, C] and [N, T, C]."""
    return 1 if logits.ndim >= 4 else -1


def as_logits(output: Any, *, temperature: float, softened: bool, model: str) -> Tensor:
    """Logits whose softmax at the temperature is the model's softened distribution.

    Args:
        output: what the model returned.
        temperature: T.
        softened: whether the model has divided by T before it took ``prob`` and ``log_prob``.
        model: names the model in errors.

    Returns:
        A tensor of the logits' shape: [N, C], [N, T, C], [N, C, H, W].

    Raises:
        ModelError: there is nothing that could be a distribution.
    """
    order = ("log_prob", "prob", "logits") if softened else DISTRIBUTIONS
    for name in order:
        found = field(output, name)
        if isinstance(found, Tensor):
            if name == "logits":
                return found
            logarithm = _logarithm(found) if name == "prob" else found
            return logarithm * temperature if softened and temperature != 1 else logarithm
    if isinstance(output, Mapping) and not any(isinstance(one, Tensor) and one.ndim >= 2 for one in output.values()):
        wanted = " or ".join(map(repr, DISTRIBUTIONS))
        raise ModelError(f"the {model} returned {describe(output)}, and none of them is {wanted}")
    return logits_of(output, model=model)


def plain_logits(output: Any, *, model: str) -> Tensor:
    """The logits as they are, for ``cos_embed_loss``; ModelError where there are only probabilities."""
    found = field(output, "logits")
    if isinstance(found, Tensor):
        return found
    if any(isinstance(field(output, name), Tensor) for name in DISTRIBUTIONS):
        raise ModelError(f"cos_embed_loss compares logits, and the {model} returned {describe(output)}: add 'logits'")
    return logits_of(output, model=model)


def check_distribution(output: Any, *, model: str) -> None:
    """ModelError where ``prob`` or ``log_prob`` is none over the classes; waits for the device."""
    for name in ("log_prob", "prob"):
        found = field(output, name)
        if not isinstance(found, Tensor):
            continue
        axis = class_axis(found)
        values = found.detach().float()
        sums = (values.exp() if name == "log_prob" else values).sum(axis)
        far = float((sums - 1).abs().max()) if sums.numel() else 0.0
        if not far < _TOLERANCE:
            kind = "log_softmax" if name == "log_prob" else "softmax"
            raise ModelError(
                f"{name!r} of the {model} is no distribution over the classes: along axis {axis} it sums to as much as "
                f"{1 + far:.3g} or as little as {float(sums.min()):.3g}. Take {kind} over that axis"
            )


def loss_terms(output: Any, named: Collection[str] = ()) -> dict[str, Tensor]:
    """The losses that a student brings along, by name.

    These are the entries of its ``loss`` where that is a mapping, ``loss`` itself where it is a scalar, every other
    scalar tensor with a gradient, and every scalar that is named.

    Args:
        output: what the student returned.
        named: names that have a coefficient.

    Raises:
        ModelError: one name twice, or a term that is no scalar.
    """
    found: dict[str, Any] = {}
    loss = field(output, "loss")
    if isinstance(loss, Mapping):
        found.update(loss)
    elif loss is not None:
        found["loss"] = loss
    if isinstance(output, Mapping):
        for name, value in output.items():
            if name in ("loss", *DISTRIBUTIONS) or not (_trains(value) or (name in named and _scalar(value))):
                continue
            if name in found:
                raise ModelError(f"the student returned the loss {name!r} twice, in 'loss' and beside it")
            found[name] = value
    return {str(name): _as_scalar(str(name), value) for name, value in found.items()}


def _scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _trains(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and value.requires_grad


def _as_scalar(name: str, value: Any) -> Tensor:
    if not _scalar(value):
        raise ModelError(f"the student's loss {name!r} must be a scalar, and it is {describe(value)}: take its mean")
    return value if isinstance(value, Tensor) else torch.tensor(float(value))


def _logarithm(probabilities: Tensor) -> Tensor:
    """The logarithm of p, with the smallest number in place of 0; in full precision."""
    wide = probabilities.float() if probabilities.dtype in (torch.float16, torch.bfloat16) else probabilities
    return wide.clamp_min(torch.finfo(wide.dtype).tiny).log()
