"""The command line with models: factories, layers, check and fit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdhooks.cli import main

ROOT = Path(__file__).resolve().parents[2]

MODELS = """
import torch
from torch import nn


def student():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def teacher():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(8, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, ids):
        return {"logits": self.words(ids), "ids": (ids,)}


made = Words()
three = 3


def broken():
    raise ValueError("no weights\\nat all")


def number():
    return 3
"""

CONF = """\
model: {name: tiny}
distillation:
  train:
    end_epoch: 2
    optimizer: {Adam: {learning_rate: 0.01}}
    criterion: {KnowledgeDistillationLoss: {temperature: 4.0, loss_types: [CE, KL], loss_weights: [0.5, 0.5]}}
    dataloader: {batch_size: 64, shuffle: true, dataset: digits}
evaluation:
  accuracy: {metric: {topk: 1}, dataloader: {batch_size: 256, dataset: {digits: {train: false}}}}
"""

PAIR = ("--student", "tiny_models:student", "--teacher", "tiny_models:teacher")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models and a configuration, and a module path that is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "tiny_models", raising=False)
    Path("tiny_models.py").write_text(MODELS)
    Path("kd.yaml").write_text(CONF)
    return tmp_path


def output(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = main(words)
    return (code, *capsys.readouterr())


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says on standard error before it ends with 2."""
    code, out, err = output(capsys, *words)
    assert (code, out) == (2, "")
    return err


def test_layers(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = output(capsys, "layers", "tiny_models:student", "--shape", "2,1,8,8")
    assert (code, err) == (0, "")
    assert out == (
        "layer  type         output   parameters\n"
        "''     Sequential   [2, 10]       1,242\n"
        "0      Flatten      [2, 64]           0\n"
        "1      Linear       [2, 16]       1,040\n"
        "2      BatchNorm1d  [2, 16]          32\n"
        "3      ReLU         [2, 16]           0\n"
        "4      Linear       [2, 10]         170\n"
    )


def test_layers_of_a_model_on_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = output(capsys, "layers", "tiny_models:made", "--tokens", "1,5")
    assert (code, err) == (0, "")
    assert out == (
        "layer   type       output                              parameters\n"
        "''      Words      {logits: [1, 5, 4], ids: ([1, 5])}          52\n"
        "words   Embedding  [1, 5, 4]                                   32\n"
        "unused  Linear     -                                           20\n"
    )


def test_layers_without_an_input_have_no_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "layers", "tiny_models:Words")[1].splitlines()[0] == "layer   type       parameters"


def test_looking_changes_nothing(folder: Path) -> None:
    from kdhooks.torch.layers import list_layers

    sys.path.insert(0, str(folder))
    import tiny_models

    model = tiny_models.student().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    list_layers(model, [torch.randn(4, 64, generator=torch.Generator())])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), drawn)


FACTORIES = {
    "tiny_models:studnt": "tiny_models has no 'studnt'. Did you mean 'student'?",
    "tiny_models:xyz": "tiny_models has no 'xyz'. It has: Words, broken, made, number, student, teacher",
    "tiny_models:Words.make": "Words has no 'make'.",
    "tiny_modles:student": "there is no module 'tiny_modles' in the present folder or among what is installed. "
    "Did you mean 'tiny_models'?",
    "tiny_models.py:student": "there is no module 'tiny_models.py': name the module, not the file: tiny_models",
    "tiny_models": "'tiny_models' names no model: write package.module:factory, as in torchvision.models:resnet18",
    "tiny_models:three": "tiny_models:three is int, which can't be called to make a model",
    "tiny_models:number": "builtins.int is neither a torch.nn.Module nor a Keras model",
    "tiny_models:broken": "tiny_models:broken failed: ValueError: no weights ({file}, line 29)",
}


@pytest.mark.parametrize(("spelling", "text"), FACTORIES.items(), ids=FACTORIES.keys())
def test_factories(spelling: str, text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = text.format(file=folder / "tiny_models.py")
    assert mistake(capsys, "layers", spelling) == f"kdhooks layers: {text}\n"


BROKEN_MODULES = {
    "import not_there\n": "broken_one needs the module 'not_there', which is not installed ({file}, line 1)",
    "x = 1\ny = x / 0\n": "broken_one can't be imported: ZeroDivisionError: division by zero ({file}, line 2)",
    "def f(:\n": "broken_one can't be imported: SyntaxError: invalid syntax (broken_one.py, line 1) ({file}, line 1)",
}


@pytest.mark.parametrize(("code", "text"), BROKEN_MODULES.items(), ids=["import", "error", "syntax"])
def test_modules_that_fail(code: str, text: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken_one.py").write_text(code)
    text = text.format(file=folder / "broken_one.py")
    assert mistake(capsys, "layers", "broken_one:make") == f"kdhooks layers: {text}\n"


def test_a_wrong_example_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert mistake(capsys, "layers", "tiny_models:student", "--shape", "1,3") == (
        "kdhooks layers: Sequential failed on an input of shape [1, 3]: mat1 and mat2 shapes cannot be multiplied "
        "(1x3 and 64x16)\n"
    )


def test_check_prints_a_report_and_fails_where_something_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = output(capsys, "check", "kd.yaml", *PAIR)
    assert (code, err) == (2, "")
    assert out.startswith("kdhooks check: 1 error, ")
    assert "teacher is right on" in out
    code, out, _ = output(capsys, "check", "kd.yaml", *PAIR, "--json", "--batches", "2")
    report = json.loads(out)
    assert (code, report["ok"], report["facts"]["data"][0]["batches"]) == (2, False, 2)


def test_fit_trains_and_says_where_everything_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = output(capsys, "fit", "kd.yaml", *PAIR, "--out", "out/student.pt")
    assert code == 0
    lines = out.splitlines()
    assert lines[-6:] == [
        "student     out/student.pt",
        "curves      .kdhooks/tiny/curves.png",
        "checkpoint  .kdhooks/tiny/checkpoint.pt",
        "events      .kdhooks/tiny/tensorboard",
        "record      .kdhooks/tiny/run.json",
        "page        kdhooks report .kdhooks/tiny",
    ]
    assert lines[-7].startswith("best        top1 0.")
    assert all(Path(line.split()[1]).exists() for line in lines[-6:-1])
    first = torch.load("out/student.pt", weights_only=True)
    assert list(first) == list(fresh().state_dict())

    # the same command gives the same weights, and a continued run is one run
    assert main(["fit", "kd.yaml", *PAIR, "--out", "again.pt", "--workspace", "two"]) == 0
    again = torch.load("again.pt", weights_only=True)
    assert all(torch.equal(first[name], again[name]) for name in first)
    longer = ("--set", "distillation.train.end_epoch=3")
    assert main(["fit", "kd.yaml", *PAIR, "--workspace", "two", "--resume", *longer]) == 0
    assert main(["fit", "kd.yaml", *PAIR, "--workspace", "three", *longer]) == 0
    capsys.readouterr()
    two, three = (torch.load(f"{name}/student.pt", weights_only=True) for name in ("two", "three"))
    assert all(torch.equal(two[name], three[name]) for name in two)


def fresh() -> torch.nn.Module:
    import tiny_models

    model: torch.nn.Module = tiny_models.student()
    return model


def test_weights_of_every_kind_are_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    sys.path.insert(0, str(folder))
    weights = fresh().state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, "nested.pth")
    save_file(weights, "plain.safetensors")
    stay = ("--set", "distillation.train.optimizer={SGD: {learning_rate: 0.0}}")
    for file, out in (("nested.pth", "a.safetensors"), ("plain.safetensors", "b.pt")):
        words = ("--student", "tiny_models:student", "--student-weights", file, "--out", out)
        twice = ("--teacher", "tiny_models:student", "--teacher-weights", file) * 2
        assert main(["fit", "kd.yaml", *words, *twice, *stay]) == 0
    capsys.readouterr()
    from safetensors.torch import load_file

    for trained in (load_file("a.safetensors"), torch.load("b.pt", weights_only=True)):
        kept = [name for name in weights if name.endswith(("weight", "bias"))]
        assert all(torch.equal(trained[name], weights[name]) for name in kept)


@pytest.mark.parametrize("name", ["tied.safetensors", "tied.pt"])
def test_tied_weights_stay_tied(name: str) -> None:
    from kdhooks.torch.weights import read_weights, write_weights

    one, other = (torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)) for _ in range(2))
    for model in (one, other):
        model[1].weight = model[0].weight
    write_weights(one, Path(name))
    read_weights(other, Path(name))
    assert other[1].weight is other[0].weight
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_files_of_weights_that_are_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(folder))

    def fit_with(file: str) -> str:
        return mistake(capsys, "fit", "kd.yaml", *PAIR, "--student-weights", file)

    torch.save({"epoch": 3}, "epoch.pt")
    torch.save(fresh(), "whole.pt")
    Path("text.pt").write_text("nothing")
    Path("text.safetensors").write_text("nothing")
    other = {**fresh().state_dict(), "1.weight": torch.zeros(3, 64), "head.weight": torch.zeros(1)}
    del other["4.bias"]
    torch.save(other, "other.pt")
    assert fit_with("none.pt") == "kdhooks fit: none.pt can't be read: No such file or directory\n"
    assert fit_with("epoch.pt") == (
        "kdhooks fit: epoch.pt holds no weights: it must be a state_dict, or have one under state_dict, model, "
        "model_state_dict, student\n"
    )
    assert fit_with("whole.pt") == (
        "kdhooks fit: whole.pt holds no plain weights: save model.state_dict() alone, since other objects would be "
        "run when loaded\n"
    )
    for name in ("text.pt", "text.safetensors"):
        assert fit_with(name) == f"kdhooks fit: {name} holds no plain weights: it is damaged or of another kind\n"
    assert fit_with("other.pt") == (
        "kdhooks fit: other.pt does not fit Sequential: the file has no '4.bias'; the file has 'head.weight', which "
        "the model has not; '1.weight' is of shape [3, 64] there and [16, 64] here\n"
    )


MISTAKES = {
    "unknown key": (
        ("--set", "distillation.train.end_epoc=3"),
        "<python>: distillation.train.end_epoc: unknown key\n  Did you mean 'end_epoch'?\n",
    ),
    "no value": (
        ("--set", "distillation.train.end_epoch"),
        "kdhooks fit: --set distillation.train.end_epoch: write KEY=VALUE, as in distillation.train.end_epoch=3\n",
    ),
    "wrong value": (
        ("--set", "distillation.train.frequency=often"),
        "<python>: distillation.train.frequency: expected a whole number of at least 1, got 'often'\n",
    ),
    "a tag": (
        ("--set", "tuning.random_seed=!!python/name:os.system"),
        "--set:1:8: value: has the YAML tag !!python/name:os.system\n"
        "  1 | value: !!python/name:os.system\n"
        "    |        ^^^^^^^^^^^^^^^^^^^^^^^\n"
        "  Remove the tag: a configuration is plain data and can run no code.\n",
    ),
    "weights": (
        ("--teacher-weights", "a.pt", "--teacher-weights", "b.pt"),
        "kdhooks fit: --teacher-weights was given 2 times, and --teacher 1 times\n",
    ),
    "folder": (("--out", "."), "kdhooks fit: --out . is a folder: name a file, as in student.pt\n"),
    "format": (
        ("--out", "student.zip"),
        "kdhooks fit: --out student.zip: weights are written as .pt or .safetensors\n",
    ),
}


@pytest.mark.parametrize(("words", "text"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes(words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mistake(capsys, "fit", "kd.yaml", *PAIR, *words) == text


def test_ctrl_c_leaves_a_checkpoint_and_ends_with_130(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "kdhooks.cli",
        "fit",
        "kd.yaml",
        *PAIR,
        "--set",
        "distillation.train.end_epoch=100000",
    ]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    checkpoint = folder / ".kdhooks" / "tiny" / "checkpoint.pt"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()  # a run of 100,000 epochs outlives no test
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "kdhooks: interrupted"
    assert "tuning.workspace.resume: true continues after step" in out
    assert checkpoint.exists()
