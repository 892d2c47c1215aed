"""The programs of docs/results_search.md: every kind of run with next to no steps, and the page of what is kept."""

from __future__ import annotations

import itertools
import random
import statistics
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import search_bo, search_cnn, search_digits, search_flash, search_flash_figures
from benchmarks.results_store import Store
from benchmarks.search_flash_figures import compare
from benchmarks.search_page import Sources, write

PEAK = {"layers": 2, "width": 16, "kernel": 3, "rate": 0.008}


def table(path: Path) -> list[dict[str, float]]:
    """A made-up table of the whole space with one peak, written and read."""
    places = {
        name: {value: place for place, value in enumerate(values)} for name, values in search_digits.SPACE.items()
    }
    rows = []
    for arch in search_digits.candidates():
        apart = sum((places[name][arch[name]] - places[name][value]) ** 2 for name, value in PEAK.items())
        rows.append({**arch, "score": 90.0 - 2 * apart, "error": 0.1, "seconds": 1.0})
    search_digits.write(path, rows, search_digits.head(1, 1))
    return search_digits.read(path)


# ---- the table -------------------------------------------------------------------------------------


def test_a_table_is_gone_on_with_and_ends_in_the_order_of_the_grid(tmp_path: Path) -> None:
    path, some = tmp_path / "table.csv", search_digits.candidates()[:40:13]
    search_digits.exhaust(path, some[:2], seeds=2, steps=2)
    first = {search_digits.key(row): row for row in search_digits.read(path)}
    search_digits.exhaust(path, some, seeds=2, steps=2)
    rows = search_digits.read(path)
    assert [search_digits.key(row) for row in rows] == [search_digits.key(arch) for arch in some]
    assert all(first.get(search_digits.key(row), row) == row for row in rows)
    assert search_digits.score(some[0], 2, 2)["score"] == rows[0]["score"]
    with pytest.raises(SystemExit, match=r"table\.csv was made with other settings"):
        search_digits.exhaust(path, some, seeds=3, steps=2)


def test_the_command_trains_two_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["search_digits", "--quick"])
    search_digits.main()
    assert len(search_digits.read(tmp_path / ".kdhooks" / "search_digits.csv")) == 2


def test_the_table_in_the_repository_is_whole_and_peaked() -> None:
    rows = search_digits.read()
    assert [search_digits.key(row) for row in rows] == [search_digits.key(arch) for arch in search_digits.candidates()]
    assert len(rows) >= 200
    assert len(search_digits.near_best(rows)) <= 0.01 * len(rows)


# ---- searches in it --------------------------------------------------------------------------------


def test_random_search_is_known_exactly() -> None:
    chance, found = random.Random(0), []
    for _ in range(4000):
        order = chance.sample(range(30), 30)
        found.append(next(place for place, one in enumerate(order, 1) if one < 3))
    for share in (0.25, 0.5, 0.75):
        reached = sum(trials <= search_bo.exact(30, 3, share) for trials in found) / len(found)
        before = sum(trials < search_bo.exact(30, 3, share) for trials in found) / len(found)
        assert before - 0.03 < share <= reached + 0.03
    assert search_bo.exact(10, 10, 1.0) == 1


@pytest.mark.parametrize("algorithm", ["Random", "BO"])
def test_a_search_ends_with_a_good_candidate(algorithm: str, tmp_path: Path) -> None:
    rows = table(tmp_path / "table.csv")
    run = search_bo.search(algorithm, 3, rows, most=60)
    assert run["found"] and (algorithm == "Random" or run["after"]["80"] == 90.0)
    assert run["trials"] <= (len(rows) if algorithm == "Random" else 60)
    assert search_bo.search(algorithm, 3, rows, most=60)["trials"] == run["trials"]


def test_a_search_without_success_says_so(tmp_path: Path) -> None:
    run = search_bo.search("TPE", 0, table(tmp_path / "table.csv"), most=2)
    assert (run["trials"], run["found"]) == (2, False)


def test_the_command_searches_and_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "table.csv")
    page, figures = tmp_path / "page.md", tmp_path / "bo.json"
    page.write_text("<!-- written bo -->\nkept\n<!-- end -->\n")
    options = ["--seeds", "2", "--only", "Random", "--figures", str(figures), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["search_bo", *options, "--table", str(tmp_path / "table.csv")])
    search_bo.main()
    trials = [run["trials"] for run in Store(figures).runs("Random").values()]
    text = page.read_text()
    assert f"| Random | {statistics.median(trials):g} |" in text
    assert "| 2 | 16 | 3 | 0.008 | 90.00 ± 0.10 |" in text
    assert "<!-- written bo -->\nkept\n<!-- end -->" in text
    monkeypatch.setattr(search_bo, "search", lambda *_: pytest.fail("it is there"))
    search_bo.main()


def test_the_figures_in_the_repository_are_of_this_table_and_bo_needs_half_the_trials() -> None:
    rows, store = search_digits.read(), Store(search_bo.FIGURES)
    for algorithm in search_bo.ALGORITHMS:
        description = search_bo.describe(algorithm, rows)
        assert all(store.get(algorithm, seed, description) for seed in range(20))
    medians = {name: statistics.median(run["trials"] for run in store.runs(name).values()) for name in ("BO", "Random")}
    exact = search_bo.exact(len(rows), len(search_digits.near_best(rows)), 0.5)
    assert medians["BO"] <= 0.5 * min(exact, medians["Random"])


# ---- flash and regular distillation ----------------------------------------------------------------


@pytest.mark.parametrize(("plan", "long"), [("blocks", 48), ("few", 8)])
def test_the_command_trains_in_three_ways(
    plan: str, long: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(400, 1, 28, 28, generator=generator), torch.randint(10, (400,), generator=generator)
    monkeypatch.setattr(search_cnn, "load", lambda train: images)
    search_cnn.teacher.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["search_flash", "--quick", "--plans", plan])
    search_flash.main()
    text = (tmp_path / ".kdhooks" / "search-quick" / "page.md").read_text()
    assert "| distilled | 6 |" in text and f"| long | {long} |" in text
    assert ("processor time of a candidate" in text) == (plan == "few")
    assert not (tmp_path / "docs").exists()


def test_batches_go_on_where_the_last_epoch_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_cnn, "load", lambda train: (torch.arange(96), torch.arange(96)))
    batches = search_cnn.Batches(96, seed=0, count=2)
    rows = [x for _ in range(3) for x, _ in batches]
    assert len(batches) == 2 and len(rows) == 6
    assert sorted(torch.cat(rows[:3]).tolist()) == sorted(torch.cat(rows[3:]).tolist()) == list(range(96))


def test_a_seed_draws_the_images_and_goes_through_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_cnn, "load", lambda train: (torch.arange(96), torch.arange(96)))
    first, second = (search_cnn.Batches(64, seed, count=4, drawn=True) for seed in range(2))
    rows = torch.cat([x for x, _ in first]).tolist()
    assert sorted(rows[:64]) == sorted(rows[64:]) and len(set(rows)) == 64
    assert set(rows) != set(torch.cat([x for x, _ in second]).tolist())


def test_ranks_are_compared_candidate_by_candidate(tmp_path: Path) -> None:
    store = Store(tmp_path / "flash.json")
    for seed, (place, arch) in itertools.product(range(2), enumerate(search_cnn.candidates()[:6])):
        for way, score in (("alone", 50 - place), ("distilled", 60 + place), ("long", 80 + place + seed)):
            run = search_flash.Run("blocks", way, arch, seed)
            store.add(run.key, seed, "", {"score": score, "seconds": 1.0})
    found = compare(store, "blocks")
    assert found is not None and found.seeds == 2
    assert (found.ways["distilled"].spearman, found.ways["alone"].kendall) == ("1.000", "-1.000")
    assert found.ways["long"].accuracy == "83.00 ± 0.50"
    assert found.differences.startswith(
        "Distilled minus alone: accuracy +15.00 ± 0.00, better for 6 of 6; Spearman +2.000"
    )
    assert compare(store, "guided") is None
    write(tmp_path / "page.md", Sources(tmp_path / "none.csv", tmp_path / "none.json", store.path))
    assert "| 4 | 1 | 1 | 50.00 | 60.00 | 80.50 |" in (tmp_path / "page.md").read_text()


def test_with_few_images_costs_are_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_flash_figures, "DRAWS", 20)
    store = Store(tmp_path / "flash.json")
    made = [
        ("few", "alone", 50, 1.0),
        ("few", "distilled", 60, 1.5),
        ("few", "long", 80, 4.0),
        ("few-time", "alone", 51, 1.5),
    ]
    for seed, (place, arch) in itertools.product(range(2), enumerate(search_cnn.candidates()[:4])):
        for plan, way, score, cpu in made:
            run = search_flash.Run(plan, way, arch, seed)
            store.add(run.key, seed, "", {"score": score + place + seed, "seconds": 1.0, "cpu": cpu})
    store.add(search_flash.Run("few", "alone", arch, 2).key, 2, "", {"score": 9, "seconds": 1.0, "cpu": 99.0})
    found = compare(store, "few")
    assert found is not None and found.seeds == 2
    assert found.more.startswith("The accuracy's difference over the 4 candidates: +10.00 ± 0.00; Spearman, 95%")
    assert "Kendall of a seed, distilled minus alone: +0.00 ± 0.00" in found.more
    assert "alone 1.0 s, distilled 1.5 s, long 4.0 s; distilled / alone 1.50." in found.more
    assert found.more.endswith(
        "Alone with 1,250 steps (1.5 s), 2 seeds: accuracy 53.00 ± 0.50, distilled minus it +9.00 ± 0.00; "
        "Spearman 1.000 (distilled: 1.000), Kendall 1.000 (distilled: 1.000)."
    )
    assert compare(store, "few-time") is None
