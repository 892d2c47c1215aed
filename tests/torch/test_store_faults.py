"""What goes wrong with a store, a teacher or a configuration: said once while training goes on, or an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdhooks import Distillation, DistillationConf
from kdhooks.cache import maintenance
from kdhooks.errors import ConfigError, UsageError
from tests.torch.small_models import made
from tests.torch.stored_runs import IMAGES, LABELS, LOGITS, ROWS, Batches, Net, configured, run, student, teacher


def told(caplog: pytest.LogCaptureFixture, *parts: str) -> list[str]:
    messages = [record.getMessage() for record in caplog.records]
    return [message for message in messages if any(part in message for part in parts)]


def yaml(tmp_path: Path, text: str) -> DistillationConf:
    path = tmp_path / "kd.yaml"
    path.write_text(text)
    return DistillationConf(path)


# ---- the store -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("file", "it is a file, and a store is a folder"),
        ("foreign", "it holds something else, not teacher outputs of kdhooks; name another folder"),
        (
            "newer",
            "it is of format 99, of a newer kdhooks, and this one reads 1; update kdhooks, or name another folder",
        ),
    ],
)
def test_a_store_that_cannot_be_used_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, reason: str
) -> None:
    folder = tmp_path / "store"
    if kind == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        newer = {"kind": "kdhooks teacher outputs", "format": 99, "file": "rows-1.mdb"}
        (folder / "store.json").write_text(json.dumps(newer) if kind == "newer" else "{}")
    ran, live = run(configured(folder)), run(configured(None))
    assert torch.equal(ran.weights, live.weights)
    assert ran.forwards == live.forwards
    assert told(caplog, "the cache") == [f"the cache {folder} is not used: {reason}. Training goes on without it."]


def test_a_full_store_is_read_and_filled_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    conf = configured(tmp_path / "store", size_bound=1e-9)
    ran, live = run(conf, epochs=3), run(configured(None), epochs=3)
    torch.testing.assert_close(ran.weights, live.weights, rtol=1e-5, atol=1e-6)
    assert len(ran.forwards) > 3
    said = told(caplog, "stores nothing more")
    assert said == [
        f"the cache {tmp_path / 'store'} stores nothing more: it has reached its size bound of 1 bytes. What is "
        "stored is still read."
    ]


def test_a_store_for_reading_only(tmp_path: Path) -> None:
    run(configured(tmp_path / "store"), epochs=1, batches=some_rows)
    before = maintenance.info(tmp_path / "store").rows
    ran = run(configured(tmp_path / "store", read_only=True), epochs=1)
    assert sum(ran.forwards) == ROWS - before
    assert maintenance.info(tmp_path / "store").rows == before == 6


def some_rows(epoch: int) -> Batches:
    return [(IMAGES[:6], LABELS[:6], {})]


def test_a_space_whose_record_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import lmdb

    run(configured(tmp_path / "store"))
    with (
        lmdb.open(str(tmp_path / "store" / "rows-1.mdb"), subdir=False, max_dbs=9) as environment,
        environment.begin(write=True) as transaction,
        transaction.cursor() as cursor,
    ):
        assert cursor.set_range(b"space ")
        transaction.put(bytes(cursor.key()), bytes(cursor.value())[:-1] + b"?")
    ran, live = run(configured(tmp_path / "store")), run(configured(None))
    torch.testing.assert_close(ran.weights, live.weights, rtol=1e-5, atol=1e-6)
    (said,) = told(caplog, "are not stored")
    assert said.startswith("the outputs of the teacher Net are not stored: ") and said.endswith(
        "It runs at every step."
    )


def test_rows_are_written_and_the_store_is_closed_after_an_error(tmp_path: Path) -> None:
    def broken(epoch: int) -> Batches:
        yield from some_rows(epoch)
        raise RuntimeError("the loop")

    with pytest.raises(RuntimeError, match="the loop"):
        run(configured(tmp_path / "store"), batches=broken)
    assert maintenance.info(tmp_path / "store").rows == 6


def test_rows_are_written_when_an_epoch_ends(tmp_path: Path) -> None:
    found: list[int] = []

    def count(distiller: Distillation, epoch: int) -> None:
        if epoch:
            script = "import sys; from kdhooks.cache import maintenance; print(maintenance.info(sys.argv[1]).rows)"
            out = subprocess.run(
                [sys.executable, "-c", script, str(tmp_path / "store")], capture_output=True, text=True, check=True
            )
            found.append(int(out.stdout))

    run(configured(tmp_path / "store"), each=count)
    assert found == [ROWS]


def test_two_processes_fill_and_read_one_store(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.torch.stored_runs import *\n"
        "ran = run(configured(Path(sys.argv[1])), epochs=3)\n"
        "print(sum(ran.forwards), ran.weights.numpy().tobytes().hex())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate()[0].splitlines()[-1].split() for process in processes]
    assert answers[0][1] == answers[1][1]
    assert all(int(answer[0]) <= ROWS for answer in answers)
    assert run(configured(tmp_path / "store")).forwards == []


def test_processes_that_are_forked_while_it_is_open(tmp_path: Path) -> None:
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8, num_workers=2, multiprocessing_context="fork")

    def loaded(epoch: int) -> Batches:
        return ((value, target, {}) for value, target in loader)

    assert run(configured(tmp_path / "store"), epochs=3, batches=loaded).forwards == [8, 8, 8]
    assert run(configured(tmp_path / "store")).forwards == []


# ---- the teacher ---------------------------------------------------------------------------------------


def test_a_teacher_that_shares_modules_with_the_student_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def sharing() -> tuple[nn.Module, nn.Module]:
        learner, taught = student(), made(2, Net).eval()
        taught.head = learner.head
        return learner, taught

    ran, live = run(configured(tmp_path / "store"), models=sharing()), run(configured(None), models=sharing())
    assert torch.equal(ran.weights, live.weights)
    assert ran.forwards == live.forwards
    assert told(caplog, "are not stored") == [
        "the outputs of the teacher Net are not stored: it shares modules or weights with the student, which training "
        "changes. It runs at every step."
    ]


def test_criteria_that_do_not_say_what_they_look_at(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from kdhooks.criterion import Term

    class Mute:
        student_label, student_weight = "CE", staticmethod(lambda step: 1.0)
        terms = (Term("own", lambda step: 1.0, lambda step: step.input.sum() * 0, lambda: ("stem", False)),)

    distiller = Distillation(configured(tmp_path / "store"), student_model=student(), teacher_model=teacher())
    distiller.criterion = [
        Mute(),
        *Distillation(configured(None), student_model=student()).backend.criteria(
            DistillationConf(configured(None, LOGITS))
        ),
    ]
    with distiller:
        output = distiller.student_model(IMAGES[:4])
        distiller.on_after_compute_loss(IMAGES[:4], output, output.sum())
    assert told(caplog, "are not stored") == [
        "the outputs of the teacher Net are not stored: Mute looks at layers and has no method teacher_looks(name) "
        "that says at which. It runs at every step."
    ]


def test_an_input_without_rows_to_tell(tmp_path: Path) -> None:
    class Text(nn.Module):
        def forward(self, text: str) -> torch.Tensor:
            return torch.zeros(1, 3, requires_grad=True)

    distiller = Distillation(configured(tmp_path / "store"), student_model=student(), teacher_model=Text())
    with distiller, pytest.raises(UsageError) as caught:
        distiller.on_after_compute_loss("a text", torch.zeros(1, 3), torch.zeros(()))
    assert str(caught.value) == "distillation.cache: the teacher's input holds no tensor, so its rows have no keys"


# ---- the configuration -----------------------------------------------------------------------------------


def test_an_average_of_the_student_cannot_be_stored(tmp_path: Path) -> None:
    conf = yaml(tmp_path, "distillation:\n  teacher: {ema: 0.9}\n  cache: {path: store}\n")
    with pytest.raises(ConfigError) as caught:
        Distillation(conf, student_model=student()).on_train_begin()
    assert str(caught.value) == (
        f"{tmp_path / 'kd.yaml'}:3:3: distillation.cache: a teacher with ema changes at every step, so its outputs "
        "can't be stored\n  3 |   cache: {path: store}\n    |   ^^^^^\n  Leave cache or distillation.teacher.ema out."
    )


@pytest.mark.parametrize("package", ["lmdb", "xxhash"])
def test_a_missing_package_is_named_at_the_line(tmp_path: Path, package: str) -> None:
    (tmp_path / "kd.yaml").write_text("distillation:\n  cache: {path: store}\n")
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import torch; from kdhooks import Distillation\n"
        "models = [torch.nn.Linear(2, 2) for _ in range(2)]\n"
        "try: Distillation('kd.yaml', student_model=models[0], teacher_model=models[1]).on_train_begin()\n"
        "except Exception as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert out.stdout == (
        f"kd.yaml:2:3: distillation.cache: the cache needs the package {package!r}: pip install 'kdhooks[cache]'\n"
        "  2 |   cache: {path: store}\n    |   ^^^^^\n"
    )


def test_top_k_of_too_few_classes(tmp_path: Path) -> None:
    conf = yaml(tmp_path, f"distillation:\n  cache: {{path: {tmp_path / 'store'}, top_k: 9}}\n")
    with pytest.raises(ConfigError) as caught:
        run(conf)
    assert str(caught.value).splitlines()[0] == (
        f"{tmp_path / 'kd.yaml'}:2:{len(str(tmp_path)) + 32}: distillation.cache.top_k: is 9, and the teacher teacher "
        "has 7 classes"
    )


def test_top_k_of_logits_whose_classes_stand_in_front(tmp_path: Path) -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 7, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.layer(x)
            return output

    learner, taught = made(1, Maps), made(2, Maps)
    conf = configured(tmp_path / "store", top_k=2)
    with Distillation(conf, student_model=learner, teacher_model=taught) as distiller:
        output = learner(IMAGES)
        with pytest.raises(ConfigError) as caught:
            distiller.on_after_compute_loss(IMAGES, output, output.sum())
    assert str(caught.value) == (
        "<dict>: distillation.cache.top_k: keeps the largest of the last axis, and the classes of logits "
        "[24, 7, 6, 6] have another\n  Leave top_k out."
    )


def test_what_a_codec_does_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layers: dict[str, Any] = {"layer_mappings": [["stem"]], "loss_types": ["MSE"], "add_origin_loss": True}
    criterion = {**LOGITS, "IntermediateLayersKnowledgeDistillationLoss": layers}
    caplog.set_level("INFO", "kdhooks")
    run(configured(tmp_path / "exact", criterion), epochs=3)
    assert told(caplog, "the cache holds") == []
    run(configured(tmp_path / "lossy", criterion, dtype="int8", feature_dtype="bfloat16", top_k=6), epochs=3)
    (said,) = told(caplog, "the cache holds")
    assert said.startswith(
        "the cache holds outputs of the teacher as the 6 largest logits in int8, features in bfloat16: on the first 3 "
        "batches this changed KL by "
    )
    share, layer = (part.split(" by ")[1].removesuffix(" %") for part in said.split("changed ")[1].split(", "))
    assert 0 < float(share) < 20 and 0 < float(layer) < 1
    caplog.clear()
    run(configured(tmp_path / "lossy", criterion, dtype="int8", feature_dtype="bfloat16", top_k=6), epochs=3)
    assert told(caplog, "the cache holds") == []  # nothing is computed any more


def test_only_terms_that_look_at_the_teacher_are_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    criterion = {
        "KnowledgeDistillationLoss": LOGITS["KnowledgeDistillationLoss"],
        "SelfKnowledgeDistillationLoss": {
            "layer_mappings": [[["stem"], ["twice.layer"]]],
            "loss_types": ["L1"],
            "loss_weights": [0.5],
        },
        "IntermediateLayersKnowledgeDistillationLoss": {
            "layer_mappings": [["stem"]],
            "loss_types": ["MSE"],
            "teacher": "second",
        },
    }
    caplog.set_level("INFO", "kdhooks")

    def two() -> tuple[nn.Module, dict[str, nn.Module]]:
        return student(), {"first": teacher(2), "second": teacher(3)}

    conf = configured(tmp_path / "store", criterion, dtype="float16")
    cold, warm = run(conf, models=two()), run(conf, models=two())
    assert torch.equal(cold.weights, warm.weights)
    said = [message.split("changed ")[1] for message in told(caplog, "the cache holds")]
    assert [[part.split(" by ")[0] for part in one.split(", ")] for one in said] == [["KL"], ["KL", "MSE[stem]"]]


def test_measuring_leaves_no_trace_in_generators(tmp_path: Path) -> None:
    layers = {"layer_mappings": [["stem"]], "loss_types": ["MSE"], "add_origin_loss": True}
    criterion = {**LOGITS, "IntermediateLayersKnowledgeDistillationLoss": layers}
    drawn = []
    for number in range(2):
        torch.manual_seed(7)
        run(configured(tmp_path / "store" if number else None, criterion, dtype="float16"), epochs=1)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
