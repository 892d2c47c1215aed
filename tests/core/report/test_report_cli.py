"""``kdhooks report``: where the page goes, what is said of it, and what of records that are none."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest

from kdhooks.cli import main
from tests.core.report.made_up import record


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run in it."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/run.json").write_text(json.dumps(record(2)))
    return tmp_path


def output(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = main(words)
    return (code, *capsys.readouterr())


def test_a_folder_or_a_file_is_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "report", "run") == (0, "report: run/report.html\n", "")
    first = Path("run/report.html").read_text()
    assert output(capsys, "report", "run/run.json", "--out", "new/page.html") == (0, "report: new/page.html\n", "")
    assert Path("new/page.html").read_text() == first
    assert first.startswith("<!DOCTYPE html>") and first.endswith("</html>\n")


def test_the_page_is_opened_where_that_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    assert output(capsys, "report", "run", "--open") == (0, "report: run/report.html\n", "")
    assert opened == [(folder / "run" / "report.html").as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert output(capsys, "report", "run", "--open") == (
        0,
        "report: run/report.html\nno browser was found: open the file yourself\n",
        "",
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ("nowhere",),
            "there is no record of a run at nowhere: fit() writes one into the run's folder, tuning.workspace.path",
        ),
        (("damaged.json",), "damaged.json is damaged, or no record of a run: it is no JSON"),
        (("other.json",), "other.json is no record of a run of kdhooks"),
        (
            ("newer.json",),
            "the record newer.json is of version 2, and this kdhooks reads up to version 1: update kdhooks",
        ),
        (("run", "--out", "run"), "--out run is a folder: name a file, as in run/report.html"),
        (
            ("run", "--out", "run/run.json"),
            "the page would be written over the record run/run.json: name another file",
        ),
    ],
)
def test_mistakes(words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("damaged.json").write_text(json.dumps(record(2))[:5000])
    Path("other.json").write_text("{}")
    Path("newer.json").write_text(json.dumps(record(2, version=2)))
    assert output(capsys, "report", *words) == (2, "", f"kdhooks report: {text}\n")
    assert not Path("run/report.html").exists()
    assert json.loads(Path("run/run.json").read_text()) == record(2)
