"""The record of runs in PyTorch: what it holds, that a run is what it would be without it, and that it survives."""

from __future__ import annotations

import os
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import Distillation
from kdhooks.runs import read_run
from tests.torch.training_runs import (
    NOTHING,
    SGD,
    batches,
    distillation,
    equal,
    long_run,
    noisy_loader,
    process,
    rows,
    run_to_be_killed,
    settings,
    student_model,
    teacher_model,
)


def eval_loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(4)
    return DataLoader(TensorDataset(*rows(40, seed=4)), batch_size=16, shuffle=True, generator=generator)


def test_a_run_leaves_all_of_its_record(tmp_path: Path) -> None:
    distiller = distillation(settings(tmp_path, optimizer=SGD, end_epoch=3), batches(120, size=2))
    distiller.eval_dataloader = eval_loader()
    with distiller.profile() as ledger:
        distiller.fit()
    found = read_run(tmp_path)
    assert (found["status"], found["framework"], found["device"], found["seed"]) == ("finished", "pytorch", "cpu", 5)
    assert found["history"] == [dict(record) for record in distiller.history]
    assert found["versions"]["torch"] == torch.__version__ and found["machine"]["memory_gib"] > 0
    assert found["steps"]["step"] == [49, 99, 119, 149, 199, 239, 249, 299, 349, 359]
    assert set(found["steps"]["losses"]) == {"CE", "KL", "total"} and found["steps"]["learning_rate"] == [0.1] * 10
    assert "end_epoch: 3" in found["configuration"] and found["missing"] == {}
    assert found["ledger"]["steps"] == ledger.to_dict()["steps"] == 359
    best = next(record for record in reversed(distiller.history) if record["best"])
    student, teacher = found["models"]["student"], found["models"]["teacher"]
    assert student["metrics"] == best["metrics"] and student["parameters"] == 212 and student["macs"] == 160
    assert teacher["class"] == "Sequential" and teacher["parameters"] == 356 and teacher["macs"] == 320
    for entry in (student, teacher):
        times = entry["latency_ms"]
        assert 0 < times["low"] <= times["median"] <= times["high"] and entry["file_bytes"] > 4 * entry["parameters"]
    confusion = found["confusion"]
    assert confusion["rows"] == 40 == int(np.sum(confusion["teacher_student"]))
    assert confusion["accuracy"]["student"] == pytest.approx(best["metrics"]["top1"])
    assert confusion["accuracy"]["teacher"] == pytest.approx(teacher["metrics"]["top1"])
    similarity = found["similarity"]
    assert similarity["student_layers"] == ["0", "1", "2", "4"] and similarity["teacher_layers"] == ["0", "1", "2"]
    assert np.shape(similarity["before"]) == np.shape(similarity["after"]) == (4, 3)
    assert similarity["before"] != similarity["after"]
    assert len(found["disagreements"]) == 12 and found["disagreements"][0]["image"] is None
    assert found["resume"] == {}


def test_similarity_is_what_suggest_computes(tmp_path: Path) -> None:
    from kdhooks.torch.similarity import layer_similarity

    distiller = distillation(settings(tmp_path, end_epoch=1), batches())
    x, y = rows(60, seed=4)
    distiller.eval_dataloader = [(x, y)]
    before = layer_similarity(student_model(), teacher_model(), [x]).values
    distiller.fit()
    after = layer_similarity(distiller.student_model, distiller.teacher_model, [x]).values
    found = read_run(tmp_path)["similarity"]
    np.testing.assert_allclose(found["before"], before, atol=1e-9)
    np.testing.assert_allclose(found["after"], after, atol=1e-9)


def fitted(folder: Path, *, report: bool, weight: bool = False) -> tuple[Distillation, dict[str, Any]]:
    """A run with dropout, noise of the global generator and a shuffled evaluation; what it left in the process."""
    conf = settings(folder, criterion=NOTHING if not weight else None, optimizer=SGD, end_epoch=3)
    conf["tuning"] |= {"report": report, "random_seed": None}
    torch.manual_seed(7)
    distiller = distillation(conf, noisy_loader())
    distiller.eval_dataloader = loader = eval_loader()
    distiller.teacher_model[1] = nn.BatchNorm1d(32)
    torch.manual_seed(8)
    distiller.fit()
    left = {
        "random": torch.rand(3),
        "loader": loader.generator.get_state(),
        "statistics": distiller.teacher_model[1].running_mean,
    }
    return distiller, left


@pytest.mark.parametrize("weight", [False, True])
def test_a_run_is_what_it_would_be_without_the_comparison(tmp_path: Path, weight: bool) -> None:
    compared, left = fitted(tmp_path / "with", report=True, weight=weight)
    plain, others = fitted(tmp_path / "without", report=False, weight=weight)
    assert equal(compared.student_model, plain.student_model)
    torch.testing.assert_close(left, others, rtol=0, atol=0)
    one, other = (distiller.optimizer.state_dict()["state"] for distiller in (compared, plain))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    with_it, without = (read_run(tmp_path / name) for name in ("with", "without"))
    assert with_it["steps"] == without["steps"] and with_it["similarity"] is not None
    for distiller in (compared, plain):
        for model in (distiller.student_model, distiller.teacher_model):
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for one, other in zip(compared.student_model.parameters(), plain.student_model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)
    assert without["missing"] == {
        "ledger": "no step was profiled: kdhooks fit --profile, or distiller.profile(), times them",
        **dict.fromkeys(("models", "similarity", "confusion", "disagreements"), "tuning.report is false"),
    }


def test_zero_weights_are_a_plain_loop_with_all_of_it(tmp_path: Path) -> None:
    compared, _ = fitted(tmp_path, report=True)
    torch.manual_seed(7)
    student = student_model()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    teacher_model()
    loader = noisy_loader()
    torch.manual_seed(8)
    best, score = None, -1.0
    for _ in range(3):
        student.train()
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(student(x), y).backward()
            optimizer.step()
        student.eval()
        x, y = rows(40, seed=4)
        with torch.no_grad():
            found = (student(x).argmax(1) == y).float().mean().item()
        if found > score:
            score, best = found, {name: value.clone() for name, value in student.state_dict().items()}
    assert best is not None
    student.load_state_dict(best)
    assert equal(compared.student_model, student)


def test_the_record_of_a_killed_run_is_readable_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    reader, writer = get_context("forkserver").Pipe(duplex=False)
    running = process(run_to_be_killed, folder, "named", writer)
    running.start()
    for _ in range(14):  # behind the checkpoint after step 12
        assert reader.poll(120) and reader.recv_bytes() == b"step"
    os.kill(running.pid, signal.SIGKILL)
    running.join()
    killed = read_run(folder)
    assert killed["status"] == "running" and killed["history"] == [] and killed["ended"] is None
    assert killed["missing"]["confusion"] == "the run has not ended" and "similarity" in killed["resume"]
    long_run(folder, "named").fit()
    long_run(tmp_path / "whole", "named", resume=False).fit()
    resumed, whole = read_run(folder), read_run(tmp_path / "whole")
    assert resumed["status"] == "finished" and resumed["began"] == killed["began"]
    assert resumed["seconds"] > killed["seconds"]
    assert resumed["steps"] == whole["steps"] and len(resumed["steps"]["step"]) > 10
    for key in ("similarity", "confusion", "disagreements"):
        assert resumed[key] == whole[key]
    assert [one["losses"] for one in resumed["history"]] == [one["losses"] for one in whole["history"]]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "stopped"), (RuntimeError, "failed")])
def test_a_run_that_ends_by_an_error_says_so(tmp_path: Path, error: type[BaseException], status: str) -> None:
    def ends(distiller: Distillation) -> None:
        if distiller.epoch == 1:
            raise error

    distiller = distillation(settings(tmp_path), batches())
    distiller.register_hook("on_epoch_begin", ends)
    with pytest.raises(error):
        distiller.fit()
    found = read_run(tmp_path)
    assert found["status"] == status and len(found["history"]) == 1 and found["ended"] is not None
    assert found["missing"]["models"] == f"the run was {status}"


def loop(distiller: Distillation, epochs: int = 2, reads: int | None = None) -> None:
    optimizer = torch.optim.SGD(distiller.student_model.parameters(), lr=0.1)
    for _ in range(epochs):
        for number, (x, y) in enumerate(batches()):
            output = distiller.student_model(x)
            total = distiller.on_after_compute_loss(x, output, nn.functional.cross_entropy(output, y))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            if reads is not None and number % reads == 0:
                assert distiller.losses
        distiller.on_epoch_end()


def test_a_bare_loop_leaves_a_record_where_it_names_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Distillation(student_model=student_model(), teacher_model=teacher_model()) as distiller:
        loop(distiller)
    assert list(tmp_path.iterdir()) == []
    conf = {"tuning": {"workspace": {"path": "run"}}}
    with Distillation(conf, student_model=student_model(), teacher_model=teacher_model()) as distiller:
        loop(distiller, reads=4)
    found = read_run("run")
    assert found["status"] == "finished" and found["steps"]["step"] == [0, 4, 5, 6, 10, 11]
    assert found["missing"]["models"] == "there are no evaluation data"
    assert sorted(one.name for one in Path("run").iterdir()) == ["curves.png", "run.json"]


def test_a_bare_loop_compares_where_there_are_evaluation_data(tmp_path: Path) -> None:
    conf = {"tuning": {"workspace": {"path": str(tmp_path)}}}
    distiller = Distillation(conf, student_model=student_model(), teacher_model=teacher_model())
    distiller.eval_dataloader = batches(3, seed=4)
    with distiller:
        loop(distiller)
        state = distiller.state_dict()
    found = read_run(tmp_path)
    assert found["confusion"]["rows"] == 24 and found["models"]["student"]["metrics"].keys() == {"top1"}
    assert distiller.student_model.training
    again = Distillation(conf, student_model=student_model(), teacher_model=teacher_model())
    again.load_state_dict(state)
    with pytest.raises(ZeroDivisionError), again:
        loop(again, epochs=1)
        raise ZeroDivisionError
    resumed = read_run(tmp_path)
    assert resumed["status"] == "failed" and resumed["began"] == found["began"]
    assert resumed["steps"]["step"] == [5, 11, 17] and len(resumed["history"]) == 3


def test_a_candidate_of_a_search_leaves_nothing(tmp_path: Path) -> None:
    distiller = distillation(settings(tmp_path), batches())
    distiller.writes_files = False
    distiller.fit()
    assert list(tmp_path.iterdir()) == []


class Images(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.head(self.table(input_ids).mean(1))}


def test_images_are_shown_and_tokens_are_numbers(tmp_path: Path) -> None:
    x, ids, y = torch.rand(8, 3, 8, 8), torch.arange(1, 17).reshape(8, 2), torch.arange(8) % 3
    for name, kind, batch in (
        ("images", Images, (x, y)),
        ("tokens", Tokens, {"input_ids": ids, "labels": y}),
    ):
        conf = settings(tmp_path / name, end_epoch=1)
        distiller = Distillation(conf, student_model=kind(), teacher_model=kind())
        distiller.train_dataloader = distiller.eval_dataloader = [batch]
        distiller.fit()
    images, texts = (read_run(tmp_path / name)["disagreements"] for name in ("images", "tokens"))
    assert all(one["image"].startswith("data:image/png;base64,") and one["text"] is None for one in images)
    assert {one["row"]: one["text"] for one in texts} == {row: f"{2 * row + 1} {2 * row + 2}" for row in range(8)}
    assert all(one["image"] is None and one["label"] == str(one["row"] % 3) for one in texts)


def test_what_cannot_be_compared_has_a_reason(tmp_path: Path) -> None:
    distiller = distillation(settings(tmp_path, end_epoch=1), batches())
    distiller.fit()
    no_data = "there are no evaluation data: set eval_dataloader, or name a dataset in evaluation.accuracy.dataloader"
    missing = read_run(tmp_path)["missing"]
    assert missing.pop("ledger")
    sections = ("similarity", "confusion", "disagreements", "models.student", "models.teacher")
    assert missing == dict.fromkeys(sections, no_data)
    assert read_run(tmp_path)["models"]["teacher"]["parameters"] == 356
    distiller.teacher_model = [teacher_model(), teacher_model()]
    distiller.eval_dataloader = batches(2, seed=4)
    distiller.fit()
    found = read_run(tmp_path)
    assert found["missing"]["similarity"] == "layers are compared with those of one teacher, and the run has 2"
    assert len(found["models"]) == 3 and found["confusion"]["teacher"] == list(found["models"])[1]
    distiller.eval_dataloader = iter(batches(2, seed=4))
    distiller.teacher_model = teacher_model()
    distiller.eval_func = lambda model: 0.5
    distiller.fit()
    found = read_run(tmp_path)
    assert found["missing"]["confusion"] == "the evaluation data are an iterator, which can be gone through once"
    assert len(list(distiller.eval_dataloader)) == 2


def test_a_student_whose_layers_cannot_be_looked_at_is_trained_all_the_same(tmp_path: Path) -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = student_model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training and len(x) < 8:
                raise RuntimeError("too few rows")
            found: torch.Tensor = self.inner(x)
            return found

    distiller = Distillation(settings(tmp_path), student_model=Fails(), teacher_model=teacher_model())
    distiller.train_dataloader, distiller.eval_dataloader = batches(), batches(2, seed=4)
    distiller.fit()
    found = read_run(tmp_path)
    assert found["status"] == "finished" and found["confusion"]["rows"] == 16
    assert found["missing"]["similarity"].startswith("RuntimeError: too few rows (")
    assert "it failed on inputs [1, 6]: RuntimeError: too few rows" in found["missing"]["models.student"]
    assert found["models"]["student"]["latency_ms"] is None and found["models"]["teacher"]["latency_ms"] is not None


def test_a_long_run_resumed_from_another_folder_takes_its_record_along(tmp_path: Path) -> None:
    first = long_run(tmp_path / "one", "named", resume=False)
    first.conf["distillation.train.end_epoch"] = 1
    first.fit()
    again = long_run(tmp_path / "two", "named", resume=False)
    again.conf["tuning.workspace.resume"] = str(tmp_path / "one")
    again.conf["distillation.train.end_epoch"] = 3
    again.fit()
    one, two = read_run(tmp_path / "one"), read_run(tmp_path / "two")
    assert two["steps"]["step"][: len(one["steps"]["step"])] == one["steps"]["step"]
    assert two["began"] == one["began"] and len(two["history"]) == 3
    assert two["similarity"]["before"] == one["similarity"]["before"]
