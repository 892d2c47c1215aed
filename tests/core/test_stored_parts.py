"""What is framework-free in stored outputs: functions by what they do, rows and tokens of batches, names, choices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from kdhooks.cache import Store, maintenance
from kdhooks.config.mappings import LayerTap
from kdhooks.criterion import Step, Term
from kdhooks.errors import DataError, UsageError
from kdhooks.ledger.machine import processor
from kdhooks.loop.batches import Batch, split_batch
from kdhooks.schedules import parse_schedule
from kdhooks.speed import Choice
from kdhooks.stored.batches import keeps_padding, picked, rows_in, tokens_in
from kdhooks.stored.choices import KeptChoice
from kdhooks.stored.functions import class_digest, function_digest, plain
from kdhooks.stored.looks import Look, wants_of
from kdhooks.stored.spaces import layer_of

# ---- functions -----------------------------------------------------------------------------------------


def scaled(factor: float) -> Callable[[Any], Any]:
    return lambda value: value * factor


def defaulted(value: Any, factor: float = 2.0) -> Any:
    return value * factor


def named(value: Any, *, axis: int = 1) -> Any:
    return value.mean(axis)


class Scale:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, value: Any) -> Any:
        return value * self.factor

    def method(self, value: Any) -> Any:
        return value - self.factor


def itself(value: Any) -> Any:
    def again(depth: int) -> Any:
        return value if depth == 0 else again(depth - 1)

    return again


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (scaled(2.0), scaled(2.0), scaled(3.0)),
        (Scale(1.0), Scale(1.0), Scale(2.0)),
        (Scale(1.0).method, Scale(1.0).method, Scale(2.0).method),
        (partial(defaulted, factor=1.0), partial(defaulted, factor=1.0), partial(defaulted, factor=2.0)),
        (partial(np.clip, a_min=0), partial(np.clip, a_min=0), partial(np.clip, a_min=1)),
        (lambda value: {1, 2, 3} and value, lambda value: {1, 2, 3} and value, lambda value: {1, 2, 4} and value),
        (scaled(np.sum), scaled(np.sum), scaled(np.max)),  # type: ignore[arg-type]
        (np.sum, np.sum, np.max),
        (len, len, max),
        (itself(1), itself(1), itself(2)),
    ],
    ids=["closure", "object", "method", "partial", "ufunc", "constants", "function in it", "plain", "builtin", "again"],
)
def test_functions_are_known_by_what_they_do(one: Any, same: Any, other: Any) -> None:
    assert function_digest(one) == function_digest(same)
    assert function_digest(one) != function_digest(other)


def test_defaults_of_functions_count() -> None:
    before = function_digest(defaulted), function_digest(named)
    defaulted.__defaults__, named.__kwdefaults__ = (3.0,), {"axis": 2}
    after = function_digest(defaulted), function_digest(named)
    defaulted.__defaults__, named.__kwdefaults__ = (2.0,), {"axis": 1}
    assert before[0] != after[0] and before[1] != after[1]
    assert before == (function_digest(defaulted), function_digest(named))


def test_plain_values_as_text() -> None:
    assert plain({"a": [1, 2.5, None], "b": {"x", "y"}}) == "{'a':(1,2.5,None),'b':('x','y')}"
    assert plain([object()]) is None and plain({"a": object()}) is None


# ---- batches -------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    left: Any
    right: Any


def test_rows_are_picked_from_every_form() -> None:
    value = Pair({"x": np.arange(4), "one": np.zeros((1, 3))}, [np.arange(8).reshape(4, 2), "text", None, np.array(3)])
    some = picked(value, rows_in(value), lambda array: array[[3, 0]])
    assert type(some) is Pair
    assert some.left["x"].tolist() == [3, 0] and some.left["one"].shape == (1, 3)
    assert some.right[0].tolist() == [[6, 7], [0, 1]] and some.right[1:3] == ["text", None]


def test_a_batch_without_tensors_has_no_rows() -> None:
    with pytest.raises(DataError) as caught:
        rows_in({"text": "a", "number": np.array(3)})
    assert str(caught.value) == "the teacher's input holds no tensor, so the cache can't tell its rows"


def test_where_tokens_are() -> None:
    ids, mask = np.ones((2, 3), np.int64), np.array([[1, 1, 0], [1, 1, 1]])
    found = tokens_in({"input_ids": ids, "attention_mask": mask}, np.asarray)
    assert found is not None and found.padded and found.kept.sum() == 5
    whole = tokens_in({"input_ids": ids, "attention_mask": np.ones_like(mask)}, np.asarray)
    assert whole is not None and not whole.padded
    alone = tokens_in(ids, np.asarray)
    assert alone is not None and alone.mask is None and not alone.padded
    added = tokens_in({"input_ids": ids, "attention_mask": np.array([[0.0, -9.0, 0.0]] * 2)}, np.asarray)
    assert added is not None and added.mask is None
    assert tokens_in({"input_ids": ids, "decoder_input_ids": ids}, np.asarray) is None
    assert tokens_in(np.zeros((2, 3), np.float32), np.asarray) is None


def test_which_outputs_keep_their_padding() -> None:
    value = {"input_ids": np.ones((2, 3), np.int64), "attention_mask": np.array([[1, 1, 0], [1, 1, 1]])}
    tokens = tokens_in(value, np.asarray)
    assert keeps_padding(value, tokens, {"maps": ((4, 3, 3), False)})
    assert not keeps_padding(value, tokens, {"hidden": ((8,), True), "pooled": ((8,), False)})
    assert not keeps_padding(
        value["input_ids"], tokens_in(value["input_ids"], np.asarray), {"maps": ((4, 3, 3), False)}
    )
    assert keeps_padding({"decoder_input_ids": value["input_ids"]}, None, {"hidden": ((3, 8), False)})


def test_a_named_tuple_that_speaks_our_names_is_a_batch() -> None:
    class Told(NamedTuple):
        input: Any
        target: Any
        teacher_output: Any
        teacher_features: Any

    assert split_batch(Told("x", "y", "logits", {"layer": "map"})) == Batch(
        "x", "y", teacher_output="logits", teacher_features={"layer": "map"}
    )
    assert split_batch(Told("x", "y", "z", "w"), input_columns=(0,)).target == "w"


# ---- what criteria look at -----------------------------------------------------------------------------


class Criterion:
    student_label, student_weight = "CE", staticmethod(lambda step: 1.0)

    def __init__(self, *terms: Term, outputs: tuple[str, ...] = (), looks: Any = ()) -> None:
        self.terms, self.outputs, self._looks = terms, outputs, looks

    def teacher_looks(self, name: str) -> Any:
        return self._looks if name == "teacher" else []


def term(weight: Any = 1.0, layer: Any = None) -> Term:
    return Term("KL", parse_schedule(weight), lambda step: 0, layer)


LATER = {"linear": {"from": 0.0, "to": 1.0, "steps": 3}}


def test_the_union_of_all_that_can_ever_count() -> None:
    tap = LayerTap("stem", path="layer_mappings[0]")
    again = LayerTap("stem", path="layer_mappings[7]")
    layers = Criterion(term(LATER, lambda: None), looks=[(tap, "last"), (again, "last"), (again, "mean")])
    wants = wants_of([Criterion(term(0.0)), layers], "teacher")
    assert not wants.output and wants.names == ("stem", "stem (mean)")
    assert wants.layers == {("stem", False)}
    assert wants_of([layers], "another").looks == ()
    both = wants_of([Criterion(term(LATER), outputs=("scores",)), layers], "teacher")
    assert both.output and both.keys == ("scores",) and both.names[0] == "logits scores"


def test_two_outputs_of_one_teacher_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        wants_of([Criterion(term(), outputs=("a", "b")), Criterion(term())], "teacher")
    assert str(caught.value) == "the criteria look at different outputs of it (a, b and logits), and one is stored"


def test_names_of_layers_and_back() -> None:
    tap = LayerTap("body", lambda value: value[0], input=True)
    assert Look(tap).name == f"body:input[function {function_digest(tap.selector)}]"  # type: ignore[arg-type]
    for look in (Look(tap), Look(LayerTap("body", "0.maps", input=True), "mean")):
        assert layer_of(look.name) == "body:input"
    names = list(Look(LayerTap("", "1"), "all").named(["a", "b"]))
    assert names == ["(root)['1'] (all) #0", "(root)['1'] (all) #1"]
    assert {layer_of(name) for name in names} == {""}
    assert Look(LayerTap("", "1"), "all").found(dict(zip(names, "ab", strict=True))) == ["a", "b"]


def test_masks_are_narrowed_for_the_layer_that_lacks_positions() -> None:
    step = Step(0, None, None)
    step.held["teacher", "body"] = lambda mask: ("narrowed", mask)
    assert step.counted("mask", "teacher", "body") == ("narrowed", "mask")
    assert step.counted("mask", "teacher") == "mask" and step.counted(None, "other", "body") is None


# ---- choices -------------------------------------------------------------------------------------------


def test_a_choice_is_kept_and_the_first_one_stands(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        kept = KeptChoice(store, "base", {"teacher": "Net", "on": processor()})
        assert kept.read() is None
        kept.write(Choice("bf16"))
        KeptChoice(store, "base", {}).write(Choice("fp32"))
        assert KeptChoice(store, "base", {}).read() == Choice("bf16")
        assert KeptChoice(store, "another", {}).read() is None
        store.space("choice-newer").describe({"choice": {"precision": "fp8"}})
        assert KeptChoice(store, "newer", {}).read() is None
    assert maintenance.prune(tmp_path, keep=[]).spaces[0].record["choice"]["precision"] == "bf16"  # type: ignore[index]
    assert processor()


def test_choices_are_shown_beside_teachers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kdhooks.cli.command import main

    with Store(tmp_path) as store:
        KeptChoice(store, "base", {"teacher": "Net", "on": "cpu X"}).write(Choice("bf16", channels_last=True))
        store.space("choice-newer").describe({"choice": {"precision": "fp8"}, "about": {"teacher": "Net", "on": "Y"}})
    assert main(["cache", "info", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path}: 0 rows of 0 teachers, ")
    assert lines[1:] == [
        "",
        "Net on cpu X runs in bf16, channels last, as auto chose",
        "Net on Y runs in a way of a newer kdhooks, as auto chose",
    ]


def test_what_a_function_calls_counts() -> None:
    def made(half: str, factor: float) -> Any:
        inner: dict[str, Any] = {"__name__": "mine", "FACTOR": factor}
        exec(f"def half(value):\n    return value {half}\n", inner)
        exec("def forward(value):\n    return [half(part) * FACTOR for part in value]\n", inner)
        return inner["forward"]

    assert function_digest(made("/ 2", 1.0)) == function_digest(made("/ 2", 1.0))
    assert function_digest(made("/ 2", 1.0)) != function_digest(made("/ 3", 1.0))
    assert function_digest(made("/ 2", 1.0)) != function_digest(made("/ 2", 2.0))


def test_classes_by_their_methods_and_plain_values() -> None:
    def kind(**members: Any) -> type:
        return type("Layer", (), members)

    first = class_digest(kind(forward=lambda self, x: x, size=2))
    assert first == class_digest(kind(forward=lambda self, x: x, size=2))
    others = [
        kind(forward=lambda self, x: -x, size=2),
        kind(forward=lambda self, x: x, size=3),
        kind(forward=staticmethod(lambda x: x), size=2),
        kind(forward=property(lambda self: 1), size=2),
    ]
    assert first not in map(class_digest, others)
