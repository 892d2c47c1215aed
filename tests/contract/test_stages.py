"""Flash and regular distillation in every framework: what is trained, for how long, and what is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdhooks.config.search_settings import FlashSettings, StageSettings
from kdhooks.errors import ConfigError, UsageError
from kdhooks.search.distilling.blocks import BlockBank
from kdhooks.search.distilling.scheduler import Scheduler
from kdhooks.search.distilling.stage_records import EpochEnd
from kdhooks.search.distilling.stages import FlashDistillation, RegularDistillation
from tests.contract.frameworks import Framework, same


def conf(folder: Path, framework: Framework, *, rate: float = 0.1, **train: Any) -> dict[str, Any]:
    given = {"optimizer": {"SGD": {"learning_rate": rate, "momentum": 0.9, "weight_decay": 0.01}}, **train}
    if framework.name == "tensorflow" and not framework.traced:
        given["execution_mode"] = "eager"
    return {
        "distillation": {"train": given},
        "tuning": {"workspace": {"path": str(folder / "run")}, "random_seed": 5},
    }


def stage(block: str, *, steps: int | None = 4, **options: Any) -> StageSettings:
    layer = options.pop("layer", block)
    return StageSettings(block, {"layer_mappings": [[layer]], **options}, steps)


def batches(framework: Framework) -> list[Any]:
    return [(one["x"], one["y"]) for one in (framework.batch_columns(8, seed) for seed in range(3))]


def flash(framework: Framework, folder: Path, *stages: StageSettings, **options: Any) -> FlashDistillation:
    settings = {name: options.pop(name) for name in ("freeze_earlier", "share_blocks") if name in options}
    train = {name: options.pop(name) for name in ("rate", "scheduler", "optimizer", "end_epoch") if name in options}
    part = FlashDistillation(conf(folder, framework, **train), settings=FlashSettings(stages, **settings), **options)
    part.student_model = framework.classifier(1) if part.student_model is None else part.student_model
    part.teacher_model = framework.classifier(2) if part.teacher_model is None else part.teacher_model
    part.train_dataloader = batches(framework) if part.train_dataloader is None else part.train_dataloader
    return part


def weights_of(framework: Framework, model: Any) -> dict[str, Any]:
    """All weights by names in which the layer stands; without the states of dropout."""
    if framework.name == "pytorch":
        return framework.weights(model)
    return {one.path: np.array(one.numpy()) for one in model.variables if "seed_generator" not in one.path}


def moved(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The layers of which a weight has changed."""
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    return {layer for layer in ("body", "norm", "head") for name in changed if layer in name}


# ---- what is trained -------------------------------------------------------------------------------


def test_a_stage_trains_its_block_alone_and_leaves_nothing_behind(framework: Framework, tmp_path: Path) -> None:
    part = flash(framework, tmp_path, stage("head"))
    student = part.student_model
    framework.rough(student)
    weights, surface = weights_of(framework, student), framework.surface(student)
    assert part() is student
    assert moved(weights, weights_of(framework, student)) == {"head"}
    assert framework.surface(student) == surface
    assert not (tmp_path / "run").exists()


def test_stages_follow_in_order_and_freeze_what_came_before(framework: Framework, tmp_path: Path) -> None:
    seen: list[set[str]] = []
    part = flash(framework, tmp_path, stage("body"), stage("norm"), stage("head"), end_epoch=1)
    last = weights_of(framework, part.student_model)

    def look(event: EpochEnd) -> None:
        nonlocal last
        now = weights_of(framework, part.student_model)
        seen.append(moved(last, now))
        last = now

    part.on_epoch_end = look
    part()
    assert seen == [{"body"}, {"body"}, {"norm"}, {"norm"}, {"head"}, {"head"}]
    assert [record["block"] for record in part.history] == ["body", "norm", "head"]
    assert [record["steps"] for record in part.history] == [4, 4, 4]
    assert all(record["losses"].keys() == {f"MSE[{record['block']}]", "total"} for record in part.history)


def test_earlier_blocks_can_be_trained_again(framework: Framework, tmp_path: Path) -> None:
    part = flash(framework, tmp_path, stage("body"), stage("norm"), freeze_earlier=False)
    part()
    between = weights_of(framework, part.student_model)
    again = flash(framework, tmp_path, stage("body"))
    again()
    assert moved(weights_of(framework, again.student_model), between) == {"body", "norm"}


def test_without_a_name_all_is_trained(framework: Framework, tmp_path: Path) -> None:
    part = flash(framework, tmp_path, StageSettings("", {"layer_mappings": [["head"]]}, 3))
    before = weights_of(framework, part.student_model)
    part()
    assert moved(before, weights_of(framework, part.student_model)) == {"body", "norm", "head"}
    assert part.history[0]["trained"] == 6 * 8 + 8 + 16 + 8 * 4 + 4


def test_the_own_loss_counts_where_it_is_asked_for(framework: Framework, tmp_path: Path) -> None:
    part = flash(framework, tmp_path, stage("body", add_origin_loss=True), stage("body"))
    part()
    assert list(part.history[0]["losses"]) == ["CE", "MSE[body]", "total"]
    assert list(part.history[1]["losses"]) == ["MSE[body]", "total"]


# ---- for how long ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (3, 1), (7, 3), (None, 2)])
def test_a_stage_takes_exactly_its_steps(framework: Framework, tmp_path: Path, steps: int | None, epochs: int) -> None:
    ends: list[EpochEnd] = []
    part = flash(framework, tmp_path, stage("body", steps=steps), stage("norm", steps=2), end_epoch=2)
    part.on_epoch_end = ends.append
    part()
    count = 6 if steps is None else steps
    assert (part.history[0]["steps"], part.history[0]["epochs"]) == (count, epochs)
    assert [end.steps for end in ends][-2:] == [count, count + 2]
    assert [end.epoch for end in ends] == list(range(epochs + 1))


def test_epochs_go_on_from_stage_to_stage(framework: Framework, tmp_path: Path) -> None:
    epochs: list[int] = []

    class Loader(list[Any]):
        def set_epoch(self, epoch: int) -> None:
            epochs.append(epoch)

    loader = Loader(batches(framework))
    part = flash(framework, tmp_path, stage("body", steps=4), stage("norm", steps=3), train_dataloader=loader)
    part()
    assert epochs == [0, 1, 2]


def test_the_learning_rate_spans_the_stage(framework: Framework, tmp_path: Path) -> None:
    """After the first of two steps the rate is half of what it was, so the second moves the weights by half as much."""
    sgd = {"SGD": {"learning_rate": 0.1}}
    plain = flash(framework, tmp_path, stage("body", steps=1), scheduler="Linear", optimizer=sgd)
    falling = flash(framework, tmp_path, stage("body", steps=2), scheduler="Linear", optimizer=sgd)
    constant = flash(framework, tmp_path, stage("body", steps=2), optimizer=sgd)
    before = [weights_of(framework, part.student_model) for part in (plain, falling, constant)]
    assert same(before[0], before[1]) and same(before[0], before[2])
    for part in (plain, falling, constant):
        part()
    first, second, whole = (weights_of(framework, part.student_model) for part in (plain, falling, constant))
    name = next(name for name in first if "body" in name)
    np.testing.assert_allclose(second[name] - first[name], (whole[name] - first[name]) / 2, rtol=1e-4, atol=1e-7)


# ---- the same twice --------------------------------------------------------------------------------


def test_a_stage_is_the_same_twice_whoever_looks_at_it(framework: Framework, tmp_path: Path) -> None:
    quiet = flash(framework, tmp_path, stage("body", steps=5), stage("head", steps=4))
    watched = flash(framework, tmp_path, stage("body", steps=5), stage("head", steps=4))
    looks: list[float | None] = []
    watched.eval_func = lambda student: (
        framework.drawn()[0] + float(framework.logits(student, framework.inputs()).sum())
    )
    watched.on_epoch_end = lambda end: looks.append(end.score)
    quiet(), watched()
    one, other = (weights_of(framework, part.student_model) for part in (quiet, watched))
    assert same(one, other)
    assert len(looks) == 4 and None not in looks
    assert [record["losses"] for record in quiet.history] == [record["losses"] for record in watched.history]


def test_another_seed_is_another_run(framework: Framework, tmp_path: Path) -> None:
    parts = [flash(framework, tmp_path, stage("head", steps=5, layer="head"), seed=seed) for seed in (1, 1, 2)]
    seeds = [part.stages()[0].configuration(seed=part.seed).settings.tuning.random_seed for part in parts]
    assert seeds[0] == seeds[1] != seeds[2]


# ---- errors ----------------------------------------------------------------------------------------


def test_after_an_error_the_student_is_as_it_was(framework: Framework, tmp_path: Path) -> None:
    part = flash(framework, tmp_path, stage("body"))
    surface = framework.surface(part.student_model)

    def fail(end: EpochEnd) -> None:
        raise RuntimeError("pruned")

    part.on_epoch_end = fail
    with pytest.raises(RuntimeError, match=r"^pruned$"):
        part()
    assert framework.surface(part.student_model) == surface


def test_unknown_layers_are_told_before_anything_is_trained(framework: Framework, tmp_path: Path) -> None:
    kind = type(framework.classifier(1)).__name__
    wrong = {
        "block": (stage("bdy", layer="body"), f"student {kind} has no layer 'bdy'"),
        "pair": (stage("body", layer="hed"), f"student {kind} has no layer 'hed'"),
    }
    for last, message in wrong.values():
        part = flash(framework, tmp_path, stage("body"), last)
        before = weights_of(framework, part.student_model)
        with pytest.raises(ConfigError) as caught:
            part()
        problem = caught.value.problems[0]
        assert problem.message == message
        assert problem.suggestion.startswith("Did you mean '")
        assert same(before, weights_of(framework, part.student_model))


def test_what_is_missing_is_said(framework: Framework, tmp_path: Path) -> None:
    settings = FlashSettings((stage("body"),))
    part = FlashDistillation(conf(tmp_path, framework), settings=settings)
    for name, value, message in (
        ("student_model", framework.classifier(1), "FlashDistillation has no student: set student_model"),
        ("teacher_model", framework.classifier(2), "FlashDistillation has no teacher: set teacher_model"),
        ("train_dataloader", batches(framework), "FlashDistillation has nothing to train on: set train_dataloader"),
    ):
        with pytest.raises(UsageError) as caught:
            part()
        assert str(caught.value).startswith(message)
        setattr(part, name, value)
    assert part() is part.student_model


# ---- shared blocks ---------------------------------------------------------------------------------


def test_a_block_begins_with_what_an_earlier_candidates_block_learned(framework: Framework, tmp_path: Path) -> None:
    def candidate(seed: int, writer: str, *, width: int = 8) -> FlashDistillation:
        bank = BlockBank(tmp_path / "blocks", writer)
        student = framework.classifier(seed, width)
        return flash(
            framework, tmp_path, stage("body"), share_blocks=True, bank=bank, rate=0.0, student_model=student,
        )  # fmt: skip

    first, again, other, wide = candidate(1, "a"), candidate(3, "a"), candidate(4, "b"), candidate(5, "c", width=6)
    first()
    early = candidate(6, "d")
    early()
    assert not first.history[0]["shared"] and not early.history[0]["shared"]  # nothing is written before commit()
    assert first.bank is not None and first.bank.commit() == 1 and first.bank.commit() == 0
    assert early.bank is not None and early.bank.commit() == 0  # the first one stays
    for part in (again, other, wide):
        part()
    assert [part.history[0]["shared"] for part in (again, other, wide)] == [False, True, False]
    one, two = weights_of(framework, first.student_model), weights_of(framework, other.student_model)
    assert all(np.array_equal(one[name], two[name]) for name in one if "body" in name)
    assert moved(one, two) == {"head"}


def test_another_teacher_or_other_pairs_are_other_blocks(framework: Framework, tmp_path: Path) -> None:
    def candidate(writer: str, seed: int, **options: Any) -> FlashDistillation:
        teacher = framework.classifier(seed)
        given = {"share_blocks": True, "bank": BlockBank(tmp_path / "blocks", writer), "teacher_model": teacher}
        return flash(framework, tmp_path, stage("body", **options), **given)

    parts = [candidate("a", 2), candidate("b", 3), candidate("c", 2, loss_types=["L1"]), candidate("d", 2)]
    for part in parts:
        part()
        assert part.bank is not None
        part.bank.commit()
    assert [part.history[0]["shared"] for part in parts] == [False, False, False, True]


# ---- several parts ---------------------------------------------------------------------------------


def test_a_scheduler_runs_flash_and_regular_distillation(framework: Framework, tmp_path: Path) -> None:
    first = flash(framework, tmp_path, stage("body"), stage("norm"))
    student = first.student_model
    settings = FlashSettings((StageSettings("", {"layer_mappings": [["head"]], "add_origin_loss": True}, 5),))
    regular = RegularDistillation(conf(tmp_path, framework), settings=settings, teacher_model=first.teacher_model)
    regular.train_dataloader = first.train_dataloader
    scheduler = Scheduler()
    scheduler.combine(first, regular)
    assert scheduler() is student and scheduler.model is student
    assert [(one["kind"], one["steps"]) for one in scheduler.history] == [("flash", 4), ("flash", 4), ("regular", 5)]
