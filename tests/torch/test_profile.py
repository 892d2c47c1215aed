"""A profile of a loop in PyTorch: it changes nothing and waits for nothing, and divides what the loop tells."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdhooks import Distillation
from kdhooks.cli import main
from kdhooks.errors import UsageError
from kdhooks.ledger import OFF
from tests.torch.laws import ZERO, pair, reference
from tests.torch.small_models import Classifier, batches, kd_conf, made, same_weights, train_plainly
from tests.torch.test_no_sync import NoLooking, guarded
from tests.torch.training_runs import NOTHING, SGD, distillation, equal, settings, student_model
from tests.torch.training_runs import batches as loader


def test_zero_weight_identity_holds_while_profiling() -> None:
    student, expected = made(1, Classifier), reference(steps=50)
    torch.manual_seed(5)
    distiller = Distillation(ZERO, student_model=student, teacher_model=made(2, Classifier))
    with distiller, distiller.profile() as ledger:
        train_plainly(student, steps=50, distiller=distiller)
    assert same_weights(student, expected)
    assert ledger.to_dict()["steps"] == 49
    assert "teacher" not in ledger.to_dict()["parts"]


def test_a_profile_changes_no_number() -> None:
    losses = []
    for profiled in (False, True):
        student, teacher = pair()
        torch.manual_seed(5)
        with Distillation(kd_conf(), student_model=student, teacher_model=teacher) as distiller:
            if profiled:
                with distiller.profile():
                    losses.append(train_plainly(student, steps=20, distiller=distiller))
            else:
                losses.append(train_plainly(student, steps=20, distiller=distiller))
    assert all(torch.equal(one, other) for one, other in zip(*losses, strict=True))


def test_no_step_waits_while_profiling() -> None:
    model = made(9, Classifier)
    distiller = Distillation(kd_conf(), student_model=model, teacher_model=made(1, Classifier))
    x, y = batches()[0]
    with distiller, distiller.profile() as ledger:
        for step in range(70):
            output = guarded(model(x))
            loss = F.cross_entropy(output, y)
            with NoLooking():
                distiller.on_step_begin(step)
                distiller.on_after_compute_loss(guarded(x), output, loss, target=guarded(y))
                distiller.on_step_end()
    assert ledger.to_dict()["steps"] == 69


def test_a_bare_loop_is_divided_as_far_as_it_tells() -> None:
    student, teacher = pair()
    distiller = Distillation(kd_conf(), student_model=student, teacher_model=teacher)
    with distiller:
        train_plainly(student, steps=3, distiller=distiller)  # not profiled
        with distiller.profile() as ledger:
            train_plainly(student, steps=5, distiller=distiller)
        train_plainly(student, steps=3, distiller=distiller)
    found = ledger.to_dict()
    assert (found["steps"], found["counts"]) == (4, {"losses": 5, "rows": 40})
    assert list(found["parts"]) == ["student", "teacher", "losses", "ours"]
    assert found["device"] == "cpu"
    assert found["versions"]["torch"] == torch.__version__
    assert found["options"]["framework"] == "pytorch"
    assert found["options"]["teacher"]["precision"] is None
    assert found["step"]["sum"] == pytest.approx(sum(part["sum"] for part in found["parts"].values()))
    assert found["step"]["sum"] + found["first_step"]["seconds"] <= found["seconds"]
    assert found["floor"]["ratio"] > 1


def test_a_teachers_time_is_the_teachers() -> None:
    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 4)

        def forward(self, x: Any) -> Any:
            import time

            time.sleep(0.02)
            return self.head(x)

    student = made(1, Classifier)
    distiller = Distillation(kd_conf(), student_model=student, teacher_model=made(2, Slow))
    with distiller, distiller.profile() as ledger:
        train_plainly(student, steps=4, distiller=distiller)
    parts = ledger.to_dict()["parts"]
    assert parts["teacher"]["median"] >= 0.02
    assert parts["losses"]["q1"] < 0.02  # the teacher's time within is not the loss's


def test_a_profile_around_fit_divides_its_steps(tmp_path: Path) -> None:
    data = loader()
    distiller = distillation(settings(tmp_path, optimizer=SGD, end_epoch=3), data)
    with distiller.profile() as ledger:
        distiller.fit()
    found = ledger.to_dict()
    assert found["steps"] == 3 * len(data) - 1
    assert list(found["parts"]) == ["student", "forward", "backward", "data", "teacher", "losses", "ours"]
    assert found["outside_seconds"] > 0
    assert found["notes"] == ["the backward of the distillation's losses runs in the student's and counts as its part"]


def test_an_accumulated_step_of_fit_is_one(tmp_path: Path) -> None:
    data = loader()
    distiller = distillation(settings(tmp_path, optimizer=SGD, end_epoch=2, gradient_accumulation=2), data)
    with distiller.profile() as ledger:
        distiller.fit()
    assert ledger.to_dict()["steps"] == 2 * -(-len(data) // 2) - 1
    assert ledger.to_dict()["counts"]["losses"] == 2 * len(data)


def test_fit_with_weight_zero_is_the_same_while_profiling(tmp_path: Path) -> None:
    students = []
    for name, profiled in (("one", False), ("two", True)):
        distiller = distillation(settings(tmp_path / name, criterion=NOTHING, optimizer=SGD, end_epoch=2), loader())
        if profiled:
            with distiller.profile():
                students.append(distiller.fit())
        else:
            students.append(distiller.fit())
    assert students[0] is not students[1]
    assert equal(*students)
    assert not equal(students[0], student_model())


def test_a_profile_survives_a_run_that_begins_within_it() -> None:
    student, teacher = pair()
    distiller = Distillation(kd_conf(), student_model=student, teacher_model=teacher)
    with distiller.profile() as ledger:
        for _ in range(2):
            distiller.on_train_begin()
            train_plainly(student, steps=4, distiller=distiller)
            distiller.on_train_end()
    assert ledger.to_dict()["counts"]["losses"] == 8
    assert ledger.to_dict()["steps"] == 6  # neither the first one, nor the last one of a run that another one cut


def test_one_profile_at_a_time_and_nothing_is_left() -> None:
    student, teacher = pair()
    distiller = Distillation(kd_conf(), student_model=student, teacher_model=teacher)
    with distiller, distiller.profile() as ledger:
        assert distiller.ledger is ledger
        with pytest.raises(UsageError) as caught, distiller.profile():
            pass
        assert str(caught.value) == (
            "a profile is open already: its ledger times all steps until its `with` block ends"
        )
        assert distiller.ledger is ledger
    with pytest.raises(ZeroDivisionError), distiller.profile():
        raise ZeroDivisionError
    assert distiller.ledger is OFF
    with pytest.raises(UsageError), distiller.profile(steps=0):
        pass
    assert distiller.ledger is OFF


def test_rows_of_the_store_become_its_hit_rate_and_its_time_is_the_caches(tmp_path: Path) -> None:
    student, teacher = pair()
    conf = kd_conf()
    conf["distillation"]["cache"] = {"path": str(tmp_path / "store")}
    distiller = Distillation(conf, student_model=student, teacher_model=teacher)
    found = []
    with distiller:
        for _ in range(2):  # the same five batches
            with distiller.profile() as ledger:
                train_plainly(student, steps=5, distiller=distiller)
            found.append(ledger.to_dict())
    assert [one["hit_rate"] for one in found] == [0.0, 1.0]
    assert [(one["counts"]["hits"], one["counts"]["misses"]) for one in found] == [(0, 40), (40, 0)]
    assert all(one["parts"]["cache"]["median"] > 0 for one in found)
    assert found[1]["options"]["cache"]["dtype"] == "float32"
    assert "stored outputs: 100.0 % of 40 rows were there" in str(ledger)


# ---- the command line ------------------------------------------------------------------------------

MODELS = """
from torch import nn


def student():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def teacher():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""

CONF = """\
model: {name: tiny}
distillation:
  train:
    end_epoch: 1
    optimizer: {Adam: {learning_rate: 0.01}}
    criterion: {KnowledgeDistillationLoss: {temperature: 4.0, loss_types: [CE, KL], loss_weights: [0.5, 0.5]}}
    dataloader: {batch_size: 256, dataset: digits}
"""


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("profiled_models.py").write_text(MODELS)
    Path("kd.yaml").write_text(CONF)
    return ["fit", "kd.yaml", "--student", "profiled_models:student", "--teacher", "profiled_models:teacher"]


@pytest.mark.parametrize("named", [[], ["times.json"]])
def test_the_command_shows_the_ledger_and_writes_it(
    words: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--profile", *named]) == 0
    path = Path(named[0]) if named else Path(".kdhooks/tiny/ledger.json")
    found = json.loads(path.read_text())
    assert (found["format"], found["steps"], found["counts"]) == ("kdhooks.ledger", 5, {"losses": 6, "rows": 1347})
    out = capsys.readouterr().out
    assert re.search(r"\n\nledger of 5 steps after the first, 1,347 rows, [\d.]+ s, cpu\npart +median, ", out)
    assert out.endswith(f"\nledger: {path}\n")


def test_without_the_option_there_is_no_ledger(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert not Path(".kdhooks/tiny/ledger.json").exists()
    assert "ledger" not in capsys.readouterr().out


def test_a_ledger_that_can_not_be_written_is_found_before_the_run(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("here").mkdir()
    assert main([*words, "--profile", "here"]) == 2
    assert capsys.readouterr().err == ("kdhooks fit: --profile here is a folder: name a file, as in here/ledger.json\n")
    assert main([*words, "--profile", "kd.yaml"]) == 2
    assert capsys.readouterr().err == (
        "kdhooks fit: --profile kd.yaml would write over a configuration: write --profile after the other words\n"
    )
    assert Path("kd.yaml").read_text() == CONF
