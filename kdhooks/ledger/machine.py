"""Where times were taken: processor, system, and the versions of what has been imported by then."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from pathlib import Path

_PACKAGES = ("torch", "intel_extension_for_pytorch", "tensorflow", "keras", "numpy")


def machine() -> dict[str, object]:
    """Processor, the cores that this process may use, and the system; nothing that names one machine or its user."""
    return {"processor": processor(), "cores": cores(), "system": f"{platform.system()} {platform.machine()}"}


@cache
def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Python's version, and those of the frameworks that are loaded; loads none."""
    found = {"python": platform.python_version()}
    for name in ("kdhooks", *_PACKAGES):
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    return found
