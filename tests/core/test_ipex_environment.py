"""The second environment, that of Intel Extension for PyTorch: its pins, and how it is made."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^([\w.-]+)==([\w.]+)(?:; (.*))?$", re.MULTILINE)


def pins(name: str) -> dict[tuple[str, str], str]:
    """The version of each package and Python."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = LINE.findall(text)
    assert len(found) == sum(not line.startswith("#") for line in text.splitlines())
    known = {(re.sub(r"[_.]", "-", package.lower()), python): version for package, version, python in found}
    assert len(known) == len(found)
    return known


def test_what_both_environments_have_is_pinned_alike() -> None:
    first, second = pins("constraints.txt"), pins("constraints-ipex.txt")
    both = set(first) & set(second)
    assert ("numpy", 'python_version >= "3.11"') in both
    assert {key for key in both if first[key] != second[key]} == {("torch", "")}
    others = {name for name, _ in second} - {name for name, _ in first}
    assert {name for name in others if not name.startswith("nvidia-")} == {"intel-extension-for-pytorch", "setuptools"}


def test_the_extra_names_the_tested_versions() -> None:
    pinned = pins("constraints-ipex.txt")
    extra = re.search(r"^ipex = \[(.*)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert extra is not None
    assert f'"intel-extension-for-pytorch=={pinned["intel-extension-for-pytorch", ""]}"' in extra.group(1)
    assert f'"torch=={pinned["torch", ""].rpartition(".")[0]}.*"' in extra.group(1)


def test_the_gate_runs_it_where_the_processor_can() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--no-deps -r $<" in makefile and "$(IPEX_READY): constraints-ipex.txt" in makefile
    assert re.search(r"for step in .*\btest-ipex\b.*; do", makefile)
    assert "left out, since Intel Extension for PyTorch needs a processor with AVX-512" in makefile
    assert ".venv-ipex/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
