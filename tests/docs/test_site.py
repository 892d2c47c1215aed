"""What the site has beside the pages: examples as pages, links that lead out of the folder, doctests as code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.docs.pages import ROOT


def module(name: str) -> ModuleType:
    """A file of docs/ that the site's builder loads."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("fit.md", "../examples/keras_fit.py", "examples/keras_fit.md"),
        ("fit.md", "../examples/sentiment/teacher.py", "examples/sentiment.md"),
        ("fit.md", "../examples", "examples/index.md"),
        ("api/torch.md", "../../examples/keras_fit.py", "../examples/keras_fit.md"),
        ("fit.md", "../CHANGELOG.md#010", "changelog.md#010"),
        ("fit.md", "../README.md", "index.md"),
        ("fit.md", "cache.md", "cache.md"),
        ("fit.md", "../Makefile", "../Makefile"),
    ],
)
def test_links_out_of_the_folder_lead_to_pages(page: str, link: str, expected: str) -> None:
    made = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    found = module("site_pages").on_page_markdown(f"see [it]({link}).", page=made, config=None, files=None)
    assert found == f"see [it]({expected})."


def test_an_example_is_its_docstring_and_its_code(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text('"""Says one.\n\nRun:\n\n    python examples/one.py\n"""\n\nprint(1)\n', encoding="utf-8")
    page = module("site_pages").example_page(file)
    assert page.startswith("# one\n\n**Says one.**\n")
    assert "```text\npython examples/one.py\n```" in page
    assert page.endswith("\nprint(1)\n```\n")


def test_every_example_is_in_the_navigation() -> None:
    config = module("site_pages").on_config({"nav": []})
    listed = {path for entry in config["nav"][0]["Examples"] for path in entry.values()}
    assert listed == {"examples/index.md"} | {f"examples/{path.stem}.md" for path in (ROOT / "examples").glob("*.py")}


def test_doctests_become_code() -> None:
    text = "One.\n\nExample:\n    >>> 1 + 1\n    2\n\nTwo."
    expected = "One.\n\nExample:\n    ```python\n    >>> 1 + 1\n    2\n    ```\n\nTwo."
    assert module("site_docstrings").fenced(text) == expected
