"""A teacher under inference mode: ordinary tensors come out, and none other stays behind."""

from __future__ import annotations

import logging
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.torch.small_models import Classifier, made
from tests.torch.speed_models import given
from tests.torch.teacher_parts import attached


class Seeing(Classifier):
    """Remembers whether it ran in inference mode."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Any:
        self.modes.append(torch.is_inference_mode_enabled())
        return self.said(super().forward(x))

    def said(self, logits: Tensor) -> Any:
        return logits


Pair = namedtuple("Pair", ["logits", "rest"])


@dataclass
class Output:
    logits: Tensor
    rest: Any = None


class Strange:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


FORMS: list[Any] = [
    lambda logits: logits,
    lambda logits: (logits, [logits, None, 3]),
    lambda logits: {"logits": logits, "text": "as it is"},
    lambda logits: OrderedDict(logits=logits),
    lambda logits: Pair(logits, (logits,)),
    lambda logits: Output(logits, {"more": logits}),
]


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Output):
        return tensors([value.logits, value.rest])
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in items for tensor in tensors(item)]


@pytest.mark.parametrize("form", FORMS)
def test_outputs_are_ordinary_tensors_of_the_same_kind(form: Any) -> None:
    model, x = made(1, Seeing), given(Classifier)
    model.said = form
    expected = form(made(1, Classifier).eval()(x))
    with attached(model, precision="fp32") as teacher:
        for _ in range(3):
            output = teacher(x)
            assert type(output) is type(expected)
            found = tensors(output)
            assert len(found) == len(tensors(expected)) > 0
            for one, other in zip(found, tensors(expected), strict=True):
                assert torch.equal(one, other)
                assert not one.is_inference() and not one.requires_grad
            weight = torch.ones((), requires_grad=True)
            (weight * found[0]).pow(2).sum().backward()  # saved by a graph
    assert model.modes == [False, True, True]


def test_an_output_of_an_unknown_kind_is_not_made_again() -> None:
    model = made(1, Seeing)
    model.said = Strange
    with attached(model, precision="fp32") as teacher:
        outputs = [teacher(given(Classifier)) for _ in range(3)]
    assert model.modes == [False] * 3
    assert all(type(output) is Strange and not output.logits.is_inference() for output in outputs)


@pytest.mark.parametrize("where", ["buffer", "attribute", "dict", "list"])
def test_a_table_that_is_made_late_ends_it(where: str, caplog: pytest.LogCaptureFixture) -> None:
    class Late(Seeing):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()
            self.inner.register_buffer("table", None, persistent=False)
            self.inner.tables = {}
            self.inner.rows = []

        def forward(self, x: Tensor) -> Any:
            if len(self.modes) == 1:
                made = torch.arange(4.0) + 1
                if where in ("buffer", "attribute"):
                    setattr(self.inner, "table" if where == "buffer" else "kept", made)
                elif where == "dict":
                    self.inner.tables[4] = made
                else:
                    self.inner.rows.append(made)
            return super().forward(x)

    model = made(1, Late)
    with caplog.at_level(logging.DEBUG, "kdhooks"), attached(model, precision="fp32") as teacher:
        for _ in range(3):
            assert not teacher(given(Classifier)).is_inference()
        inner: Any = model.inner
        table = {"buffer": lambda: inner.table, "attribute": lambda: inner.kept, "dict": lambda: inner.tables[4]}
        found = table.get(where, lambda: inner.rows[0])()
        assert not found.is_inference() and torch.equal(found, torch.arange(4.0) + 1)
    assert model.modes == [False, True, False]
    name = {"buffer": "table", "attribute": "kept", "dict": "4", "list": "0"}[where]
    assert [record.getMessage() for record in caplog.records] == [
        f"the teacher Late keeps tensors that it makes, in inner.{name}: it runs under no_grad"
    ]


def test_what_is_made_later_still_is_ordinary_after_the_run() -> None:
    class Later(Seeing):
        def forward(self, x: Tensor) -> Any:
            if len(self.modes) == 3:
                self.kept = x * 2
            return super().forward(x)

    model = made(1, Later)
    with attached(model, precision="fp32") as teacher:
        for _ in range(5):
            teacher(given(Classifier))
    assert model.modes == [False] + [True] * 4
    assert not model.kept.is_inference()


def test_tapped_shared_compiled_and_inference_teachers_run_under_no_grad() -> None:
    x = given(Classifier)
    model = made(1, Seeing)
    with attached(model, precision="fp32") as teacher:
        teacher.tap().attach([("head", False)])
        assert not any(teacher(x).is_inference() for _ in range(3))
    assert model.modes == [False] * 3

    model = made(1, Seeing)
    with attached(model, model.head) as teacher:
        assert not any(teacher(x).is_inference() for _ in range(3))
    assert model.modes == [False] * 3

    with torch.inference_mode():
        model = made(1, Seeing)
    weights = [*model.parameters(), *model.buffers()]
    with attached(model, precision="fp32") as teacher:
        assert not any(teacher(x).requires_grad for _ in range(3))
    assert model.modes == [False] * 3
    assert all(one is other for one, other in zip(weights, [*model.parameters(), *model.buffers()], strict=True))


@pytest.mark.parametrize("when", ["before", "later"])
def test_a_hook_of_somebody_elses_ends_it(when: str) -> None:
    model, x, taken = made(1, Seeing), given(Classifier), []

    def take(module: nn.Module, args: Any, output: Tensor) -> None:
        taken.append(output)

    if when == "before":
        model.head.register_forward_hook(take)
    with attached(model, precision="fp32") as teacher:
        teacher(x)
        teacher(x)
        if when == "later":
            model.head.register_forward_hook(take)
            teacher.on_epoch_begin(1)
        teacher(x)
    assert model.modes == [False, when == "later", False]
    assert taken and not any(one.is_inference() for one in taken)


def test_where_nothing_is_asked_for_it_is_not_used() -> None:
    model = made(1, Seeing)
    with attached(model) as teacher:
        for _ in range(3):
            teacher(given(Classifier))
    assert model.modes == [False] * 3
