"""Runs every example as its docstring says, with its small settings."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BEFORE = {"train_from_logits": ["save_logits.py"]}
"""Examples that go on with what another one leaves in the folder."""
# Intel's extension needs another torch, so this one runs in the environment of tests/ipex.
RUN_HERE = [path for path in EXAMPLES if path.name != "ipex.py"]
every_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)


def test_there_are_examples() -> None:
    assert EXAMPLES


@every_example
def test_docstring_holds_the_command(example: Path) -> None:
    docstring = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
    assert f"python examples/{example.name}" in docstring


@pytest.mark.parametrize("example", RUN_HERE, ids=lambda path: path.stem)
def test_example_runs_with_small_settings(example: Path, tmp_path: Path) -> None:
    # A directory of its own shows that an example needs nothing of the checkout but the package.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name in (*BEFORE.get(example.stem, ()), example.name):
        command = [sys.executable, str(example.with_name(name)), "--quick"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=220)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), "an example shows its reader something"
