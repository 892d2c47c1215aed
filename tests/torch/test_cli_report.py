"""What `kdhooks fit` leaves for people to look at: the page of its run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torch.test_cli import PAIR, folder, output

__all__ = ["folder"]  # the fixture that every test here runs in


def test_fit_leaves_its_page_or_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = output(capsys, "fit", "kd.yaml", *PAIR, "--no-report")
    assert code == 0 and "report.html" not in out
    assert out.endswith("page        kdhooks report .kdhooks/tiny\n")
    assert not Path(".kdhooks/tiny/report.html").exists()
    assert output(capsys, "report", ".kdhooks/tiny") == (0, "report: .kdhooks/tiny/report.html\n", "")
    text = Path(".kdhooks/tiny/report.html").read_text()
    assert "of the teacher&#x27;s top-1 accuracy" in text or "the teacher&#x27;s top-1 accuracy (" in text
    for section in ("models", "metrics", "losses", "confusion", "samples", "similarity", "setup"):
        assert f'<section id="{section}"' in text
    assert "kdhooks fit --profile" in text  # how to get what is missing


def test_a_page_that_fails_spoils_no_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(".kdhooks/tiny/report.html").mkdir(parents=True)
    code, out, _ = output(capsys, "fit", "kd.yaml", *PAIR)
    assert code == 0 and Path(".kdhooks/tiny/student.pt").is_file()
    assert "no page of the run was written: the page .kdhooks/tiny/report.html can't be written: " in out
