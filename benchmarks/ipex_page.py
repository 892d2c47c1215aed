"""The figures of `benchmarks.ipex` as a section; imports nothing of the extension's environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def section(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The page's section."""
    lines = ["| case | way | ms | share of fp32 | quartiles |", "| --- " * 5 + "|"]
    for case, ways in found.items():
        for way, one in ways.items():
            low, high = one["quartiles"]
            told = f"{one['seconds'] * 1e3:.1f} | {one['share']:.2f} | {low:.2f} to {high:.2f}"
            lines.append(f"| {case} | {way} | {told} |")
    table = "\n".join(lines)
    return f"""## Intel Extension for PyTorch

Teachers' forwards and a training step as kdhooks runs them, `ipex: true` beside torch's own bf16 and channels last, in
the environment that `make test-ipex` builds. All ways of a case in turn in one process.

{table}"""
