"""What a configuration says about many devices."""

from __future__ import annotations

from typing import Any

import pytest

from kdhooks import DistillationConf
from kdhooks.errors import ConfigError


def problems(train: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        DistillationConf({"distillation": {"train": train, "teacher": teacher}})
    return str(caught.value).splitlines()


def test_the_defaults_share_out_nothing() -> None:
    settings = DistillationConf({}).settings.distillation
    assert (settings.train.strategy, settings.teacher.sharded) == ("auto", False)
    given = {"train": {"strategy": "fsdp2", "channels_last": "auto"}, "teacher": {"sharded": True, "compile": True}}
    settings = DistillationConf({"distillation": given}).settings.distillation
    assert (settings.train.strategy, settings.teacher.sharded) == ("fsdp2", True)


def test_a_strategy_that_is_none_and_a_key_that_is_none() -> None:
    assert problems({"strategy": "fsdp"}, {"shardd": True}) == [
        "<dict>: distillation.train.strategy: expected one of 'auto', 'ddp', 'fsdp2', got 'fsdp'",
        "  Did you mean 'fsdp2'?",
        "<dict>: distillation.teacher.shardd: unknown key",
        "  Did you mean 'sharded'?",
    ]


def test_what_shards_can_not_do() -> None:
    assert problems({"strategy": "fsdp2", "channels_last": True, "ipex": True}, {"sharded": True, "ema": 0.9}) == [
        "<dict>: distillation.train.channels_last: true can't stand beside strategy: fsdp2, which shares out the "
        "student's weights",
        "  Leave channels_last out, or write strategy: ddp.",
        "<dict>: distillation.train.ipex: true can't stand beside strategy: fsdp2, which shares out the student's "
        "weights",
        "  Leave ipex out, or write strategy: ddp.",
        "<dict>: distillation.teacher.sharded: stands beside ema, and an average of the student is shared out as the "
        "student is",
        "  Leave sharded out.",
    ]
    assert problems({}, {"sharded": True, "ipex": True}) == [
        "<dict>: distillation.teacher.sharded: stands beside ipex: true, and Intel's extension needs whole weights",
        "  Keep one of sharded and ipex.",
    ]
