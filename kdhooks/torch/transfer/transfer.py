"""Weights of another model into a student, in place and one tensor at a time, so that no second copy is in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.config.finetune_settings import FinetuneSettings
from kdhooks.errors import UsageError
from kdhooks.torch.transfer.sources import opened
from kdhooks.torch.wrappers import inside
from kdhooks.transfer import Layout, Resize, TransferReport, plan, resized, settings_of

LAYOUT = Layout(inputs=1, classes=0)
"""A convolution is [out, in, height, width], a linear layer [out, in]."""


def transfer_weights(
    model: nn.Module, source: Any, settings: FinetuneSettings | None = None, **options: Any
) -> TransferReport:
    """Put the weights of a source into a model where they fit.

    Args:
        model: whose tensors are written in place; an optimizer that holds them keeps them.
        source: a model, a state_dict, a checkpoint that holds one, or the path of a file: ``.safetensors``, or what
            ``torch.save`` wrote, of which nothing is run.
        settings: of ``finetune``.
        options: the same by keyword, as the YAML has them: ``rename``, ``prefixes``, ``by_order``, ``exclude``,
            ``on_mismatch``, ``class_map``.

    Returns:
        What became of each tensor.

    Raises:
        TransferError: nothing fits, or a rule is wrong; the model is unchanged.
        ConfigError: a wrong option.
        DataError: the file holds no weights.
        UsageError: the model is sharded, or on the meta device.

    Example:
        >>> student, other = nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> report = transfer_weights(student, other)
        >>> report.transferred, report.unused, torch.equal(student.weight, other[0].weight)
        (('weight', 'bias'), ('1.weight', '1.bias'), True)
    """
    settings = settings_of(**options) if settings is None else settings
    root = inside(model)
    own = {
        name.replace("_orig_mod.", ""): value for name, value in root.state_dict().items() if isinstance(value, Tensor)
    }
    _check_places(own, type(root).__name__)
    fixed = {name for name, value in own.items() if not value.is_floating_point()}
    with opened(source) as given, torch.no_grad():
        made = plan(
            {name: tuple(value.shape) for name, value in own.items()},
            given.shapes,
            settings,
            LAYOUT,
            tied=_tied(own),
            fixed=fixed,
            names=(given.title, type(root).__name__),
        )
        for move in made.moves:
            value = given.read(move.source)
            if move.resize is not None:
                value = _resized(move.resize, value, own[move.target])
            own[move.target].copy_(value)
    return made.report


def _check_places(own: dict[str, Tensor], kind: str) -> None:
    """UsageError for tensors into which nothing can be written in place."""
    if any(value.device.type == "meta" for value in own.values()):
        raise UsageError(f"{kind} is on the meta device, where nothing is kept: call to_empty(device=...) before")
    if any(hasattr(value, "placements") for value in own.values()):
        raise UsageError(f"{kind} is sharded already: weights go over before fully_shard, so transfer them first")


def _resized(resize: Resize, source: Tensor, own: Tensor) -> Tensor:
    dtype = torch.promote_types(own.dtype, torch.float32)
    arrays = [one.detach().to("cpu", dtype).numpy() for one in (source, own)]
    return torch.from_numpy(resized(resize, *arrays))


def _tied(own: dict[str, Tensor]) -> dict[str, str]:
    """Names of a tensor that has an earlier name."""
    first: dict[Any, str] = {}
    tied = {}
    for name, value in own.items():
        if value.numel() == 0:
            continue
        place = (value.data_ptr(), value.device, value.dtype, tuple(value.shape), value.stride())
        if first.setdefault(place, name) != name:
            tied[name] = first[place]
    return tied
