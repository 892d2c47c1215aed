"""What a page of figures says about the machine and the environment that they are from.

Run: python -m benchmarks.machine, which prints the versions of this environment as JSON.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdhooks.ledger.machine import processor as processor

PACKAGES = (
    "torch",
    "tensorflow-cpu",
    "keras",
    "neural-compressor",
    "torchdistill",
    "liger-kernel",
    "transformers",
    "intel-extension-for-pytorch",
    "lmdb",
)
"""What a figure may depend on, where it is installed."""


def features() -> str:
    """The processor's wide and matrix instructions that low precision stands on, where the system tells them."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return ""
    return ", ".join(name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in words)


def kind_of(features: str) -> str:
    """The kind of a processor with these features: ``amx``, ``avx512`` or ``plain``."""
    return "amx" if "amx" in features else "avx512" if "avx512" in features else "plain"


def versions() -> dict[str, str]:
    """Python's version and those of the packages that are here."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    print(json.dumps(versions()))
