"""Examples of docstrings as code on the site: doctests become fenced blocks, wherever they stand."""

from __future__ import annotations

from typing import Any

import griffe


def fenced(text: str) -> str:
    """A docstring whose doctests, with their output, are fenced; each ends at an empty line."""
    lines: list[str] = []
    indent: str | None = None
    for line in [*text.splitlines(), ""]:
        begins = indent is None and line.lstrip().startswith(">>> ")
        if begins:
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}```python")
        elif indent is not None and not line.strip():
            lines.append(f"{indent}```")
            indent = None
        lines.append(line)
    return "\n".join(lines[:-1] if not text.endswith("\n") else lines)


class Doctests(griffe.Extension):
    """Fences the doctests of every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """After an object was read from the sources."""
        if obj.docstring is not None and ">>> " in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)
