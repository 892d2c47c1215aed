"""examples/ipex.py, which needs the environment that these tests have, and the measuring program beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def output(folder: Path, *command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_example_runs_with_small_settings(tmp_path: Path) -> None:
    shown = output(tmp_path, str(ROOT / "examples" / "ipex.py"), "--quick")
    assert "with ipex: " in shown and "without: " in shown
    assert "the student is made of BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential" in shown


def test_the_measuring_program_runs_with_small_settings(tmp_path: Path) -> None:
    shown = output(tmp_path, "-m", "benchmarks.ipex", "--quick", "--rounds", "1")
    assert all(name in shown for name in ("ResNet-56", "BERT-base", "ResNet-20", "bf16, ipex"))
