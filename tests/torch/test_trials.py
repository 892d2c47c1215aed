"""Which ways of running a model there are, how they are timed, and which weights lie in channels last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kdhooks.torch import trials
from kdhooks.torch.memory_format import channels_last


def strides(model: nn.Module) -> dict[str, Any]:
    return {name: parameter.stride() for name, parameter in model.named_parameters()}


def test_a_sharded_or_computed_weight_is_left_where_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)))
    tied = nn.Conv2d(2, 3, 3)
    tied.weight = model[0].weight
    model.append(tied)
    before = strides(model)
    with channels_last(model):
        changed = {name for name, stride in strides(model).items() if stride != before[name]}
        assert changed == {"0.weight"}
        assert tied.weight is model[0].weight
    assert strides(model) == before


@pytest.mark.parametrize(("low", "tried"), [("bf16", ("fp32", "bf16")), ("fp16", ("fp32",)), (None, ("fp32",))])
def test_only_native_bf16_is_tried(low: str | None, tried: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "low_precision", lambda device: low)
    assert trials.native_precisions(torch.device("cpu")) == tried


def test_timing_is_bounded_and_leaves_out_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, int] = {}
    now = [0.0]
    monkeypatch.setattr(trials.time, "perf_counter", lambda: now[0])

    def way(name: str, seconds: float, fails: bool = False) -> Callable[[], None]:
        def once() -> None:
            calls[name] = calls.get(name, 0) + 1
            now[0] += seconds * (10 if calls[name] == 1 else 1)  # the first pass is slow
            if fails:
                raise RuntimeError("no such kernel")

        return once

    ways = {"plain": way("plain", 2.0), "fast": way("fast", 1.0), "slow": way("slow", 9.0), "no": way("no", 1, True)}
    assert trials.time_in_turn(ways, torch.device("cpu")) == {"plain": 2.0, "fast": 1.0, "slow": 9.0}
    assert calls == {"plain": 2, "fast": 3, "slow": 2, "no": 1}
    assert trials.fastest({"plain": 1.0, "other": 0.98}) == "plain"
    assert trials.fastest({"plain": 1.0, "other": 0.9, "third": 0.8}) == "third"
