"""A teacher that we compile: its values, its layers, its early end, and that nothing of it stays."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.errors import ModelError
from tests.torch.hidden_models import Net
from tests.torch.small_models import Classifier, batches, kd_conf, made
from tests.torch.speed_models import Maps, given
from tests.torch.teacher_parts import attached
from tests.torch.test_teacher_taps import Deep, Operators


@pytest.fixture(autouse=True)
def nothing_stays_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> Operators:
    """Our compiled functions count the operators of their graphs and run them as they are."""
    counting = Operators()
    compile_with(counting, monkeypatch)
    return counting


def compile_with(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compile: Any = torch.compile
    monkeypatch.setattr(torch, "compile", lambda one, **options: compile(one, **({"backend": backend} | options)))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own, as its compiler is loaded
def test_a_compiled_teacher_in_low_precision() -> None:
    """With the real compiler, once."""
    model, twin, x = made(1, Maps), made(1, Maps).eval(), given(Maps)
    with attached(model, precision="bf16", channels_last=True, compile=True) as teacher:
        outputs = [teacher(x), teacher(x)]
        assert teacher._way is not None and teacher._way.copies is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = twin(x)
    for output in outputs:
        assert not output.requires_grad and not output.is_inference() and output.dtype == torch.bfloat16
        torch.testing.assert_close(output, expected, rtol=0.05, atol=0.02)
    before = vars(made(1, Maps))
    assert vars(model).keys() == before.keys() and "_compiled_call_impl" not in vars(model)
    pickle.dumps(model)
    copy.deepcopy(model)


def test_its_code_is_compiled_once_and_is_its_own(operators: Operators) -> None:
    x = given(Classifier)
    model, other = made(1, Classifier), made(2, Classifier)
    for _ in range(3):
        with attached(model, compile=True) as one, attached(other, compile=True) as two:
            for _ in range(3):
                assert torch.equal(one(x), made(1, Classifier).eval()(x))
                assert torch.equal(two(x), made(2, Classifier).eval()(x))
    assert len(operators.counts) == 6  # two teachers in three runs


def run(student: nn.Module, model: nn.Module, *, compile: bool) -> list[float]:
    conf = kd_conf()
    conf["distillation"]["teacher"] = {"compile": compile}
    conf["distillation"]["train"]["criterion"] = {
        "IntermediateLayersKnowledgeDistillationLoss": {
            "layer_mappings": [["first", "layers.4"]],
            "loss_weights": [1.0],
        }
    }
    losses = []
    with Distillation(conf, student_model=student, teacher_model=model) as distiller:
        for x, y in batches(3):
            output = student(x)
            distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y)).backward()
            losses.append(distiller.losses["MSE[first]"])
    return losses


def test_its_layers_are_captured_and_nothing_behind_the_deepest_is_computed(operators: Operators) -> None:
    model = made(2, Deep)
    found = run(made(1, Net), model, compile=True)
    assert found == pytest.approx(run(made(1, Net), made(2, Deep), compile=False), rel=1e-6)
    assert len(operators.counts) == 1 and operators.counts[0] == pytest.approx(15, abs=6)  # 5 of 12 layers, no head
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    again = torch.compile(model, backend="eager")
    with torch.no_grad():
        assert torch.equal(again(batches()[0][0]), made(2, Deep)(batches()[0][0]))


def test_layers_that_are_tapped_later_are_captured_too(operators: Operators) -> None:
    model, twin, x = made(1, Classifier), made(1, Classifier).eval(), given(Classifier)
    with attached(model, compile=True) as teacher:
        teacher(x)
        teacher.tap().attach([("body.0", False)])
        output = teacher(x)
        assert teacher.taps is not None
        assert torch.equal(teacher.taps.slots["body.0", False].read()[0], twin.body[0](x))
        teacher.taps.attach([("body.2", False)])
        teacher(x)
        assert torch.equal(teacher.taps.slots["body.2", False].read()[0], twin.body[:3](x))
    assert torch.equal(output, twin(x))


def test_weights_that_change_are_used(operators: Operators) -> None:
    model, other, x = made(1, Classifier), made(2, Classifier).eval(), given(Classifier)
    with attached(model, compile=True, precision="bf16") as teacher:
        teacher(x)
        model.load_state_dict(other.state_dict())
        output = teacher(x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(output, other(x))
    assert len(operators.counts) == 1


def test_a_teacher_that_its_user_compiled_is_not_compiled_twice(operators: Operators) -> None:
    model = torch.compile(made(1, Classifier), backend="eager")
    with attached(model, compile=True) as teacher:  # type: ignore[arg-type]
        assert torch.equal(teacher(given(Classifier)), made(1, Classifier).eval()(given(Classifier)))
    assert operators.counts == []


def test_a_teacher_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, example: Any) -> Any:
        raise RuntimeError("no compiler here")

    compile_with(broken, monkeypatch)
    model = made(1, Classifier)
    with attached(model, compile=True) as teacher, pytest.raises(ModelError) as caught:
        teacher(given(Classifier))
    assert str(caught.value) == (
        "the teacher Classifier can't be compiled: backend='broken' raised:. "
        "Write compile: false in distillation.teacher"
    )


def test_an_error_of_the_teachers_own_goes_through(operators: Operators) -> None:
    class Failing(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("of its own")

    with attached(made(1, Failing), compile=True) as teacher, pytest.raises(ValueError, match="of its own"):
        teacher(given(Classifier))
