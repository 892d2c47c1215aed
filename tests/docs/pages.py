"""Reads the documentation's pages: their code blocks, and what the commands in them should lead to.

The rules for a page:

- ``python`` blocks of a page run in order, in one namespace, in a directory of their own.
- ``yaml`` blocks must be whole configurations that `DistillationConf` accepts. One that begins with a
  comment that is a file name (``# kd.yaml``) is also written there before the page's Python runs.
- ``bash`` blocks are not run; their make targets, subcommands, options, files and extras must exist.
- ``text`` blocks are for output and trees. Every block names its language, and no other is known.
- ``<!-- no-run: reason -->`` on the line before a block keeps it from being run.
- ``<!-- run-first`` … ``-->`` holds Python that a reader need not see: it runs where it stands.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("python", "yaml", "bash", "text")

_FENCE = re.compile(r"^ *(?P<mark>`{3,}|~{3,})(?P<language>[^\s`]*)")
_NO_RUN = re.compile(r"^\s*<!--\s*no-run:\s*(?P<reason>.*?)\s*-->\s*$")


@dataclass(frozen=True)
class Block:
    """A code block: its language, its text, the line its text begins at (from 1), why it is not run."""

    language: str
    text: str
    line: int
    no_run: str = ""

    @property
    def file_name(self) -> str:
        """The file that a YAML block says it is, or an empty string."""
        found = re.match(r"#\s*([\w.-]+\.ya?ml)\s*\n", self.text)
        return found.group(1) if found else ""


def pages() -> list[Path]:
    """Every page whose blocks are checked."""
    return sorted([*ROOT.glob("README.md"), *ROOT.glob("CONTRIBUTING.md"), *ROOT.glob("docs/**/*.md")])


def blocks_of(text: str) -> list[Block]:
    """All blocks of a page; ValueError names the line of one that breaks the rules."""
    lines, blocks, at = text.splitlines(), [], 0
    while at < len(lines):
        opening, mark = _FENCE.match(lines[at]), _NO_RUN.match(lines[at])
        if lines[at].strip() == "<!-- run-first":
            end = _closing_line(lines, at, "-->")
            blocks.append(Block("python", _body(lines, at, end), at + 2))
            at = end
        elif opening:
            end = _closing_line(lines, at, opening["mark"])
            if opening["language"] not in LANGUAGES:
                raise ValueError(f"line {at + 1}: the language {opening['language']!r} is none of {LANGUAGES}")
            before = _NO_RUN.match(lines[at - 1]) if at else None
            blocks.append(Block(opening["language"], _body(lines, at, end), at + 2, before["reason"] if before else ""))
            at = end
        elif mark and not (mark["reason"] and at + 1 < len(lines) and _FENCE.match(lines[at + 1])):
            raise ValueError(f"line {at + 1}: a no-run mark needs a reason, and a block on the next line")
        at += 1
    return blocks


def _body(lines: list[str], start: int, end: int) -> str:
    return textwrap.dedent("\n".join(lines[start + 1 : end])) + "\n"


def _closing_line(lines: list[str], start: int, mark: str) -> int:
    for at in range(start + 1, len(lines)):
        if lines[at].strip() == mark:
            return at
    raise ValueError(f"line {start + 1}: nothing closes this block")


def runnable(page: Path, language: str) -> list[Block]:
    """The blocks of one language that have no no-run mark."""
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    return [block for block in blocks if block.language == language and not block.no_run]


def commands_of(text: str) -> list[list[str]]:
    """The words of every command in a bash block, without leading assignments; ``a && b`` are two."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            if words:
                commands.append(words)
    return commands


def make_targets() -> set[str]:
    """The targets that the Makefile describes."""
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def extras() -> set[str]:
    """The names of the extras in pyproject.toml."""
    table = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
    return set(re.findall(r"^(\w+) = \[", table.split("\n[")[0], re.MULTILINE))


def wrong_with(words: list[str], help_of: Mapping[str, str]) -> str:
    """What is wrong with one documented command, or an empty string.

    Args:
        words: the command.
        help_of: the help text of every subcommand of ``kdhooks``, and of its own ones as in ``cache info``.
    """
    name, rest = words[0], words[1:]
    named = [word for word in rest if not word.startswith("-")]
    if name == "make":
        return ", ".join(f"no make target {word!r}" for word in named if "=" not in word and word not in make_targets())
    if name == "kdhooks":
        if not rest or rest[0] not in help_of:
            return f"no subcommand {rest[0] if rest else ''!r}"
        command = " ".join(rest[:2]) if any(name.startswith(f"{rest[0]} ") for name in help_of) else rest[0]
        if command not in help_of:
            return f"no subcommand {command!r}"
        options = [word.split("=")[0] for word in rest[1:] if word.startswith("--")]
        return ", ".join(f"{command} has no option {option}" for option in options if option not in help_of[command])
    if name in ("python", "python3"):
        return "" if "-m" in rest or (named and (ROOT / named[0]).is_file()) else f"no file {' '.join(named[:1])!r}"
    if name == "pip":
        wanted = {extra for word in named for found in re.findall(r"\[([\w,]+)\]", word) for extra in found.split(",")}
        return ", ".join(f"no extra {extra!r}" for extra in sorted(wanted - extras()))
    return "" if name in ("git", "cd") else f"no rule for the command {name!r}: write one here, or call the block text"
