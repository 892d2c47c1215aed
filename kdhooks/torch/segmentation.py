"""UNets for segmentation: MONAI's, and the names of their levels, which domain adaptation looks at.

Rules: MONAI is imported when a network is made, never before; the user's random numbers and warnings stay as they
are meanwhile.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from kdhooks.errors import MissingPackageError, ModelError, UsageError


@dataclass(frozen=True)
class UNetLevels:
    """The names of a UNet's levels, in the order in which an image goes through them.

    Attributes:
        encoder: from the finest level to the bottom, which is the last one.
        decoder: from the level above the bottom to the finest; its last one is behind the network's last skip
            connection, but before the logits where the network has such a place.
    """

    encoder: tuple[str, ...]
    decoder: tuple[str, ...]

    @property
    def all(self) -> list[str]:
        """The encoder's and then the decoder's: ``layers:`` of CAC; its ``encoder_levels:`` is how many come first."""
        return [*self.encoder, *self.decoder]


def make_unet(
    dimensions: int = 2,
    channels: Sequence[int] = (8, 16, 32),
    *,
    in_channels: int = 1,
    classes: int = 2,
    norm: str = "batch",
    residual_units: int = 0,
) -> nn.Module:
    """MONAI's UNet, for images [N, in_channels, ...] of 2 or 3 dimensions, giving logits [N, classes, ...].

    Every level but the bottom halves the image; its sizes must be multiples of ``2 ** (len(channels) - 1)``.

    Args:
        dimensions: 2 or 3.
        channels: of every level, finest first, two at least.
        in_channels: of the images.
        classes: of the logits.
        norm: "batch" or "instance".
        residual_units: convolutions in a residual unit of every level; 0 has one plain convolution.

    Raises:
        MissingPackageError: MONAI is not installed.
        UsageError: an option out of its range.

    Kerfoot et al. 2018, "Left-Ventricle Quantification Using Residual U-Net".
    """
    if dimensions not in (2, 3):
        raise UsageError(f"a UNet has 2 or 3 dimensions, not {dimensions!r}")
    if len(channels) < 2:
        raise UsageError(f"a UNet needs the channels of two levels or more, not {list(channels)}")
    unet = _monai().UNet(
        dimensions,
        in_channels,
        classes,
        channels=tuple(channels),
        strides=(2,) * (len(channels) - 1),
        num_res_units=residual_units,
        norm=norm,
    )
    assert isinstance(unet, nn.Module)
    return unet


def unet_levels(model: nn.Module) -> UNetLevels:
    """The names of the levels of MONAI's ``UNet`` or ``BasicUNet``.

    Args:
        model: one of them, or a model of the same structure.

    Returns:
        The names of its modules.

    Raises:
        ModelError: it is neither.
    """
    names = {name for name, _ in model.named_modules()}
    if "conv_0" in names and "upcat_1" in names:
        downs = sorted((name for name in names if _numbered(name, "down_")), key=_number)
        ups = sorted((name for name in names if _numbered(name, "upcat_")), key=_number, reverse=True)
        return UNetLevels(("conv_0", *downs), tuple(ups))
    encoder: list[str] = []
    decoder: list[str] = []
    place = "model"
    while f"{place}.1.submodule" in names:
        encoder.append(f"{place}.0")
        decoder.insert(0, f"{place}.2")
        place = f"{place}.1.submodule"
    if not encoder:
        raise ModelError(
            f"unet_levels knows MONAI's UNet and BasicUNet, and not {type(model).__name__}; name its layers yourself"
        )
    return UNetLevels((*encoder, place), tuple(decoder[:-1]) or tuple(decoder))


def _numbered(name: str, before: str) -> bool:
    return name.startswith(before) and name.removeprefix(before).isdigit()


def _number(name: str) -> int:
    return int(name.rsplit("_", 1)[1])


def _monai() -> Any:
    """MONAI's networks; importing it draws random numbers and warns of what is not ours to mend."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from monai.networks import nets
    except ImportError:
        raise MissingPackageError("monai", "a UNet", "segmentation") from None
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    return nets
