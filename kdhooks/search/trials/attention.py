"""Attention probabilities of transformers' models, for layer mappings that compare them.

The fast kernels (SDPA) never compute them, and a layer's output ``'1'`` is None. Models that can be switched compute
attention step by step within a block, and are afterwards as they were: a candidate's latency is that of the kernels
with which it will be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from kdhooks.config.mappings import taps_of
from kdhooks.config.search_settings import AutoDistillationSettings

_CRITERION = "IntermediateLayersKnowledgeDistillationLoss"


def compares_attention(settings: AutoDistillationSettings) -> bool:
    """Whether a stage takes a part of what an attention layer returns, and not its first output."""
    sections = [section for section in (settings.flash, settings.regular) if section is not None]
    taps = [
        tap
        for section in sections
        for stage in section.stages
        for role in ("student", "teacher")
        for _, tap in taps_of(_CRITERION, stage.criterion, role)
    ]
    return any(tap.selector not in ("", "0") and "att" in tap.layer.lower() for tap in taps)


@contextmanager
def attention_shown(settings: AutoDistillationSettings, models: Iterable[Any]) -> Iterator[None]:
    """Within the block models return attention probabilities, where a stage of the configuration compares them."""
    switched: list[tuple[Any, Any]] = []
    try:
        for model in models if compares_attention(settings) else ():
            used = getattr(getattr(model, "config", None), "_attn_implementation", None)
            if used not in (None, "eager") and hasattr(model, "set_attn_implementation"):
                model.set_attn_implementation("eager")
                switched.append((model, used))
        yield
    finally:
        for model, used in switched:
            model.set_attn_implementation(used)
