"""What batches say besides the student's input, how the student is called, and compiled students."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdhooks import Distillation
from kdhooks.errors import UsageError
from tests.torch.hidden_models import Net
from tests.torch.integrations.lightning_parts import Module, fitted, layers, loader, logits, one, quiet, teacher
from tests.torch.small_models import Classifier, TokenClassifier, batches, kd_conf, made

pytestmark = quiet


class Tokens(Module):
    def __init__(self) -> None:
        super().__init__(made(1, TokenClassifier))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = (batch["tokens"], batch["labels"]) if isinstance(batch, dict) else batch
        return F.cross_entropy(self.model(x).flatten(0, 1), y.flatten())


def test_labels_and_masks_reach_the_losses_that_look_at_them() -> None:
    x = torch.randint(11, (3, 5))
    mask = torch.arange(5).expand(3, 5) >= 2
    ignored = x.where(mask, -100)
    given = {"arguments": lambda batch: {"target": batch[1], "mask": mask}}
    found = []
    for batch, options in [
        ((x, ignored), None),
        ({"tokens": x, "labels": ignored}, None),
        ({"tokens": x, "labels": x, "mask": mask}, None),
        ((x, x), given),
        ((x, x), None),
    ]:
        distiller = Distillation(kd_conf([0, 1]), teacher_model=made(2, lambda: TokenClassifier(16)))
        fitted(Tokens(), distiller, data=one(batch), given=options, epochs=1)
        found.append(distiller.losses["KL"])
    assert found[0] == found[1] == found[2] == found[3] != found[4]


def test_a_batch_that_nobody_described_says_nothing() -> None:
    class Triple(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.model(batch[0]), batch[2])

    x, y = batches()[0]
    found = []
    for module, batch in ((Triple(), (x, torch.zeros(8), y)), (Module(), (x, y))):
        distiller = logits()
        fitted(module, distiller, data=one(batch), epochs=1)
        found.append(distiller.losses)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda batch: batch[1],
            "arguments must return a mapping such as {'target': labels}, and it returned a Tensor",
        ),
        (
            lambda batch: {"targets": batch[1]},
            "arguments returned 'targets', which on_after_compute_loss does not take. Did you mean 'target'?",
        ),
    ],
)
def test_a_function_that_returns_something_else_is_refused(function: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        fitted(Module(), logits(), given={"arguments": function})
    assert str(error.value).startswith(message)


def test_a_target_domain_comes_through_the_same_function() -> None:
    from lightning.pytorch.utilities import CombinedLoader

    class Adapting(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch["source"]
            return F.cross_entropy(self.model(x), y)

    conf = kd_conf() | {"domain_adaptation": {"criterion": {"CORAL": {"layer": "body"}}}}
    distiller = Distillation(conf, teacher_model=teacher())
    data = CombinedLoader({"source": loader(), "target": loader(shuffle=True)}, "min_size")
    given = {"arguments": lambda batch: {"target": batch["source"][1], "target_input": batch["target"][0]}}
    fitted(Adapting(), distiller, data=data, given=given)
    assert sorted(distiller.history[0]["losses"]) == ["CE", "CORAL", "KL", "total"]
    assert distiller.history[0]["losses"]["CORAL"] > 0


def test_arguments_of_the_students_call_reach_the_teacher() -> None:
    class Scaled(Classifier):
        def forward(self, x: Any, scale: float = 1.0, *, shift: float = 0.0) -> Any:  # type: ignore[override]
            return super().forward(x) * scale + shift

    calls: list[Any] = []

    class Teacher(Scaled):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            calls.append((len(args), sorted(kwargs)))
            return super().forward(*args, **kwargs)

    class Calling(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            output = [
                lambda: self.model(x),
                lambda: self.model(x, 2.0),
                lambda: self.model(x=x, shift=1.0),
                lambda: self.model(x, shift=1.0),
            ][batch_idx]()
            return F.cross_entropy(output, y)

    distiller = Distillation(kd_conf(), teacher_model=made(2, lambda: Teacher(16)))
    fitted(Calling(made(1, Scaled)), distiller, limit_train_batches=4, epochs=1)
    assert calls == [(1, []), (2, []), (0, ["shift", "x"]), (0, ["shift", "x"])]


class Unlogged(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:  # what Lightning logs it can't compile
        return F.cross_entropy(self.model(batch[0]), batch[1])


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # of dynamo, at a graph's break
@pytest.mark.parametrize("make", [logits, layers])
def test_a_compiled_student_and_a_compiled_module_train_alike(make: Any) -> None:
    found = []
    for wrap in ("", "student", "module", "module"):
        student, distiller = made(1, Net), make()
        compiled = torch.compile(student, backend="eager") if wrap == "student" else student
        module = Unlogged(compiled)  # type: ignore[arg-type]
        fitted(torch.compile(module, backend="eager") if wrap == "module" else module, distiller)
        found.append([record["losses"] for record in distiller.history])
    assert all(one == found[0] for one in found)
