"""``kdhooks export`` with PyTorch models: weights of files and runs, example inputs of shapes and data, mistakes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kdhooks.cli import main
from kdhooks.torch.export_program import load_program

MODELS = """
import torch
from torch import nn


def student():
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 11))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(8, 4)

    def forward(self, input_ids, attention_mask):
        return {"logits": self.words(input_ids) * attention_mask[..., None]}
"""

CONF = """\
distillation:
  train:
    end_epoch: 2
    optimizer: {SGD: {learning_rate: 0.1}}
    dataloader: {batch_size: 64, shuffle: true, dataset: {digits: {limit: 256}}}
evaluation: {accuracy: {metric: {topk: 1}, dataloader: {batch_size: 256, dataset: {digits: {train: false}}}}}
tuning: {workspace: {path: run}, random_seed: 3}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with models and a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "export_models", raising=False)
    Path("export_models.py").write_text(MODELS)
    Path("kd.yaml").write_text(CONF)
    yield tmp_path
    sys.modules.pop("export_models", None)


def output(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(("export", *words))
    return (code, *capsys.readouterr())


def test_the_best_of_a_run_in_several_formats(capsys: pytest.CaptureFixture[str]) -> None:
    pair = ("--student", "export_models:student", "--teacher", "export_models:student")
    assert main(["fit", "kd.yaml", *pair, "--out", "student.pt"]) == 0
    capsys.readouterr()
    best = torch.load("run/checkpoint.pt", weights_only=True)["distiller"]["best"]
    said = f"the best of the run: epoch {best['epoch']}, score {best['score']:.4f}"
    files = ("--to", "out/a.safetensors", "--to", "out/a.pt2")
    code, out, err = output(capsys, "export_models:student", "--run", "run", "--config", "kd.yaml", *files)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"weights: run/checkpoint.pt, {said}"
    assert [line.split()[:2] for line in lines[1:]] == [
        ["file", "holds"], ["out/a.safetensors", "safetensors"], ["out/a.pt2", "pt2"]
    ]  # fmt: skip
    assert all("batches of 8, 1 and 9" in line for line in lines[2:])
    program = load_program("out/a.pt2")
    assert all(torch.equal(best["weights"][name], value) for name, value in program.state_dict.items())
    # the checkpoint by its own name, and the file that fit() writes, are the same weights
    for file, told in (("run/checkpoint.pt", f", {said}"), ("student.pt", "")):
        words = ("export_models:student", "--weights", file, "--to", "b.pt2", "--shape", "2x1x8x8", "--json")
        code, out, _ = output(capsys, *words)
        found = json.loads(out)
        assert (code, found["weights"], found["failed"]) == (0, f"{file}{told}", {})
        assert found["exported"][0]["rows"] == [2, 1, 3]
        again = load_program("b.pt2").state_dict
        assert all(torch.equal(again[name], value) for name, value in program.state_dict.items())
    code, _, err = output(capsys, "export_models:wide", "--run", "run", "--to", "c.safetensors")
    assert (code, err) == (
        2,
        "kdhooks export: the checkpoint run/checkpoint.pt belongs to another student: '1.weight' is of shape [16, 64] "
        "there and [20, 64] here\n",
    )
    assert not Path("c.safetensors").exists()


def test_inputs_by_name_and_one_format_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    shapes = ("--tokens", "input_ids=2,6", "--tokens", "attention_mask=2,6")
    files = ("--to", "a.keras", "--to", "a.pt2")
    code, out, err = output(capsys, "export_models:Words", *files, *shapes, "--dynamic-length")
    assert (code, err) == (
        2,
        "kdhooks export: not written: a.keras: a Keras model can't be made of Words, which is a PyTorch model: write "
        ".safetensors, .pt2 or .onnx\n",
    )
    assert out.splitlines()[0] == "weights: those that export_models:Words has"
    assert "batches of 2, 1 and 3 of length 6 and 3" in out
    code, out, _ = output(capsys, "export_models:Words", "--to", "b.pt2", *shapes, "--fixed-batch")
    assert code == 0 and "batches of 2 " in out and not Path("a.keras").exists()


SHAPE = ("--shape", "2,1,8,8")
MISTAKES = {
    "no inputs": (
        ("--to", "a.pt2"),
        "a.pt2 can't be written without example inputs: pass a batch as the model takes it (inputs=, or on the command "
        "line --shape, --tokens or --config)",
    ),
    "suffix": (("--to", "a.onx", *SHAPE), "a.onx: no format has files that end in '.onx'. Did you mean '.onnx'?"),
    "two weights": (
        ("--to", "a.pt2", "--run", ".", "--weights", "b.pt"),
        "--run and --weights both name weights: give one of them",
    ),
    "no run": (
        ("--to", "a.pt2", "--run", "none"),
        "--run none is no folder: name the folder of a run, or a file with --weights",
    ),
    "empty run": (
        ("--to", "a.pt2", "--run", "."),
        "there is no checkpoint at checkpoint.pt: name the folder in which fit() worked",
    ),
    "no weights": (("--to", "a.pt2", "--weights", "b.pt"), "b.pt can't be read: No such file or directory"),
    "both inputs": (
        ("--to", "a.pt2", "--config", "kd.yaml", *SHAPE),
        "--config takes example inputs from data, so --shape and --tokens have no use beside it",
    ),
    "changes": (("--to", "a.pt2", "--set", "a=1"), "--set changes a configuration, and none is named with --config"),
    "folder": (("--to", "kd.yaml/a.pt2", *SHAPE), None),
    "shape": (
        ("--to", "a.pt2", "--shape", "2,1,8,9"),
        "Sequential can't be exported: it failed on an input [2, 1, 8, 9]: RuntimeError: mat1 and mat2 shapes cannot "
        "be multiplied (2x72 and 64x16)",
    ),
}


@pytest.mark.parametrize(("words", "text"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes(words: tuple[str, ...], text: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = output(capsys, "export_models:student", *words)
    assert (code, out) == (2, "")
    if text is None:
        assert err.startswith("kdhooks export: not written: kd.yaml/a.pt2 can't be written: ")
    else:
        assert err == f"kdhooks export: {text}\n"
    assert not Path("a.pt2").exists()
