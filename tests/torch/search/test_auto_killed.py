"""A search whose process is killed again and again comes to the same candidates as one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import torch

from tests.torch.search.searches import agent, facts
from tests.torch.training_runs import process

SEARCH: dict[str, Any] = {"max_trials": 6, "search_algorithm": "TPE", "startup_trials": 2}


def run(folder: Path, slow: float = 0.0) -> None:
    """A whole search; `slow` seconds a candidate, so that kills find it in all of its parts."""
    torch.set_num_threads(1)
    made = agent(folder, **SEARCH)
    judged = made.eval_dataloader

    def judge(model: Any) -> float:
        time.sleep(slow)
        correct = [(model(inputs).argmax(1) == target).float().mean() for inputs, target in judged]
        return float(torch.stack(correct).mean())

    made.eval_func = judge
    made.search_loop()


def test_killed_and_resumed_it_is_the_same_search(tmp_path: Path) -> None:
    generator = random.Random(11)
    kills = 0
    for _ in range(30):
        started = process(run, tmp_path / "killed", 0.15)
        started.start()
        started.join(generator.uniform(0.3, 1.2))
        if started.exitcode is None and kills < 5:
            os.kill(started.pid, signal.SIGKILL)
            kills += 1
        started.join(60)
        if started.exitcode == 0:
            break
    assert started.exitcode == 0 and kills >= 2
    run(tmp_path / "whole")
    killed, whole = agent(tmp_path / "killed", **SEARCH), agent(tmp_path / "whole", **SEARCH)
    killed.look()
    whole.look()
    assert len(whole.search_result) == 6
    assert facts(killed) == facts(whole)
