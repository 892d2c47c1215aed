"""What the site has beside the pages of this folder: every example, and the links that lead out of it.

A page links to ``../examples/x.py`` or ``../README.md`` as the repository has them. On the site an example is a page
with its docstring as text and its code below, and other files of the repository that pages link to are pages as well.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("CHANGELOG.md", "CONTRIBUTING.md")
_OUT = re.compile(
    r"\]\((?:\.\./)+(?P<path>examples/?|examples/[\w/]+\.py|README\.md|CHANGELOG\.md|CONTRIBUTING\.md)(?P<rest>[#)])"
)
_INDENTED = re.compile(r"(?:^ {4,}\S.*\n?)+", re.MULTILINE)
_IN = re.compile(r"\]\(docs/(?P<path>[^)]+)\)")


def example_page(path: Path) -> str:
    """An example as a page: what its docstring says, and its code."""
    code = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(code)) or path.stem
    title, _, rest = docstring.partition("\n")
    return f"# {path.stem}\n\n**{title}**\n\n{_paragraphs(rest)}\n\n```python\n{code}```\n"


def _paragraphs(text: str) -> str:
    """Text of a docstring: indented blocks, commands mostly, become blocks of their own."""
    return _INDENTED.sub(lambda found: f"\n```text\n{textwrap.dedent(found[0]).rstrip()}\n```\n", text)


def index_page(paths: list[Path]) -> str:
    """The list of examples, with the first line of each docstring."""
    lines = []
    for path in paths:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"- [{path.stem}]({path.stem}.md): {docstring.partition(chr(10))[0]}")
    return (
        "# Examples\n\nEach is one file that runs from a checkout, as its docstring says.\n\n" + "\n".join(lines) + "\n"
    )


def on_config(config: Any) -> Any:
    """Add the examples to the navigation."""
    pages = [{path.stem.replace("_", " "): f"examples/{path.stem}.md"} for path in _examples()]
    config["nav"].append({"Examples": [{"All": "examples/index.md"}, *pages]})
    config["nav"].append({"The project": [{"Changes": "changelog.md"}, {"Contributing": "contributing.md"}]})
    return config


def _examples() -> list[Path]:
    return sorted((ROOT / "examples").glob("*.py"))


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    examples = _examples()
    made = {f"examples/{path.stem}.md": example_page(path) for path in examples}
    made["examples/index.md"] = index_page(examples)
    for name in TEXTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        made[name.lower()] = _IN.sub(lambda found: f"]({found['path']})", text)
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links that lead out of the folder lead to the pages that were made of their files."""
    depth = page.file.src_uri.count("/")

    def inside(found: re.Match[str]) -> str:
        path = found["path"]
        if path.endswith(".py"):
            path = re.sub(r"^(examples/\w+)(?:/\w+)*\.py$", r"\1.md", path)
        elif path.startswith("examples"):
            path = "examples/index.md"
        else:
            path = "index.md" if path == "README.md" else path.lower()
        return f"]({'../' * depth}{path}{found['rest']}"

    return _OUT.sub(inside, markdown)
