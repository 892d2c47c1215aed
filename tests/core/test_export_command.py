"""Export without a framework: formats, the comparison, how files come into their place, example inputs of a command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kdhooks.cli.exported import _of_shapes
from kdhooks.errors import DataError, ExportError, UsageError
from kdhooks.export.comparing import compared
from kdhooks.export.formats import FORMATS, check_framework, format_of
from kdhooks.export.placing import bytes_of, check_place, placed
from kdhooks.export.result import Exported

NAMES = {
    "a/student.onnx": "onnx",
    "student.PT2": "pt2",
    "student.safetensors": "safetensors",
    "student.weights.h5": "h5",
    "student.keras": "keras",
    "served": "savedmodel",
    "served.v2/": "savedmodel",
}


@pytest.mark.parametrize(("path", "name"), NAMES.items(), ids=NAMES.keys())
def test_a_name_says_the_format(path: str, name: str) -> None:
    assert format_of(path).name == name


MISTAKES = {
    ("s.onx", None): "s.onx: no format has files that end in '.onx'. Did you mean '.onnx'?",
    ("s.pt", None): "s.pt: no format has files that end in '.pt'. Did you mean '.pt2'?",
    ("s.zip", None): "s.zip: no format has files that end in '.zip'. Known are: .keras, .onnx, .pt2, .safetensors, "
    ".weights.h5; a name without a suffix is the folder of a SavedModel",
    ("s.x", "onxx"): "there is no format 'onxx'. Did you mean 'onnx'?",
    ("s.x", "keras"): "s.x: files of the format 'keras' end in .keras, else nobody reads them",
}


@pytest.mark.parametrize(("given", "text"), MISTAKES.items(), ids=[f"{one[0]}-{one[1]}" for one in MISTAKES])
def test_names_that_say_nothing(given: tuple[str, str | None], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        format_of(*given)
    assert str(caught.value) == text


def test_formats_of_the_other_framework() -> None:
    with pytest.raises(ExportError) as caught:
        check_framework(FORMATS["keras"], Path("s.keras"), "Net", "pytorch")
    assert str(caught.value) == (
        "s.keras: a Keras model can't be made of Net, which is a PyTorch model: write .safetensors, .pt2 or .onnx"
    )
    with pytest.raises(ExportError) as caught:
        check_framework(FORMATS["pt2"], Path("s.pt2"), "Net", "tensorflow")
    assert str(caught.value) == (
        "s.pt2: a program of torch.export can't be made of Net, which is a Keras model: write .safetensors, .onnx, "
        ".keras, a SavedModel folder or .weights.h5"
    )


def f(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


ELSEWHERE = "'a' is not finite, or no number, in other places than the model's"
COMPARED = {
    "the same": ({"a": f(1.0)}, {"a": f(1.0)}, 0.0, None),
    "within": ({"a": f(1.0, 0.0)}, {"a": f(1.0, 9e-6)}, 9e-6, None),
    "relative to the largest": ({"a": f(1000.0, 0.0)}, {"a": f(1000.0, 5e-3)}, 5e-3, None),
    "beyond": ({"a": f(1.0)}, {"a": f(1.5)}, 0.5, "'a' differs by 0.5, and 1e-05 is allowed"),
    "names": ({"a": f(1.0)}, {"b": f(1.0)}, np.nan, "it gives 'b', and the model 'a'"),
    "shape": ({"a": f(1.0)}, {"a": f(1.0, 1.0)}, np.nan, "'a' is of shape [2], and the model's [1]"),
    "dtype": ({"a": f(1.0)}, {"a": np.array([1])}, np.nan, "'a' is int64, and the model's float32"),
    "whole numbers": ({"a": np.array([1])}, {"a": np.array([3])}, 2.0, "'a' differs by 2, and 0 is allowed"),
    "flags": ({"a": np.array([True])}, {"a": np.array([False])}, 1.0, "'a' differs by 1, and 0 is allowed"),
    "the same NaN": ({"a": f(np.nan, np.inf)}, {"a": f(np.nan, np.inf)}, 0.0, None),
    "another NaN": ({"a": f(np.nan, 1)}, {"a": f(1, np.nan)}, np.inf, ELSEWHERE),
    "another sign": ({"a": f(np.inf)}, {"a": f(-np.inf)}, np.inf, ELSEWHERE),
    "empty": ({"a": np.zeros((0, 3), np.float32)}, {"a": np.zeros((0, 3), np.float32)}, 0.0, None),
}  # fmt: skip


@pytest.mark.parametrize(("own", "read", "difference", "wrong"), COMPARED.values(), ids=COMPARED.keys())
def test_comparison(own: dict, read: dict, difference: float, wrong: str | None) -> None:
    found, said = compared(own, read, 1e-5)
    assert said == wrong
    assert found == pytest.approx(difference, nan_ok=True)


def test_a_file_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.onnx"
    check_place(path, FORMATS["onnx"])
    with placed(path) as temporary:
        temporary.write_text("one")
        temporary.with_name("a.onnx.data").write_text("weights")
        assert not path.exists()
    assert (path.read_text(), path.with_name("a.onnx.data").read_text(), bytes_of(path)) == ("one", "weights", 10)
    with pytest.raises(RuntimeError), placed(path) as temporary:
        temporary.write_text("two")
        raise RuntimeError
    assert path.read_text() == "one"
    assert sorted(one.name for one in path.parent.iterdir()) == ["a.onnx", "a.onnx.data"]


def test_a_folder_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "served"
    for text in ("one", "two"):
        check_place(path, FORMATS["savedmodel"])
        with placed(path) as temporary:
            temporary.mkdir()
            (temporary / "saved_model.pb").write_text(text)
        assert (path / "saved_model.pb").read_text() == text
    with pytest.raises(RuntimeError), placed(path) as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert (path / "saved_model.pb").read_text() == "two"
    assert [one.name for one in tmp_path.iterdir()] == ["served"]


def test_places_that_are_taken(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "mine.txt").write_text("")
    cure = "which a SavedModel would replace: name a folder of its own"
    for path, form, text in (
        (data, "onnx", f"{data} is a folder: name a file, as in {data / 'student.onnx'}"),
        (data, "savedmodel", f"{data} is a folder with other things in it, {cure}"),
        (data / "mine.txt", "savedmodel", f"{data / 'mine.txt'} is a file, {cure}"),
    ):
        with pytest.raises(UsageError) as caught:
            check_place(path, FORMATS[form])
        assert str(caught.value) == text
    with pytest.raises(DataError) as refused:
        check_place(tmp_path / "data" / "mine.txt" / "a.onnx", FORMATS["onnx"])
    assert str(refused.value).startswith(f"{tmp_path / 'data/mine.txt/a.onnx'} can't be written: ")
    assert [one.name for one in tmp_path.rglob("*")] == ["data", "mine.txt"]


def test_a_result_is_told_and_written() -> None:
    one = Exported(Path("a.pt2"), "pt2", 0.0, 1e-5, (2, 1), 100, 1.0, 0.5, {"lengths": [8, 4]})
    assert str(one) == (
        "a.pt2: 100 bytes, differs by at most 0.0e+00 in batches of 2 and 1 of length 8 and 4, written in 1.0 s, "
        "loaded in 0.5 s"
    )
    assert json.loads(json.dumps(one.to_dict())) == {
        "path": "a.pt2", "format": "pt2", "difference": 0.0, "tolerance": 1e-5, "rows": [2, 1], "bytes": 100,
        "seconds": 1.0, "loading_seconds": 0.5, "facts": {"lengths": [8, 4]},
    }  # fmt: skip


def test_example_inputs_of_shapes() -> None:
    image = ("", (2, 3))
    assert _of_shapes([image], [], "pytorch").dtype == np.float32
    floats, tokens = _of_shapes([image], [("", (1, 4))], "tensorflow")
    assert (floats.shape, tokens.tolist(), tokens.dtype) == ((2, 3), [[0, 1, 0, 1]], np.int32)
    by_name = _of_shapes([], [("ids", (1, 2)), ("mask", (1, 2))], "pytorch")
    assert {name: str(value.dtype) for name, value in by_name.items()} == {"ids": "int64", "mask": "int64"}
    for shapes in ([("ids", (1,)), ("", (1,))], [("ids", (1,)), ("ids", (1,))]):
        with pytest.raises(UsageError) as caught:
            _of_shapes([], shapes, "pytorch")
        assert str(caught.value) == (
            "inputs are told apart by name or by place: name each once, as in --tokens ids=1,128"
        )
