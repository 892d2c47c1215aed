"""Programs about a store in processes of their own, and rows that say by themselves whether they are right."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def row(name: str) -> tuple[bytes, bytes]:
    digest = sha256(name.encode()).digest()
    return digest[:16], digest * 3
