"""What ``auto`` becomes: timed once, said, saved, the same on all ranks."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.errors import CheckpointError
from kdhooks.speed import Choice
from kdhooks.torch import teacher_choice
from kdhooks.torch.teacher_choice import low_precision, some_rows
from tests.torch.small_models import Classifier, Counting, batches, kd_conf, made
from tests.torch.speed_models import Maps, given
from tests.torch.teacher_parts import attached
from tests.torch.test_ranks import free_port
from tests.torch.training_runs import process

AUTO: dict[str, Any] = {"precision": "auto", "channels_last": "auto"}


class Slow(nn.Module):
    """Maps that take longer in some of the ways to run them."""

    def __init__(self, slow: Any) -> None:
        super().__init__()
        self.conv, self.head, self.calls, self.slow = nn.Conv2d(3, 4, 1), nn.Linear(4, 4), 0, slow

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        low = torch.is_autocast_enabled("cpu")
        last = x.is_contiguous(memory_format=torch.channels_last)
        time.sleep(0.03 * self.slow(low, last))
        output: Tensor = self.head(self.conv(x).mean((2, 3)))
        return output


@pytest.fixture(autouse=True)
def computes_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_choice, "_cpu_computes_bf16", lambda: True)


@pytest.mark.parametrize(
    ("slow", "expected", "options"),
    [
        (lambda low, last: 3 - low - last, Choice("bf16", True), AUTO),
        (lambda low, last: 1 - low + last, Choice("bf16", False), AUTO),
        (lambda low, last: 1 + low - last, Choice("fp32", True), AUTO),
        (lambda low, last: low + last, Choice("fp32", False), AUTO),
        (lambda low, last: low + last, Choice("fp32", True), AUTO | {"channels_last": True}),
        (lambda low, last: 2 - low - last, Choice("bf16", False), AUTO | {"channels_last": False}),
        (lambda low, last: 2 - low - last, Choice(None, True), AUTO | {"precision": None}),
        (lambda low, last: low + last, Choice("bf16", False), AUTO | {"precision": "bf16"}),
    ],
)
def test_the_quickest_way_is_chosen_once(slow: Any, expected: Choice, options: Any) -> None:
    model, x = Slow(slow), given(Maps)
    with attached(model, **options) as teacher:
        assert teacher.choice is None
        assert teacher.settle(x) == teacher.choice == expected
        timed = model.calls
        assert 3 <= timed <= 12
        assert teacher.settle(x) == expected and model.calls == timed
        output = teacher(x)
        calls = model.calls
        teacher(x)
        assert model.calls == calls + 1
        assert output.dtype == (torch.bfloat16 if expected.precision == "bf16" else torch.float32)


def test_the_choice_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "kdhooks"), attached(Slow(lambda low, last: 3 - low - last), **AUTO) as teacher:
        teacher.settle(given(Maps))
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.sub(r"\d+\.\d", "N", line) == (
        "the teacher Slow runs in bf16, channels last: N ms for the first batch "
        "(bf16: N ms; fp32, channels last: N ms; fp32: N ms)"
    )


def test_a_quarter_of_a_large_batch_is_timed(caplog: pytest.LogCaptureFixture) -> None:
    model, seen = Slow(lambda low, last: 0), set()
    model.head.register_forward_hook(lambda _m, args, _o: seen.add(len(args[0])))
    with caplog.at_level(logging.INFO, "kdhooks"), attached(model, **AUTO) as teacher:
        teacher.settle(torch.randn(67, 3, 6, 6))
    assert seen == {16}
    assert " ms for 16 rows of the first batch (" in caplog.records[0].getMessage()
    assert (
        some_rows(torch.randn(63, 2))[1] == some_rows((torch.randn(64, 2), torch.randn(1, 2)))[1] == "the first batch"
    )


def test_where_nothing_is_to_choose_nothing_is_timed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(teacher_choice, "_cpu_computes_bf16", lambda: False)
    model = Counting(made(1, Classifier))
    with caplog.at_level(logging.INFO, "kdhooks"), attached(model, **AUTO) as teacher:
        assert teacher.settle(given(Classifier)) == Choice("fp32")
    assert model.calls == 0
    assert [record.getMessage() for record in caplog.records] == [
        "the teacher Counting runs in fp32: there is nothing else to choose from here"
    ]


def test_weights_in_a_low_precision_stay_in_it() -> None:
    with attached(made(1, Classifier).to(torch.float16), **AUTO) as teacher:
        assert teacher.settle(given(Classifier)) == Choice("fp16")


def test_a_candidate_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    class Picky(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("not in bf16")
            return super().forward(x)

    with caplog.at_level(logging.DEBUG, "kdhooks"), attached(made(1, Picky), **AUTO) as teacher:
        assert teacher.settle(given(Classifier)) == Choice("fp32")
    assert caplog.records[0].getMessage() == "the teacher Picky can't run in bf16: not in bf16"


def test_a_teacher_that_fails_in_all_ways_raises_its_own_error() -> None:
    with attached(made(1, Classifier), **AUTO) as teacher, pytest.raises(RuntimeError, match="shapes cannot be"):
        teacher(torch.randn(2, 5))


@pytest.mark.parametrize(
    ("device", "flags", "expected"),
    [
        ("cpu", True, "bf16"),
        ("cpu", False, None),
        ("cuda", True, "bf16"),
        ("cuda", False, "fp16"),
        ("meta", True, None),
    ],
)
def test_low_precision_is_what_the_device_computes_in(
    device: str, flags: bool, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_choice, "_cpu_computes_bf16", lambda: flags)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: flags)
    assert low_precision(torch.device(device)) == expected


def test_what_the_configuration_sets_is_not_overruled() -> None:
    for options, expected in [
        (AUTO, Choice("bf16", True)),
        ({"precision": "fp32", "channels_last": "auto"}, Choice("fp32", True)),
        ({"precision": "auto"}, Choice("bf16")),
        ({}, Choice()),
    ]:
        with attached(made(1, Maps), **options) as teacher:
            teacher.adopt(Choice("bf16", channels_last=True, compile=True))
            assert teacher.choice == teacher.settle(given(Maps)) == expected


# ---- runs ------------------------------------------------------------------------------------------


def auto_run(teacher: nn.Module, weights: list[Any] | None = None) -> Distillation:
    conf = kd_conf(weights)
    conf["distillation"]["teacher"] = {"precision": "auto"}
    return Distillation(conf, student_model=made(1, Classifier), teacher_model=teacher)


def steps(distiller: Distillation, count: int = 2) -> None:
    for x, y in batches(count):
        output = distiller.student_model(x)
        distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y)).backward()


class Undecided(Counting):
    """Takes longer without autocast."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0 if torch.is_autocast_enabled("cpu") else 0.02)
        return super().forward(*args, **kwargs)


def test_a_resumed_run_does_not_choose_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with auto_run(Undecided(made(2, Classifier))) as distiller:
        assert distiller.state_dict()["choices"] == {}
        steps(distiller)
        torch.save(distiller.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    chosen = Choice("bf16").to_dict()
    assert state["choices"] == {"teacher": chosen}

    model = Undecided(made(2, Classifier))
    again = auto_run(model)
    again.load_state_dict(state)
    with caplog.at_level(logging.INFO, "kdhooks"), again:
        assert again.state_dict()["choices"] == {"teacher": chosen}
        steps(again)
    assert model.calls == 2 + 2  # two steps, and twice a look at the difference
    assert not any("ms for the first batch" in record.getMessage() for record in caplog.records)

    del state["choices"]  # of an older release
    older = auto_run(Undecided(made(2, Classifier)))
    older.load_state_dict(state)
    with older:
        steps(older)
        assert older.state_dict()["choices"] == {"teacher": chosen}

    state["choices"] = {"teacher": {"precision": "int8"}}
    with pytest.raises(CheckpointError) as caught, older:
        older.load_state_dict(state)
    assert str(caught.value) == "a saved choice of how a teacher runs can't be read: {'precision': 'int8'}"


def test_a_run_without_auto_saves_no_choice() -> None:
    distiller = Distillation(kd_conf(), student_model=made(1, Classifier), teacher_model=made(2, Classifier))
    with distiller:
        steps(distiller)
        assert distiller.state_dict()["choices"] == {}


def test_with_weights_of_0_nothing_is_timed() -> None:
    model = Counting(made(2, Classifier))
    with auto_run(model, [1.0, 0.0]) as distiller:
        steps(distiller)
    assert model.calls == 0


# ---- ranks -----------------------------------------------------------------------------------------


def one_of_two(folder: Path, rank: int, port: int, fails: bool) -> None:
    """Rank 0 is quicker in bf16, rank 1 in fp32."""
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    teacher_choice._cpu_computes_bf16 = lambda: True
    model = Slow((lambda low, last: 1 - low) if rank == 0 else (lambda low, last: low))
    with attached(model, **AUTO) as teacher:
        if fails and rank == 0:
            teacher._received = lambda value: 1 / 0  # type: ignore[method-assign, assignment]
            with pytest.raises(ZeroDivisionError):
                teacher.settle(given(Maps))
        else:
            teacher.settle(given(Maps))
        (folder / f"rank{rank}.txt").write_text(f"{teacher.choice and teacher.choice.precision} {model.calls > 0}")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("fails", "expected"), [(False, ["bf16 True", "bf16 False"]), (True, ["None False", "None False"])]
)
def test_two_ranks_agree_and_only_one_times(fails: bool, expected: list[str], tmp_path: Path) -> None:
    port = free_port()
    both = [process(one_of_two, tmp_path, rank, port, fails) for rank in range(2)]
    for started in both:
        started.start()
    for started in both:
        started.join(60)
    assert [started.exitcode for started in both] == [0, 0]
    assert [(tmp_path / f"rank{rank}.txt").read_text() for rank in range(2)] == expected
