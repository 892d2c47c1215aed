"""The benchmarks run by hand only, so here every module imports and every program runs with tiny settings.

Other libraries stand in an environment of their own; here their sides must be named as missing.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import (
    __main__ as program,
)
from benchmarks import (
    adaptation_step,
    alternate,
    cache_hook,
    cached_run,
    chunked_loss,
    goals,
    ipex_page,
    parts,
    peers,
    teacher_cost,
    whole_images,
    whole_page,
    whole_run,
    whole_text,
)
from benchmarks.alternate import Aim
from benchmarks.machine import features, kind_of

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module: str) -> None:
    assert import_module(f"benchmarks.{module}").__doc__


# ---- sides in turn ---------------------------------------------------------------------------------


def test_rounds_run_every_side_once_and_swap_their_order() -> None:
    ran: list[tuple[str, int]] = []
    sides = {name: lambda number, name=name: ran.append((name, number)) for name in "abc"}
    times = alternate.alternate(sides, 2, warm_up=1)
    assert [name for name, _ in ran] == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]
    assert [number for _, number in ran] == [-1] * 3 + [0] * 3 + [1] * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    times = {"ours": [1.0, 9.0, 2.0, 3.0], "theirs": [2.0, 10.0, 8.0, 4.0]}
    found = alternate.figures(times, [Aim("ours", "theirs", 0.7), Aim("ours", "nobody", 0.1)])
    assert found["rounds"] == 4
    assert found["ratios"] == [
        {"of": "ours", "to": "theirs", "at_most": 0.7, "median": 0.625, "quartiles": [0.5, 0.75]}
    ]
    assert alternate.ratios_table(found["ratios"]).splitlines()[2:] == [
        "| ours / theirs | 0.625 | 0.500 to 0.750 | 0.7 | yes |"
    ]


@pytest.mark.parametrize(
    ("goal", "line"),
    [
        (goals.Goal("time", 0.8, 0.75), "| time | 0.8 | at most 0.75 | **no** |"),
        (goals.Goal("time", 0.75, 0.75), "| time | 0.75 | at most 0.75 | yes |"),
        (goals.Goal("rate", 0.9, 0.8, at_least=True), "| rate | 0.9 | at least 0.8 | yes |"),
        (goals.Goal("size", 151.0, 150.0, " MB"), "| size | 151 MB | at most 150 MB | **no** |"),
    ],
)
def test_a_goal_says_whether_it_was_reached(goal: goals.Goal, line: str) -> None:
    assert goals.table([goal]).splitlines()[-1] == line


# ---- programs --------------------------------------------------------------------------------------


def test_the_teachers_cost_is_measured_and_peers_that_are_not_here_are_named() -> None:
    sides = list(teacher_cost.makers("", []))
    found = teacher_cost.measure(sides, rounds=1, batch=4, depths=(8, 8))
    assert found["missing"] == peers.missing(*teacher_cost.NEEDS.values())
    assert set(found["seconds"]) == set(teacher_cost.present(sides))
    assert "| kdhooks, warm cache / student alone |" in teacher_cost.section(found)
    bounds = [goal.bound for goal in teacher_cost.goals(found)]
    assert bounds == [0.75, 1.03]


def test_a_step_with_dann_is_measured_against_one_that_computes_the_same() -> None:
    found = adaptation_step.measure(1, depth=8, batch=4)
    assert [goal.bound for goal in adaptation_step.goals(found)] == [1.03]
    assert "| kdhooks / by hand |" in adaptation_step.section(found)
    torch.manual_seed(0)
    x, target, y = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.randint(100, (4,))
    student = adaptation_step.Student(8)
    makers = (adaptation_step.by_hand, adaptation_step.with_hooks)
    losses = [float(make(copy.deepcopy(student), x, y, target)(0)) for make in makers]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # but for the discriminator's first numbers


def test_all_logit_sides_compute_the_same_loss() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4, 3, 8, 8), torch.randint(10, (4,))
    losses = []
    for make in (teacher_cost.by_hand, teacher_cost.with_hooks):
        torch.manual_seed(1)
        student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(192, 10)) for _ in range(2))
        losses.append(make(student, teacher)(x, y))
    assert isinstance(losses[0], Tensor) and isinstance(losses[1], Tensor)
    torch.testing.assert_close(losses[0], losses[1])


def test_a_store_that_kept_nothing_is_not_measured_as_a_warm_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(192, 10)) for _ in range(2))
    batches = [(torch.randn(4, 3, 8, 8), torch.randint(10, (4,))) for _ in range(2)]
    teacher_cost.warm(student, teacher, str(tmp_path), batches)
    unseen = [(torch.randn(4, 3, 8, 8), batches[0][1])]

    class Forgets(list[Any]):
        def __iter__(self) -> Any:
            return iter(unseen)

    with pytest.raises(RuntimeError) as caught:
        teacher_cost.warm(student, teacher, str(tmp_path / "other"), Forgets(batches))
    assert str(caught.value) == "the store has the batch, and the teacher ran all the same"


def test_runs_with_and_without_a_store_are_measured() -> None:
    found = cached_run.measure(rows=8, rounds=1, depths=(8, 8))
    assert set(found["seconds"]) == {cached_run.STORE, cached_run.LIVE}
    assert [goal.bound for goal in cached_run.goals(found)] == [0.7]
    assert "5 epochs over 8 images" in cached_run.section(found)


def test_a_warm_batch_is_measured_through_the_hooks() -> None:
    found = cache_hook.measure(rounds=4)
    assert found["ms"][cache_hook.STORE]["median"] > 0
    assert [goal.bound for goal in cache_hook.goals(found)] == [1.0]
    assert "the difference: hashing and reading" in cache_hook.section(found)


def test_chunked_losses_agree_and_liger_is_named_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "missing", lambda module: ["liger-kernel"])
    sizes = {"tokens": 8, "vocabulary": 40, "hidden": 8, "threads": 1, "repeats": 1}
    found = chunked_loss.compare(argparse.Namespace(**sizes, variants=list(chunked_loss.VARIANTS)))
    assert list(found["variants"]) == ["direct", "chunked"] and found["missing"] == ["liger-kernel"]
    assert found["variants"]["direct"]["loss"] == pytest.approx(found["variants"]["chunked"]["loss"], rel=1e-5)
    assert found["gradient_differences"]["direct"] < 1e-5
    assert "| direct |" in chunked_loss.section(found)


def test_a_ratio_to_memory_that_was_not_seen_is_no_number() -> None:
    ours, theirs = ({"seconds": 1.0, "cpu_seconds": 2.0, "extra_gb": extra} for extra in (0.5, 0.0))
    found = chunked_loss.ratios([ours], [theirs])
    assert found["seconds"] == 1.0 and math.isnan(found["extra_gb"])


# ---- whole runs ------------------------------------------------------------------------------------

TINY = ["--seeds", "1", "--epochs", "2", "--rows", "20", "--depths", "8", "8", "--teacher-rows", "20"]
TINY += ["--teacher-epochs", "1", "--text-rows", "8", "--width", "8", "--synthetic", "--threads", "1"]


def test_whole_runs_of_all_sides_give_times_accuracies_and_a_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "figures.json", tmp_path / "kept"
    monkeypatch.setattr(sys, "argv", ["whole_run", *TINY, "--keep-in", str(folder), "--json", str(file)])
    whole_run.main()
    found = json.loads(file.read_text())
    assert list(found["images"]["sides"]) == list(whole_run.SIDES)
    assert list(found["text"]["8"]["sides"]) == list(whole_run.TEXT_SIDES)
    assert all(len(side["accuracy"]) == 1 for side in found["images"]["sides"].values())
    assert "teacher" in found["images"]["ledger"] and found["images"]["store_mb"] > 0
    assert [goal.bound for goal in whole_page.goals(found)] == [0.5, 1.12, 0.8, 0.0]
    assert whole_page.section(found) in capsys.readouterr().out
    monkeypatch.setattr(whole_run, "Images", lambda options: pytest.fail("a kept run was done again"))
    again = ["whole_run", *TINY, "--kinds", "images", "--keep", *whole_run.SIDES, "--keep-in", str(folder)]
    monkeypatch.setattr(sys, "argv", again)
    whole_run.main()


def test_only_our_distilled_run_has_a_store_and_only_live_runs_are_fp32(tmp_path: Path) -> None:
    options = argparse.Namespace(epochs=2)
    made = {side: whole_run.conf(side, options, 0, tmp_path)["distillation"] for side in whole_run.SIDES[:2]}
    live = whole_run.conf("live", options, 0, tmp_path)["distillation"]
    assert "cache" in made["kdhooks"] and "cache" not in made["kdhooks-alone"] and "cache" not in live
    assert "precision" not in live["train"] and "teacher" not in live
    kept = {key: value for key, value in made["kdhooks"]["train"].items() if key != "criterion"}
    assert kept == {key: value for key, value in made["kdhooks-alone"]["train"].items() if key != "criterion"}
    assert live["train"]["criterion"] == made["kdhooks"]["train"]["criterion"]


def test_the_plain_loop_crops_and_mirrors_what_lies_in_memory() -> None:
    torch.manual_seed(0)
    held = whole_images.InMemory(whole_images.images(6, synthetic=True))
    rows = torch.arange(6)
    for cropped, row in zip(held.crops(rows), rows, strict=True):
        padded = held.padded[row]
        windows = [padded[:, top : top + 32, left : left + 32] for top in range(9) for left in range(9)]
        assert any(torch.equal(cropped, each) or torch.equal(cropped.flip(2), each) for each in windows)
    seen = torch.cat([labels for _, labels in held.batches()])
    assert sorted(seen.tolist()) == sorted(held.labels.tolist())


def test_sentences_are_as_wide_as_the_longest_of_their_batch() -> None:
    batch = whole_text.collate(whole_text.rows_of(5, None))
    lengths = batch["attention_mask"].sum(1)
    assert batch["input_ids"].shape == (5, int(lengths.max()))
    assert bool((batch["input_ids"][batch["attention_mask"] == 0] == 0).all())


# ---- the page --------------------------------------------------------------------------------------


def keep(store: Path, figures: dict[str, Any]) -> None:
    """Figures of `cached_run` as the program keeps them."""
    (store / "cached_run.json").write_text(json.dumps(figures))
    ran = {"versions": {"Python": "3"}, "minutes": 1.0, "command": "python -m benchmarks.cached_run"}
    ran |= {"processor": "A processor", "features": ""}
    (store / "cached_run.environment.json").write_text(json.dumps(ran))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(program, "STORE", tmp_path / "figures")
    folder = tmp_path / "figures" / kind_of(features())
    folder.mkdir(parents=True)
    return folder


def test_the_page_has_a_section_for_each_part_that_was_measured(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = cached_run.measure(rows=4, rounds=1, depths=(8, 8))
    keep(store, figures)
    (store / "step_cost.json").write_text("{}")  # of an older release
    page = store / "page.md"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--reuse", "--page", str(page)])
    assert program.main() == 0
    text = page.read_text()
    assert cached_run.section(figures) in text
    assert "<!-- whole_run was not measured -->" in text and "<!-- step_cost was not measured -->" in text
    assert "| five epochs: from an empty store / without a store |" in text


def test_a_processor_of_another_kind_has_a_page_of_its_own_and_both_are_linked(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = kind_of(features())
    other = next(kind for kind in program.PAGES if kind != here)
    (store.parent / other).mkdir()
    keep(store.parent / other, cached_run.measure(rows=4, rounds=1, depths=(8, 8)))
    page = store / "page.md"
    for kind, told in ((other, "A processor, 2 threads"), (here, f"]({program.PAGES[other].name})")):
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--reuse", "--of", kind, "--page", str(page)])
        assert program.main() == 0
        assert told in page.read_text()


@pytest.mark.parametrize(("found", "kind"), [("avx2, amx_bf16", "amx"), ("avx2, avx512f", "avx512"), ("", "plain")])
def test_the_kind_of_a_processor_is_told_by_its_widest_instructions(found: str, kind: str) -> None:
    assert kind_of(found) == kind


def test_a_part_that_fails_does_not_stop_the_others(
    store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    nowhere = store / "bin" / "python"
    arguments = ["benchmarks", "--only", "cached_run", "--page", str(store / "page.md"), "--peers", str(nowhere)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert program.main() == 1
    assert capfd.readouterr().err.strip() == (
        f"cached_run: {nowhere} is not there: `make bench` builds that environment, which needs a package registry"
    )


def test_a_side_that_was_left_out_is_told_and_makes_the_program_fail(
    store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    figures = {**cached_run.measure(rows=4, rounds=1, depths=(8, 8)), "missing": ["torchdistill"]}
    keep(store, figures)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--reuse", "--page", str(store / "page.md")])
    assert program.main() == 1
    assert capfd.readouterr().err.strip() == "cached_run lacks torchdistill"


def test_the_parts_of_the_page_are_modules_with_a_section() -> None:
    for part in parts.parts():
        assert callable(part.module().section), part.name


def test_the_extensions_figures_have_a_section() -> None:
    one = {"seconds": 0.01, "share": 0.5, "quartiles": [0.4, 0.6]}
    assert ipex_page.section({"a forward": {"bf16": one}}).splitlines()[-1] == (
        "| a forward | bf16 | 10.0 | 0.50 | 0.40 to 0.60 |"
    )


def test_the_environments_versions_are_told_as_json() -> None:
    ran = subprocess.run([sys.executable, "-m", "benchmarks.machine"], check=True, capture_output=True, cwd=ROOT)
    assert json.loads(ran.stdout)["torch"] == torch.__version__


def test_settings_of_a_part_need_the_part_alone(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--keep", "live"])
    with pytest.raises(SystemExit):
        program.main()
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith("error: --keep live: settings of a part go with --only and its name alone")


def test_a_part_runs_with_its_own_settings_and_the_page_tells_the_command(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = store / "page.md"
    own = ["--rows", "4", "--rounds", "1", "--depths", "8", "8"]
    arguments = ["benchmarks", "--only", "cached_run", "--threads", "1", "--page", str(page), "--peers", sys.executable]
    monkeypatch.setattr(sys, "argv", [*arguments, *own])
    assert program.main() == 0
    assert f"python -m benchmarks.cached_run --threads 1 {' '.join(own)}  # " in page.read_text()
    assert json.loads((store / "cached_run.json").read_text())["rows"] == 4
