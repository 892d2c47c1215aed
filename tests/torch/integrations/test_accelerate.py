"""`Distilled` in scripts with an `Accelerator`, in one process."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, on_main_process
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.errors import UsageError
from kdhooks.integrations.accelerate import Distilled
from tests.torch.hidden_models import Net
from tests.torch.integrations.accelerated_script import (
    Dropping,
    accelerator,
    distillation,
    error_of,
    own_accelerator,
    script,
)
from tests.torch.small_models import kd_conf, made, same_weights

__all__ = ["own_accelerator"]


class Forbidden(nn.Module):
    """A teacher that must not be asked."""

    def forward(self, *args: Any) -> Any:
        raise AssertionError("the teacher ran")


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_with_zero_weights_the_script_does_bit_for_bit_what_it_did(precision: Any) -> None:
    expected, _, alone = script(accelerator(mixed_precision=precision))
    own = accelerator(mixed_precision=precision)
    found, _, optimizer = script(own, lambda *_: Distilled(own, distillation(zero=True, teacher=Forbidden())))
    assert same_weights(found, expected)
    after = [group["lr"] for group in optimizer.param_groups]
    assert after == [group["lr"] for group in alone.param_groups]


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("automatic", [True, False])
def test_losses_and_weights_are_those_of_the_bare_hooks(automatic: bool, precision: Any) -> None:
    losses: list[dict[str, float]] = []
    own = accelerator(mixed_precision=precision)
    bare = distillation()

    def begin(model: Any, optimizer: Any) -> None:
        bare.student_model = model
        bare.on_train_begin(optimizer=optimizer)

    def hooked(x: Tensor, output: Tensor, loss: Tensor) -> Tensor:
        with own.autocast():
            total: Tensor = bare.on_after_compute_loss(x, output, loss)
        losses.append(bare.losses)
        return total

    expected, _, _ = script(own, begin, total=hooked)
    matchers = [parameter.detach().clone() for parameter in bare.parameters()]
    bare.on_train_end()

    again = accelerator(mixed_precision=precision)
    made_here: list[Distilled] = []
    found_losses = []
    options: Any = {}
    if not automatic:
        options["total"] = lambda x, output, loss: made_here[0].on_after_compute_loss(x, output, loss)
    found, _, _ = script(
        again,
        lambda *_: made_here.append(Distilled(again, distillation(), automatic=automatic)),
        after=lambda _: found_losses.append(made_here[0].losses),
        **options,
    )
    distilled = made_here[0]
    assert found_losses == losses and len(losses) == 20
    assert list(losses[0]) == ["CE", "KL", "MSE[first]", "MSE[head]", "total"]
    assert same_weights(found, expected)
    assert len(matchers) == 2 and all(map(torch.equal, matchers, distilled.parameters()))
    assert distilled.steps == 10
    distilled.end()
    assert [record["steps"] for record in distilled.distiller.history] == [10, 10]


def test_the_end_leaves_nothing_on_student_teacher_and_accelerator() -> None:
    own, teacher = accelerator(), made(2, lambda: Net(12))
    before = copy.deepcopy(teacher.state_dict())
    kept = set(vars(own))
    with_ours: list[Any] = []

    def start(model: nn.Module, optimizer: Any) -> None:
        with_ours.append(Distilled(own, distillation(teacher=teacher)))
        pickle.loads(pickle.dumps(copy.deepcopy(model)))(torch.zeros(2, 6)).sum().backward()  # a copy for an average
        assert own.unwrap_model(model).state_dict().keys() == made(1, Dropping).state_dict().keys()

    found, model, optimizer = script(own, start)
    assert with_ours[0]._forwards == []  # the copy's forward was not taken for the student's
    own.end_training()
    assert set(vars(own)) == kept and own.backward.__func__ is Accelerator.backward  # type: ignore[attr-defined]
    assert not own._save_model_state_pre_hook and not own._load_model_state_pre_hook
    for one in (*model.modules(), *teacher.modules()):
        assert not (one._forward_hooks or one._forward_pre_hooks or one._backward_hooks)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
    assert teacher.training and all(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    pickle.loads(pickle.dumps(found))


def test_an_error_in_the_block_takes_everything_off_too() -> None:
    own, distiller = accelerator(), distillation()
    with pytest.raises(ZeroDivisionError):

        def start(model: nn.Module, optimizer: Any) -> None:
            with Distilled(own, distiller):
                F.cross_entropy(model(torch.zeros(2, 6)), torch.tensor([0, 1])).backward()
                raise ZeroDivisionError

        script(own, start)
    assert "backward" not in vars(own)
    with pytest.raises(UsageError, match=r"^call on_train_begin\(\) before on_epoch_end\(\)$"):
        distiller.on_epoch_end()


class Kept(GeneralTracker):  # type: ignore[misc]
    name, requires_logging_directory = "kept", False

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int | None, dict[str, Any]]] = []

    @property
    def tracker(self) -> Any:
        return self.lines

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.lines.append((step, values))


@pytest.mark.parametrize(("every", "steps"), [(3, [3, 6, 9]), (0, []), (50, [])])
def test_components_go_to_the_trackers_every_so_many_optimizer_steps(every: int, steps: list[int]) -> None:
    tracker = Kept()
    own = accelerator(log_with=tracker)
    own.init_trackers("run")
    held: list[Any] = []
    seen: dict[int, dict[str, float]] = {}

    def after(number: int) -> None:
        if number % 2 == 0:
            seen[number // 2] = held[0].losses

    script(own, lambda *_: held.append(Distilled(own, distillation(), log_every=every)), after=after)
    assert [step for step, _ in tracker.lines] == steps
    for step, values in tracker.lines:
        assert step is not None
        assert values == {f"distillation/{name}": value for name, value in seen[step].items()}


def test_a_step_reads_nothing_unless_it_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> Any:
        raise AssertionError("losses were read")

    tracker = Kept()
    own = accelerator(log_with=tracker)
    own.init_trackers("run")
    monkeypatch.setattr(Distillation, "losses", property(refuse))
    script(own, lambda *_: Distilled(own, distillation(), log_every=11))
    again = accelerator(log_with=tracker)
    again.init_trackers("run")
    with pytest.raises(AssertionError, match="losses were read"):
        script(again, lambda *_: Distilled(again, distillation(), log_every=10))


class Tokens(nn.Module):
    """Token numbers to logits; the labels are among its arguments, as with Hugging Face."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, width), nn.Linear(width, 5)

    def forward(self, input_ids: Tensor, *, labels: Tensor | None = None) -> Any:
        logits = self.head(self.embedding(input_ids))
        loss = None if labels is None else F.cross_entropy(logits.transpose(1, 2), labels)
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("call", [{"input_ids": True}, {}])
def test_labels_among_the_arguments_tell_padding(call: Any, shift: bool) -> None:
    tokens = torch.randint(11, (3, 4), generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[-100, 1, 2, -100], [0, 4, -100, -100], [3, 3, 2, 1]])
    student, teacher = made(1, Tokens), made(2, lambda: Tokens(16))
    if shift:
        student.loss_type = "ForCausalLM"
    own = accelerator()
    model = own.prepare(student)
    with Distilled(own, kd_conf([0.0, 1.0]), teacher_model=teacher) as distilled:
        output = model(input_ids=tokens, labels=labels) if call else model(tokens, labels=labels)
        own.backward(output["loss"])
        found = distilled.losses
    own = accelerator()
    model = own.prepare(made(1, Tokens))
    moved = torch.cat([labels[:, 1:], torch.full((3, 1), -100)], 1) if shift else labels
    with Distilled(own, kd_conf([0.0, 1.0]), teacher_model=teacher) as distilled:
        output = model(tokens)
        total = distilled.on_after_compute_loss(tokens, output, output["logits"].sum() * 0, target=moved)
        own.backward(total)
        assert distilled.losses["KL"] == found["KL"]


def test_the_teachers_of_a_run_are_several() -> None:
    own = accelerator()
    model = own.prepare(made(1, Net))
    teachers = {"one": made(2, Net), "other": made(3, lambda: Net(12))}
    conf = kd_conf([0.5, 0.5], teacher_weights={"one": 0.25, "other": 0.75})
    with Distilled(own, conf, teacher_model=teachers) as distilled:
        own.backward(F.cross_entropy(model(torch.zeros(2, 6)), torch.tensor([0, 1])))
    assert list(distilled.losses) == ["CE", "KL", "total"]


# ---- errors ----------------------------------------------------------------------------------------


def test_errors_say_what_to_do() -> None:
    own, student, teacher = accelerator(), made(1, Net), made(2, Net)
    assert error_of(lambda: Distilled(own, student_model=student, teacher_model=teacher)) == (
        "the student Net is not prepared: call accelerator.prepare(student, optimizer, ...) before Distilled(...)"
    )
    assert error_of(lambda: Distilled(own, teacher_model=teacher)) == (
        "no student is set, and no model is prepared: give Distilled(accelerator, ..., student_model=...) what "
        "accelerator.prepare(...) returned"
    )
    both = own.prepare(student, teacher)
    assert error_of(lambda: Distilled(own)) == (
        "no student is set, and 2 models are prepared: give Distilled(accelerator, ..., student_model=...) what "
        "accelerator.prepare(...) returned"
    )
    assert error_of(lambda: Distilled(own, student_model=both[0], teacher_model=both[1])) == (
        "the teacher is prepared, so it would be wrapped for gradients and saved with the student: leave it out of "
        "accelerator.prepare(...); Distilled moves it to the device"
    )
    assert error_of(lambda: Distilled(own, student_model=student, log_every=-1)) == (
        "log_every is a number of steps, 0 or more, and not -1"
    )
    assert "backward" not in vars(own)
    with Distilled(own, student_model=student, teacher_model=made(3, Net)) as distilled:
        assert error_of(lambda: Distilled(own, student_model=student)) == (
            "this accelerator distils already: end() the first Distilled before another one is made, or let one "
            "Distillation sum the criteria"
        )
        first, second = student(torch.zeros(2, 6)), student(torch.ones(2, 6))
        assert error_of(lambda: own.backward((first + second).sum())) == (
            "the student ran 2 times before accelerator.backward, and its loss could be of any of them: call "
            "loss = distilled.on_after_compute_loss(input, output, loss) before it, or run those that are not "
            "trained under torch.no_grad()"
        )
        with torch.no_grad():
            student(torch.zeros(2, 6))
        own.backward(student(torch.zeros(2, 6)).sum())
        assert distilled.losses["total"] != distilled.losses["CE"]


def test_a_run_in_which_nothing_was_distilled_says_so(caplog: pytest.LogCaptureFixture) -> None:
    own = accelerator()
    model = own.prepare(made(1, Net))
    with caplog.at_level(logging.WARNING, "kdhooks"), Distilled(own, kd_conf(), teacher_model=made(2, Net)):
        model(torch.zeros(2, 6)).sum().backward()
    assert caplog.messages == [
        "nothing was distilled: accelerator.backward(loss) was not called, or not after a forward of the prepared "
        "student"
    ]
