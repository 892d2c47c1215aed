"""What is said of outputs, in numbers that are made by hand or by another library."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdhooks.compared import LIMITS, Looks, SeenRows, evenly, look_after, look_before
from kdhooks.compared.pictures import picture, png
from kdhooks.compared.rows import divergence, tokens
from kdhooks.runs import RunRecord


def nothing(_: int) -> None:
    return None


def one_hot(classes: list[int], width: int = 3, sharp: float = 5.0) -> Any:
    return sharp * np.eye(width)[classes]


def test_confusion_agreement_and_accuracy() -> None:
    seen = SeenRows(6, 4)
    seen.add(one_hot([0, 1, 2, 2]), one_hot([0, 1, 1, 2]), np.array([0, 1, 1, -100]), nothing)
    assert seen.left == 2
    seen.add(one_hot([0, 0, 0]), one_hot([2, 0, 1]), np.array([2, 1, 0]), nothing)
    assert seen.count == 6 and seen.left == 0
    assert seen.confusion(["a", "b", "c"], 50) == {
        "classes": ["a", "b", "c"],
        "teacher_student": [[2, 0, 1], [0, 1, 0], [0, 1, 1]],
        "agreement": pytest.approx(4 / 6),
        "rows": 6,
        "accuracy": {"teacher": pytest.approx(2 / 5), "student": pytest.approx(4 / 5)},
    }


def test_rows_without_labels_have_no_accuracy() -> None:
    seen = SeenRows(10, 2)
    seen.add(one_hot([0]), one_hot([1]), None, nothing)
    found = seen.confusion(None, 50)
    assert found["accuracy"] is None and found["classes"] == ["0", "1", "2"]
    seen = SeenRows(10, 2)
    seen.add(one_hot([0]), one_hot([1]), np.array([[0.1, 0.9, 0.0]]), nothing)  # soft labels
    assert seen.confusion(None, 50)["accuracy"] is None


def test_the_rows_that_differ_most_come_first() -> None:
    generator = np.random.default_rng(0)
    teacher, student = generator.normal(size=(2, 40, 5))
    p, q = (np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in (teacher, student))
    expected = 0.5 * ((p * np.log(p / q)).sum(1) + (q * np.log(q / p)).sum(1))
    np.testing.assert_allclose(divergence(p, q), expected, rtol=1e-12)
    seen = SeenRows(100, 6)
    for first in range(0, 40, 16):  # logits in one batch, probabilities in another: told apart
        part = slice(first, first + 16)
        seen.add(teacher[part], q[part] if first else student[part], None, lambda row: np.zeros((1, 8, 8)))
    found = seen.disagreements(None)
    assert [one["row"] for one in found] == np.argsort(-expected)[:6].tolist()
    for one in found:
        row = one["row"]
        assert one["divergence"] == pytest.approx(expected[row])
        assert (one["teacher"], one["student"]) == (str(p[row].argmax()), str(q[row].argmax()))
        assert one["teacher_probability"] == pytest.approx(p[row].max())
        assert one["student_probability"] == pytest.approx(q[row].max())
        assert one["label"] is None and one["text"] is None and one["image"].startswith("data:image/png;base64,")


def test_of_many_classes_those_that_are_confused_most() -> None:
    generator = np.random.default_rng(1)
    teacher = generator.integers(200, size=900)
    student = np.where(teacher < 10, (teacher + 1) % 10, teacher)
    seen = SeenRows(900, 1)
    seen.add(one_hot(teacher, 200), one_hot(student, 200), None, nothing)
    found = seen.confusion(None, 11)
    counts = np.array(found["teacher_student"])
    assert found["classes"] == [*map(str, range(10)), "others"]
    assert counts.sum() == 900 and counts[10, 10] == (teacher >= 10).sum() and np.trace(counts[:10, :10]) == 0


@pytest.mark.parametrize(
    ("teacher", "student", "words"),
    [
        ((4, 7, 3), (4, 7, 3), r"outputs of shape \[4, 7, 3\] are not one row of classes a sample"),
        ((4, 1), (4, 1), r"outputs of shape \[4, 1\] are not one row of classes a sample"),
        ((4, 3), (4, 5), r"teacher and student have outputs of different shapes, \[4, 3\] and \[4, 5\]"),
    ],
)
def test_outputs_that_cannot_be_compared(teacher: Any, student: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SeenRows(10, 2).add(np.zeros(teacher), np.zeros(student), None, nothing)


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (28, 28, 1), (3, 32, 32), (32, 32, 3), (3, 224, 160)])
def test_a_picture_is_what_another_library_reads(shape: tuple[int, ...]) -> None:
    row = np.random.default_rng(2).normal(size=shape)
    uri = picture(row)
    assert uri is not None and len(uri) < 20_000
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        found = np.asarray(image)
    expected = row[:, :, None] if row.ndim == 2 else row if shape[2] in (1, 3) else np.moveaxis(row, 0, 2)
    expected = expected[:: -(-max(expected.shape[:2]) // 64), :: -(-max(expected.shape[:2]) // 64)]
    expected = np.rint((expected - expected.min()) / (expected.max() - expected.min()) * 255)
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("row", [np.zeros(9), np.zeros((2, 9, 9)), np.zeros((3, 2, 2)), np.full((1, 9, 9), np.nan)])
def test_what_is_no_image_has_no_picture(row: Any) -> None:
    assert picture(row) is None


def test_a_constant_image_is_black() -> None:
    uri = picture(np.full((4, 4), 7.0))
    assert uri is not None and base64.b64decode(uri.partition(",")[2]) == png(np.zeros((4, 4, 1), np.uint8))


def test_ids_of_tokens_are_text() -> None:
    assert tokens(np.array([5, 0, 9, 0, 0])) == "5 0 9" and tokens(np.array([0.5])) is None
    assert tokens(np.zeros(3, int)) == "" and len((tokens(np.arange(1, 999)) or "").split()) == 64


def test_layers_are_taken_evenly() -> None:
    assert evenly(range(100), 5) == [0, 25, 50, 74, 99] and evenly("ab", 5) == ["a", "b"]


class Failing:
    """A backend and its looks, neither of which works."""

    student, teachers = object(), {"teacher": object()}

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def bytes_of(self, model: Any) -> int:
        return 8


def test_whatever_fails_becomes_a_reason(tmp_path: Any) -> None:
    facts = {"name": "tiny", "framework": "pytorch", "device": "cpu", "configuration": "", "seed": None}
    record = RunRecord(tmp_path, **facts)  # type: ignore[arg-type]
    looks: Looks = Failing()  # type: ignore[assignment]
    look_before(lambda: looks, record)
    look_after(lambda: looks, looks, record, [], 1.0)
    content = record.content([], "finished")
    here = f"({__file__}, line "
    for section, lacks in (("similarity", "similarity"), ("confusion", "rows"), ("disagreements", "rows")):
        assert content["missing"][section].startswith(f"RuntimeError: no {lacks} {here}")
    assert content["missing"]["models.student"].count("RuntimeError: no measure") == 1
    assert content["models"]["student"] == {
        **{"class": "object", "parameters": None, "file_bytes": None, "latency_ms": None, "macs": None},
        "metrics": None,
    }
    assert LIMITS.rows == 2_000 and LIMITS.similar_rows == 512 and LIMITS.layers == 24 and LIMITS.repeats == 16


def test_looks_that_cannot_be_made(tmp_path: Any) -> None:
    facts = {"name": "tiny", "framework": "pytorch", "device": "cpu", "configuration": "", "seed": None}
    record = RunRecord(tmp_path, **facts)  # type: ignore[arg-type]

    def broken() -> Any:
        raise ValueError("first line\nsecond line")

    look_after(broken, None, record, [], 1.0)
    missing = record.content([], "finished")["missing"]
    assert {key: text.partition(" (")[0] for key, text in missing.items() if key != "ledger"} == dict.fromkeys(
        ("models", "similarity", "confusion", "disagreements"), "ValueError: first line"
    )
