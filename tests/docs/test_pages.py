"""Runs the documentation: its Python, its YAML, its commands, its links, and the examples in docstrings."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
from pathlib import Path

import pytest

import kdhooks
from tests.docs.pages import ROOT, Block, commands_of, pages, runnable, wrong_with

PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


def each(language: str) -> pytest.MarkDecorator:
    """Every runnable block of one language, on every page, as test parameters."""
    parameters = [
        pytest.param(page, block, id=f"{page.relative_to(ROOT)}:{block.line}")
        for page in pages()
        for block in runnable(page, language)
    ]
    return pytest.mark.parametrize(("page", "block"), parameters)


@pytest.fixture(scope="module")
def help_of() -> dict[str, str]:
    """The help text of every subcommand of `kdhooks`, asked of the command line itself."""
    from kdhooks.cli import main

    def asked(*words: str) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stopped:
            main([*words, "--help"])
        assert stopped.value.code == 0
        return printed.getvalue()

    def below(*words: str) -> list[str]:
        """The subcommands of a command, which its help lists under one word in capitals."""
        text = asked(*words)
        return (
            re.findall(r"^    ([a-z-]+) ", text, re.MULTILINE) if re.search(r"^  [A-Z]+$", text, re.MULTILINE) else []
        )

    names = below()
    assert "demo" in names and "fit" in names
    found = {name: asked(name) for name in names}
    found |= {f"{name} {verb}": asked(name, verb) for name in names for verb in below(name)}
    assert "cache build" in found
    return found


@PAGES
def test_python_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [block for block in runnable(page, "yaml") if block.file_name]
    assert len({block.file_name for block in files}) == len(files), "two YAML blocks of this page are the same file"
    for block in files:
        (tmp_path / block.file_name).write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in runnable(page, "python"):
        # The empty lines make a traceback show the page's own line numbers.
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)


@each("yaml")
def test_yaml_block_is_a_valid_configuration(page: Path, block: Block, tmp_path: Path) -> None:
    file = tmp_path / (block.file_name or "kd.yaml")
    file.write_text(block.text, encoding="utf-8")
    kdhooks.DistillationConf(str(file))


@each("bash")
def test_commands_exist(page: Path, block: Block, help_of: dict[str, str]) -> None:
    found = {" ".join(words): wrong_with(words, help_of) for words in commands_of(block.text)}
    assert {command: wrong for command, wrong in found.items() if wrong} == {}


def test_the_documentation_has_something_to_run() -> None:
    for language in ("python", "yaml", "bash"):
        assert sum(len(runnable(page, language)) for page in pages()) > 0, language


@PAGES
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def modules() -> list[str]:
    """Every module of the package."""
    found = pkgutil.walk_packages(kdhooks.__path__, "kdhooks.")
    return ["kdhooks", *(module.name for module in found if not module.name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
