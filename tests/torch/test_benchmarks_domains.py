"""The program of docs/results_domains.md: every kind of run with next to no steps, and the page of what it keeps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import domain_digits, domain_scanners, domain_transfer, domains
from benchmarks.domains_page import chosen, write
from benchmarks.domains_rows import ROWS
from benchmarks.domains_store import find, put


@pytest.mark.parametrize("name", ["MCC", "ADDA", "AdaBN"])
def test_a_run_on_digits_looks_at_the_target_and_asks_validators(name: str) -> None:
    found = domain_digits.run(domains.few(ROWS["digits"][name]), 0)
    looks = len(found["curve"])
    assert looks >= domain_digits.LOOKS
    assert {validator: len(scores) for validator, scores in found["validators"].items()} == dict.fromkeys(
        domain_digits.VALIDATORS, looks
    )
    assert 0 <= chosen(found, "entropy") <= 100
    assert ("ADDA.domain_accuracy" in found.get("domain_accuracy", {})) == (name == "ADDA")


def test_a_run_on_scanners_and_one_from_a_pretrained_network() -> None:
    found = domain_scanners.run(domains.few(ROWS["scanners"]["CAC"]), 0)
    assert len(found["curve"]) == domain_scanners.LOOKS and "CAC.encoder_accuracy" in found["domain_accuracy"]
    found = domain_transfer.run(domains.few(ROWS["transfer"]["from MNIST"]), 0)
    assert len(found["curve"]) == 2 and found["report"]


def test_epochs_are_counted_from_one() -> None:
    assert domain_transfer.epochs_to([1.0, 5.0, 4.0], 4.0) == 2
    assert domain_transfer.epochs_to([1.0], 4.0) is None


def test_a_run_that_is_kept_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = ROWS["digits"]["source only"]
    put("digits", "source only", recipe, 3, {"curve": [1.0]}, tmp_path)
    monkeypatch.setattr(domain_digits, "run", lambda *_: pytest.fail("it is there"))
    domains.go("digits", "source only", recipe, 3, tmp_path)
    assert find("digits", recipe, 3, tmp_path) is not None
    assert find("digits", recipe.but(steps=1), 3, tmp_path) is None


def test_the_page_says_what_the_runs_say_and_keeps_what_people_wrote(tmp_path: Path) -> None:
    def add(kind: str, name: str, seed: int, curve: list[float]) -> None:
        validators: dict[str, Any] = {one: curve for one in domain_digits.VALIDATORS}
        found = {"curve": curve, "source": 90.0, "validators": validators, "seconds": 1.0}
        put(kind, name, ROWS[kind][name], seed, found, tmp_path)

    for seed in (0, 1):
        add("digits", "source only", seed, [50.0, 60.0 + seed])
        add("digits", "MCC", seed, [81.0 + seed, 80.0 + seed])
        add("digits", "target-trained", seed, [99.0, 100.0 + seed])
        add("scanners", "source only", seed, [60.0, 70.0])
        add("transfer", "from scratch", seed, [50.0, 80.0, 90.0, 95.0])
        add("transfer", "from MNIST", seed, [95.0, 96.0])
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("<!-- written digits -->\nkept\n<!-- end -->\n")
    write(page, tmp_path, lambda recipe: recipe)
    text = page.read_text()
    assert "| MCC | 80.50 ± 0.50 | +20.00 ± 0.00 | 50 % | 90.00 ± 0.00 | 2 |" in text
    assert "| MCC | 81.50 ± 0.50 | 1.00 ± 0.00 | 1.00 ± 0.00 | 0.00 ± 0.00 | 0.00 ± 0.00 |" in text
    assert "| from MNIST | 96.00 ± 0.00 | 1 | 4.0 | 1, 1 | 95.00 ± 0.00 |" in text
    assert "<!-- written digits -->\nkept\n<!-- end -->" in text
    assert (page.parent / "results-domains-digits.png").is_file()


def test_the_command_runs_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["domains", "--quick", "--only", "digits", "--rows", "source"])
    domains.main()
    assert "| source only |" in (tmp_path / ".kdhooks" / "domains-quick" / "page.md").read_text()
