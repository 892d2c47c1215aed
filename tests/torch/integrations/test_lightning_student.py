"""Which module is the student: found, named, and refused where it is not clear."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import nn

from kdhooks import Distillation
from kdhooks.errors import UsageError
from kdhooks.integrations.lightning import DistillationCallback
from tests.torch.integrations.lightning_parts import Module, fitted, loader, logits, quiet, teacher, trainer
from tests.torch.small_models import Classifier, kd_conf, made

pytestmark = quiet


class Base(LightningModule):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class OneChild(Base):
    """A metric-like child without parameters is none that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.loss = made(1, Classifier), nn.CrossEntropyLoss()

    def forward(self, x: Any) -> Any:
        return self.network(x)


class Itself(Base):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = made(1, Classifier).body, made(1, Classifier).head

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x))


class Parts(Itself):
    forward = LightningModule.forward  # none of its own

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.head(self.body(batch[0])), batch[1])


class Late(Base):
    def configure_model(self) -> None:
        if not hasattr(self, "network"):
            self.network = made(1, Classifier)

    def forward(self, x: Any) -> Any:
        return self.network(x)


def error_of(module: Any, given: Any = None, distiller: Any = None) -> str:
    with pytest.raises(UsageError) as error:
        fitted(module, logits() if distiller is None else distiller, given=given)
    hooks = [one for part in module.modules() for one in (*part._forward_hooks, *part._forward_pre_hooks)]
    assert not hooks and "training_step" not in vars(module)
    return str(error.value)


@pytest.mark.parametrize(("kind", "name"), [(OneChild, "network"), (Itself, ""), (Module, "model"), (Late, "network")])
def test_the_student_is_found(kind: Any, name: str) -> None:
    distiller, module = logits(), kind()
    fitted(module, distiller)
    assert distiller.student_model is dict(module.named_modules())[name]
    assert distiller.step == 10


def test_all_ways_to_find_it_train_alike() -> None:
    found = []
    for module, given in [
        (OneChild(), {}),
        (Itself(), {}),
        (OneChild(), {"student": "network"}),
        (Late(), {"student": lambda one: one.network}),
    ]:
        distiller = logits()
        fitted(module, distiller, given=given)
        found.append([record["losses"] for record in distiller.history])
    assert all(one == found[0] for one in found)


def test_a_student_that_is_set_is_the_one() -> None:
    module = OneChild()
    distiller = Distillation(kd_conf(), student_model=module.network, teacher_model=teacher())
    fitted(module, distiller)
    assert distiller.student_model is module.network and distiller.step == 10


def test_another_fit_finds_the_student_of_another_module() -> None:
    distiller = logits()
    callback = DistillationCallback(distiller)
    for module in (OneChild(), Itself()):
        trainer(callback).fit(module, loader())
        assert distiller.student_model is (module.network if isinstance(module, OneChild) else module)
        assert distiller.step == 10 and len(distiller.history) == 2


def test_a_teacher_inside_of_the_module_is_not_taken_for_the_student() -> None:
    module = OneChild()
    module.guide = teacher()
    distiller = Distillation(kd_conf(), teacher_model=module.guide)
    fitted(module, distiller)
    assert distiller.student_model is module.network


def test_several_that_it_could_be_are_named() -> None:
    assert error_of(Parts()) == (
        "the student could be any of 'body', 'head' in Parts, which has no forward of its own: say which, as in "
        "DistillationCallback(distiller, student='body')"
    )


def test_no_student_at_all() -> None:
    class Empty(Base):
        def configure_optimizers(self) -> None:
            return None

    with pytest.warns(UserWarning, match="returned `None`"):
        assert error_of(Empty()) == "Empty has no module with parameters to train, so there is no student in it"


def test_a_second_trained_module_that_is_called_makes_it_unclear() -> None:
    class Headed(Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Linear(4, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.scale(self.model(batch[0])), batch[1])

    assert error_of(Headed()) == (
        "training_step calls the modules 'model' and 'scale', which are both trained, so it is not clear what the "
        "student is: say which, as in DistillationCallback(distiller, student='model'), or make one module of them"
    )
    distiller = logits()
    fitted(Headed(), distiller, given={"student": "model"})
    assert distiller.step == 10


def test_a_student_that_is_not_called() -> None:
    class Uncalled(Parts):
        forward = Itself.forward

    assert error_of(Uncalled()) == (
        "training_step returned a loss and did not call the student 'Uncalled' with gradients: name the module that it "
        "calls, as in DistillationCallback(distiller, student='backbone')"
    )


class Twice(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        with torch.no_grad():
            self.model(x)  # no gradients, so it counts for nothing
        first = self.model(x) if batch_idx else 0.0
        return F.cross_entropy(self.model(-x) + first, y)


def test_a_student_that_is_called_twice() -> None:
    assert error_of(Twice()) == (
        "training_step called the student 'model' 2 times before its loss was known, and the teacher follows one "
        "forward. Put both inputs into one batch, run what needs no gradients under torch.no_grad(), or follow the "
        "last one with DistillationCallback(distiller, several_forwards=True)"
    )
    distiller, inputs = logits(), []
    distiller.teacher_model.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    module = Twice()
    fitted(module, distiller, given={"several_forwards": True})
    assert distiller.step == 10
    assert torch.equal(inputs[1], -loader().dataset[8:16][0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"student": "netwerk"},
            "OneChild has no module 'netwerk' that could be the student. Did you mean 'network'?",
        ),
        (
            {"student": lambda module: nn.Linear(1, 1)},
            "student=<lambda> must return a module that stands in OneChild, and it returned a Linear from elsewhere",
        ),
        (
            {"student": lambda module: "network"},
            "student=<lambda> must return a module that stands in OneChild, and it returned 'network'",
        ),
    ],
)
def test_names_of_no_module_are_refused(given: Any, message: str) -> None:
    assert error_of(OneChild(), given).startswith(message)


def test_a_student_of_another_module_is_refused() -> None:
    distiller = Distillation(kd_conf(), student_model=made(1, Classifier), teacher_model=teacher())
    assert error_of(OneChild(), None, distiller) == (
        "distiller.student_model is a Classifier that is no module of OneChild, so the trainer would not train it: "
        "leave it unset, or set it to the very module that the LightningModule holds"
    )


def test_two_students_are_refused() -> None:
    module = Itself()
    distiller = Distillation(kd_conf(), student_model=module.body, teacher_model=teacher())
    assert error_of(module, {"student": "head"}, distiller) == (
        "student='head' is the Linear of Itself, and distiller.student_model is another Sequential: set one of the two"
    )


@pytest.mark.parametrize(
    ("args", "given", "message"),
    [
        (("kd.yaml",), {}, "DistillationCallback takes a kdhooks.Distillation, not a str"),
        (
            (Distillation(),),
            {"student": nn.Linear(1, 1)},
            "student is the name of a module in the LightningModule, as in student='backbone', or a function from the "
            "LightningModule to it, not a Linear; a module itself is set as distiller.student_model",
        ),
        ((Distillation(),), {"arguments": "labels"}, "arguments is a function of a batch, not a str"),
        ((Distillation(),), {"divided_by": 0}, "divided_by must be a number above 0, not 0"),
    ],
)
def test_arguments_of_the_callback_are_checked_when_it_is_made(args: Any, given: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        DistillationCallback(*args, **given)
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["lightning", "pytorch_lightning"])
def test_without_the_package_the_message_says_what_to_install(name: str) -> None:
    code = (
        f"import sys\nsys.modules[{name!r}] = None\nfrom kdhooks.errors import MissingPackageError\n"
        f"try:\n    import kdhooks.integrations.{name}\nexcept MissingPackageError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    module = f"kdhooks.integrations.{name}"
    assert told.stdout == f"{module} needs the package 'lightning': pip install 'kdhooks[lightning]'\n"
