"""One table of what the trainers' own programs measure, in either form that they give."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from benchmarks import trainers
from benchmarks.alternate import Aim, figures


def program(monkeypatch: pytest.MonkeyPatch, package: str, found: dict[str, Any]) -> None:
    module = ModuleType(f"benchmarks.trainers_{package}")
    module.run = lambda steps, rounds: found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_both_forms_become_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"hand": [0.4, 0.4, 0.4, 0.4], "hooks": [0.4, 0.404, 0.408, 0.44]}
    program(monkeypatch, "accelerate", figures(times, [Aim("hooks", "hand", 1.03), Aim("hand", "hooks")]))
    given = {"hand_ms": 10.0, "ours_ms": 10.5, "ratio": 1.05, "ratios": [1.04, 1.05, 1.06]}
    program(monkeypatch, "transformers", given)
    hugging, accelerate = (one for one in trainers.TRAINERS if one.package in ("transformers", "accelerate"))
    found = {"trainers": {one.title: trainers.measure(one, 40, 4) for one in (hugging, accelerate)}}
    assert trainers.markdown(found).splitlines()[2:] == [
        "| Hugging Face Trainer | 10.00 | 10.50 | 1.050 | 1.040 to 1.060 | 1.03 | **no** |",
        "| Accelerate | 10.00 | 10.15 | 1.015 | 1.010 to 1.020 | 1.03 | yes |",
    ]
    assert [(goal.value, goal.reached) for goal in trainers.goals(found)] == [
        (1.05, False),
        (pytest.approx(1.015), True),
    ]
    assert trainers.section(found).startswith("## In other trainers\n")
