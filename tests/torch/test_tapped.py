"""`kdhooks layers --tapped`: the layers that a configuration names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdhooks.cli import main

MODELS = """
from torch import nn


def student():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def teacher():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with models, and a module path that is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "tapped_models", raising=False)
    Path("tapped_models.py").write_text(MODELS)


def output(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = main(words)
    return (code, *capsys.readouterr())


def mistake(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says on standard error before it ends with 2."""
    code, out, err = output(capsys, *words)
    assert (code, out) == (2, "")
    return err


TAPPED = """\
distillation:
  train:
    criterion:
      - IntermediateLayersKnowledgeDistillationLoss:
          layer_mappings: [['1', '3'], {student: '{i}:input', teacher: '', i: 3..4}]
      - SelfKnowledgeDistillationLoss: {layer_mappings: [[['2'], ['3']]]}
"""


def test_layers_that_a_configuration_taps(capsys: pytest.CaptureFixture[str]) -> None:
    Path("taps.yaml").write_text(TAPPED)
    code, out, err = output(capsys, "layers", "tapped_models:student", "--tapped", "taps.yaml", "--shape", "2,1,8,8")
    assert (code, err) == (0, "")
    assert out == (
        "mapping                  layer            type         shape\n"
        "layer_mappings[0]        '1'              Linear       [2, 16]\n"
        "layer_mappings[1]        '3' (its input)  ReLU         [2, 16]\n"
        "layer_mappings[1]        '4' (its input)  Linear       [2, 16]\n"
        "layer_mappings[0][0][0]  '2'              BatchNorm1d  [2, 16]\n"
        "layer_mappings[0][1][0]  '3'              ReLU         [2, 16]\n"
    )
    code, out, err = output(capsys, "layers", "tapped_models:teacher", "--tapped", "taps.yaml", "--as", "teacher")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["mapping", "layer", "type"],
        ["layer_mappings[0]", "'3'", "Linear"],
        ["layer_mappings[1]", "''", "Sequential"],
        ["layer_mappings[1]", "''", "Sequential"],
    ]
    Path("none.yaml").write_text("device: cpu\n")
    assert mistake(capsys, "layers", "tapped_models:student", "--tapped", "none.yaml") == (
        "kdhooks layers: none.yaml names no layer of a student\n"
    )
    Path("taps.yaml").write_text(TAPPED.replace("['1', '3']", "['9', '3']"))
    assert mistake(capsys, "layers", "tapped_models:student", "--tapped", "taps.yaml") == (
        "kdhooks layers: student Sequential has no layer '9'. All layers: kdhooks layers MODEL\n"
    )


SEARCH = """\
auto_distillation:
  flash_distillation: {block_names: ['1'], layer_mappings: [[['1', '1'], ['2', '2']]]}
  regular_distillation: {layer_mappings: [['4', '3']]}
"""


def test_layers_that_the_stages_of_a_search_tap(capsys: pytest.CaptureFixture[str]) -> None:
    Path("auto.yaml").write_text(SEARCH)
    code, out, err = output(capsys, "layers", "tapped_models:teacher", "--tapped", "auto.yaml", "--as", "teacher")
    assert (code, err) == (0, "")
    flash = "auto_distillation.flash_distillation.layer_mappings[0]"
    assert [line.split() for line in out.splitlines()] == [
        ["mapping", "layer", "type"],
        [f"{flash}[0]", "'1'", "Linear"],
        [f"{flash}[1]", "'2'", "ReLU"],
        ["auto_distillation.regular_distillation.layer_mappings[0]", "'3'", "Linear"],
    ]
