"""The classic form of a configuration: a mapping that begins with ``search``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdhooks.config.source import plain

SECTION = "auto_distillation"
_INSIDE = ("search", "flash_distillation", "regular_distillation", "measure", "train", "evaluation")


def as_configuration(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A full configuration from the classic mapping, which has no key ``auto_distillation``.

    Keys of that section move below it, and those of other sections (``model``, ``distillation``) stay. A mapping
    that has the key already is a full configuration; so is one that has none of ``search``, ``flash_distillation``
    and ``regular_distillation``.

    Args:
        mapping: as ``Trainer.autodistillation_config`` is written; it is copied, and tuples become lists.

    Raises:
        ConfigError: it contains itself, is nested too deep, or has a whole number of more than 64 bits.

    >>> as_configuration({"search": {"search_space": {"layers": (2, 4)}}})
    {'auto_distillation': {'search': {'search_space': {'layers': [2, 4]}}}}
    """
    data: dict[str, Any] = plain(mapping)
    if SECTION in data or not any(key in data for key in _INSIDE[:3]):
        return data
    inside = {key: data.pop(key) for key in list(data) if key in _INSIDE}
    return {**data, SECTION: inside}
