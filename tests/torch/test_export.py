"""Exported PyTorch models: each file is loaded again here as its users would, and compared with the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import Tensor, nn
from torch.export import ExportedProgram

from kdhooks.errors import ExportError, MissingPackageError, ModelError, UsageError
from kdhooks.export import export, export_all
from kdhooks.torch.export_program import load_program

ALL = ("student.safetensors", "student.pt2", "student.onnx")


class Convolutional(nn.Module):
    """With BatchNorm and dropout, as students are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.head = nn.Linear(8, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(image))).mean((2, 3))))


def trained() -> Convolutional:
    model = Convolutional()
    model(torch.randn(16, 3, 8, 8) * 3 + 1)  # so that running statistics are not 0 and 1
    return model


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def own(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        found = model.eval()(*args, **kwargs)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return found


def test_a_network_with_batch_norm_in_all_formats(tmp_path: Path) -> None:
    model = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    report = export_all(
        model, [tmp_path / name for name in ALL], inputs=torch.randn(1, 3, 8, 8, generator=torch.Generator())
    )
    assert report.ok
    assert [(one.format, one.rows) for one in report.exported] == [
        (kind, (1, 2)) for kind in ("safetensors", "pt2", "onnx")
    ]
    assert all(one.difference <= 1e-5 and one.bytes == one.path.stat().st_size for one in report.exported)
    assert report.exported[2].facts == {"opset": 18, "inputs": ["image"], "outputs": ["output"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ALL)
    # the model is as it was
    assert all(module.training and "forward" not in vars(module) for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    # and others read the files
    other = Convolutional()
    other.load_state_dict(load_file(tmp_path / ALL[0]))
    program, graph = load_program(tmp_path / ALL[1]).module(), session(tmp_path / ALL[2])
    ends = (*graph.get_inputs(), *graph.get_outputs())
    assert [one.shape for one in ends] == [["batch", 3, 8, 8], ["batch", 10]]
    for rows in (1, 2, 7):
        image = torch.randn(rows, 3, 8, 8)
        wanted = own(model, image)
        assert torch.equal(own(other, image), wanted)
        assert torch.allclose(program(image), wanted, atol=1e-5, rtol=0)
        np.testing.assert_allclose(
            graph.run(["output"], {"image": image.numpy()})[0], wanted.numpy(), atol=1e-5, rtol=0
        )


def test_a_program_holds_neither_data_nor_paths(tmp_path: Path) -> None:
    export(trained(), tmp_path / "a.pt2", inputs=torch.full((2, 3, 8, 8), 12345.0))
    program = load_program(tmp_path / "a.pt2")
    assert not program.example_inputs
    content = (tmp_path / "a.pt2").read_bytes()
    assert str(Path(__file__).parent).encode() not in content


class Several(nn.Module):
    """Takes numbers, whole numbers and flags; returns a nest with something that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.words = nn.Linear(4, 3), nn.Embedding(5, 3)

    def forward(self, image: Tensor, *, ids: Tensor, keep: Tensor, scale: float = 2.0, extra: Any = None) -> Any:
        both = self.image(image) + self.words(ids) * keep[:, None].to(image.dtype)
        return {"logits": both * scale, "parts": (keep, ids.sum()), "nothing": None}


def test_several_inputs_by_name(tmp_path: Path) -> None:
    model = Several()
    ids, keep = torch.tensor([0, 4, 2]), torch.tensor([True, False, True])
    batch = {"keep": keep, "image": torch.randn(3, 4), "ids": ids, "extra": None}
    paths = [tmp_path / "a.pt2", tmp_path / "a.onnx"]
    report = export_all(model, paths, inputs=batch)
    assert report.ok and [one.rows for one in report.exported] == [(3, 1, 4), (3, 1, 4)]
    graph = session(paths[1])
    assert [one.name for one in graph.get_inputs()] == ["image", "ids", "keep"]
    assert [one.name for one in graph.get_outputs()] == ["logits", "parts.0", "parts.1"]
    given = {"image": np.ones((2, 4), np.float32), "ids": np.array([1, 3]), "keep": np.array([True, False])}
    logits, flags, total = graph.run(None, given)
    wanted = own(model, **{name: torch.from_numpy(value) for name, value in given.items()})
    np.testing.assert_allclose(logits, wanted["logits"].numpy(), atol=1e-5, rtol=0)
    assert flags.tolist() == [True, False] and total == 4
    program = load_program(paths[0]).module()
    found = program(**{name: torch.from_numpy(value) for name, value in given.items()}, extra=None)
    assert torch.equal(found["logits"], wanted["logits"]) and list(found) == ["logits", "parts"]


class Nested(nn.Module):
    def forward(self, x: Tensor, pair: Any, *more: Tensor) -> Any:
        return x + pair[0], pair[1] * more[0]


def test_several_inputs_by_place(tmp_path: Path) -> None:
    batch = [torch.randn(2, 3), (torch.randn(2, 3), torch.randn(2, 3)), torch.randn(2, 3)]
    found = export(Nested(), tmp_path / "a.onnx", inputs=batch)
    assert found.facts == {
        "opset": 18,
        "inputs": ["x", "pair_0", "pair_1", "more_0"],
        "outputs": ["output_0", "output_1"],
    }


def test_a_fixed_batch_and_another_opset(tmp_path: Path) -> None:
    found = export(
        nn.Linear(4, 3), tmp_path / "a.bin", format="onnx", inputs=torch.randn(2, 4), dynamic_batch=False, opset=20
    )
    assert (found.rows, found.facts["opset"], session(tmp_path / "a.bin").get_inputs()[0].shape) == ((2,), 20, [2, 4])
    with pytest.raises(ExportError) as caught:
        export(nn.Linear(4, 3), tmp_path / "b.onnx", inputs=torch.randn(2, 4), opset=7)
    assert str(caught.value) == (
        f"{tmp_path / 'b.onnx'}: torch {torch.__version__} wrote opset 18 in place of 7: ask for opset 18"
    )


def test_half_precision_stays(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    found = export(model.to(torch.bfloat16), tmp_path / "a.pt2", inputs=torch.randn(2, 3, 4))
    assert found.tolerance == 4e-2
    assert load_program(tmp_path / "a.pt2").state_dict["1.weight"].dtype is torch.bfloat16
    assert export(model.half(), tmp_path / "a.onnx", inputs=torch.randn(2, 3, 4)).tolerance == 5e-3
    assert session(tmp_path / "a.onnx").get_inputs()[0].type == "tensor(float16)"


def test_autocast_around_the_call_changes_nothing(tmp_path: Path) -> None:
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        export(model, tmp_path / "a.pt2", inputs=x)
    assert torch.equal(load_program(tmp_path / "a.pt2").module()(x), own(model, x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix, self.aaa_head = nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
        self.aaa_head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.aaa_head(self.mix(self.words(ids)))


def test_tied_weights_are_kept_once_and_load_again(tmp_path: Path) -> None:
    model, path = Tied(), tmp_path / "a.safetensors"
    export(model, path, inputs=torch.tensor([[1, 2]]))
    assert sorted(load_file(path)) == ["mix.bias", "mix.weight", "words.weight"]
    one, other = Tied(), Tied()
    assert one.load_state_dict(load_file(path), strict=False).missing_keys == ["aaa_head.weight"]
    assert load_model(other, path) == (set(), [])
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(own(one, ids), own(model, ids)) and torch.equal(own(other, ids), own(model, ids))
    assert one.aaa_head.weight is one.words.weight


def test_weights_alone_need_no_inputs(tmp_path: Path) -> None:
    found = export(trained(), tmp_path / "a.safetensors")
    assert (found.rows, found.difference) == ((), 0.0)
    assert "differs by at most 0.0e+00 in its weights" in str(found)


def test_views_and_other_strides_are_written_whole(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    model.register_buffer("view", model.weight.detach()[:2])
    export(model, tmp_path / "a.safetensors", inputs=torch.randn(2, 3, 5, 5))
    assert torch.equal(load_file(tmp_path / "a.safetensors")["view"], model.weight[:2])


class Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).real


def test_what_cannot_be_exported_leaves_the_rest(tmp_path: Path) -> None:
    place = f"({__file__}, line {Decides.forward.__code__.co_firstlineno + 1})"
    paths = [tmp_path / name for name in ("a.onnx", "a.pt2", "a.keras", "a.safetensors")]
    paths[0].write_text("what was here before")
    report = export_all(Decides(), paths, inputs=torch.randn(2, 4))
    decides = (
        f"Decides can't be traced: its forward decides by the values of a tensor {place}, which a traced program "
        "can't: use torch.where or torch.cond"
    )
    assert {path.name: str(error) for path, error in report.failed.items()} == {
        "a.onnx": f"{paths[0]}: {decides}",
        "a.pt2": f"{paths[1]}: {decides}",
        "a.keras": f"{paths[2]}: a Keras model can't be made of Decides, which is a PyTorch model: write .safetensors, "
        ".pt2 or .onnx",
    }
    assert [one.path for one in report.exported] == [paths[3]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.safetensors"]
    assert paths[0].read_text() == "what was here before"
    assert not report.ok and str(report).splitlines()[-1].startswith(
        f"not written: {paths[1]}: Decides can't be traced"
    )
    with pytest.raises(ExportError) as caught:
        export(Eigenvalues(), tmp_path / "b.onnx", inputs=torch.randn(2, 3, 3))
    assert str(caught.value) == (
        f"{tmp_path / 'b.onnx'}: it can't be written as ONNX: ONNX has no counterpart of the operation aten.linalg_eig"
    )


def test_a_file_that_gives_other_numbers_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(path: Path) -> ExportedProgram:
        program = load_program(path)
        with torch.no_grad():
            program.state_dict["bias"].add_(1.0)
        return program

    monkeypatch.setattr("kdhooks.torch.export_program.load_program", spoilt)
    model, x = nn.Linear(4, 3), torch.zeros(2, 4)
    with pytest.raises(ExportError) as caught:
        export(model, tmp_path / "a.pt2", inputs=x)
    assert str(caught.value) == (
        f"{tmp_path / 'a.pt2'}: loaded again it gives other numbers for 2 rows: 'output' differs by 1, and "
        "1e-05 is allowed"
    )
    assert not list(tmp_path.iterdir())
    assert export(model, tmp_path / "a.pt2", inputs=x, tolerance=1.5).difference == pytest.approx(1.0)


def mistake(error: type[Exception], model: nn.Module, path: Path, **options: Any) -> str:
    with pytest.raises(error) as caught:
        export(model, path, **options)
    return str(caught.value)


def test_bad_inputs_and_models(tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    assert mistake(UsageError, trained(), path) == (
        f"{path} can't be written without example inputs: pass a batch as the model takes it (inputs=, or on the "
        "command line --shape, --tokens or --config)"
    )
    assert mistake(ModelError, trained(), path, inputs=torch.randn(2, 4, 8, 8)).startswith(
        "Convolutional can't be exported: it failed on an input [2, 4, 8, 8]: RuntimeError: Given groups=1"
    )
    flat = nn.Sequential(nn.Flatten(0), nn.Linear(24, 3))
    assert mistake(ModelError, flat, path, inputs=torch.randn(2, 12)) == (
        "Sequential can't be exported: it failed on an input [1, 12]: RuntimeError: mat1 and mat2 shapes cannot be "
        "multiplied (1x12 and 24x3); with dynamic_batch=False a file is for batches of the examples' size alone"
    )
    assert export(flat, path, inputs=torch.randn(2, 12), dynamic_batch=False).rows == (2,)
    lazy = nn.LazyLinear(3)
    assert mistake(ModelError, lazy, path, inputs=torch.randn(2, 4)) == (
        "LazyLinear has weights without a shape yet, 'weight': call it on a batch first"
    )
    with torch.device("meta"):
        empty = nn.Linear(2, 2)
    assert mistake(ModelError, empty, path) == (
        "Linear has weights without values, 'weight' is on the device 'meta': load its weights"
    )
    assert mistake(UsageError, nn.Linear(4, 3), path, inputs=torch.randn(2, 4), dynamic_length=True) == (
        "dynamic_length is for token inputs, and no input is of integers with two axes or more"
    )
    assert mistake(UsageError, nn.Linear(4, 3), path, dynamic_length=True, dynamic_batch=False) == (
        "dynamic_length goes with batches of any size: leave dynamic_batch as it is, or both out"
    )
    assert (
        mistake(ExportError, nn.ReLU(), tmp_path / "b.safetensors")
        == f"{tmp_path / 'b.safetensors'}: ReLU has no weights"
    )
    with pytest.raises(UsageError, match=r"a\.pt2 is named twice"):
        export_all(trained(), [path, path])


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_missing_packages(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    purpose = {"onnxruntime": "running an .onnx file to compare it", "onnxscript": "an .onnx file"}[package]
    text = mistake(MissingPackageError, trained(), tmp_path / "a.onnx", inputs=torch.randn(2, 3, 8, 8))
    assert text == f"{purpose} needs the package {package!r}: pip install 'kdhooks[export]'"
    assert not list(tmp_path.iterdir())
