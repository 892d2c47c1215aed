"""Without Intel Extension for PyTorch, or with one that doesn't fit torch: what is said, word for word."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import ConfigError, Distillation
from kdhooks.torch import ipex

ROOT = Path(__file__).resolve().parents[2]
ADVICE = (
    "  Install it with pip install 'kdhooks[ipex]' in an environment of its own, since it brings torch 2.8; "
    "or write ipex: auto."
)
NOT_INSTALLED = "Intel Extension for PyTorch (intel-extension-for-pytorch) is not installed"


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends that the extension is installed in a version."""
    real = metadata.version

    def pretend(installed: str) -> None:
        monkeypatch.setattr(
            metadata, "version", lambda name: installed if name == "intel-extension-for-pytorch" else real(name)
        )
        ipex._loaded.cache_clear()

    yield pretend
    ipex._loaded.cache_clear()


def distillation(tmp_path: Path, teacher: Any = False, train: Any = False) -> Distillation:
    conf = {
        "distillation": {"train": {"end_epoch": 1, "ipex": train}, "teacher": {"ipex": teacher}},
        "tuning": {"workspace": {"path": str(tmp_path)}},
    }
    models = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2)]
    distiller = Distillation(conf, student_model=models[0], teacher_model=models[1])
    distiller.train_dataloader = DataLoader(TensorDataset(torch.randn(8, 4), torch.randint(3, (8,))), batch_size=4)
    return distiller


def test_a_teacher_that_needs_it_is_an_error_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "kd.yaml"
    file.write_text("distillation:\n  teacher:\n    precision: bf16\n    ipex: true\n", encoding="utf-8")
    distiller = Distillation(str(file), student_model=nn.Linear(2, 2), teacher_model=nn.Linear(2, 2))
    with pytest.raises(ConfigError) as raised:
        distiller.on_train_begin()
    assert str(raised.value) == (
        f"{file}:4:11: distillation.teacher.ipex: {NOT_INSTALLED}\n  4 |     ipex: true\n    |           ^^^^\n{ADVICE}"
    )


def test_a_student_that_needs_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        distillation(tmp_path, train=True).fit()
    assert str(raised.value) == f"<dict>: distillation.train.ipex: {NOT_INSTALLED}\n{ADVICE}"


def test_one_for_another_torch_is_never_imported(version: Any, tmp_path: Path) -> None:
    version("2.8.0")
    with pytest.raises(ConfigError) as raised:
        distillation(tmp_path, teacher=True).fit()
    assert str(raised.value) == (
        "<dict>: distillation.teacher.ipex: Intel Extension for PyTorch 2.8.0 works with torch 2.8 alone, and this is "
        f"{torch.__version__}\n{ADVICE}"
    )
    assert "intel_extension_for_pytorch" not in sys.modules


def test_one_that_can_not_be_imported_is_told_with_its_reason(
    version: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(name: str) -> None:
        print("a banner")
        raise OSError(f"{name}: no AVX-512\nand more")

    version(torch.__version__)
    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(ConfigError) as raised:
        distillation(tmp_path, train=True).fit()
    assert str(raised.value) == (
        f"<dict>: distillation.train.ipex: Intel Extension for PyTorch {torch.__version__} can't be imported: "
        f"intel_extension_for_pytorch: no AVX-512\n{ADVICE}"
    )
    assert capsys.readouterr().out == ""


def test_auto_goes_without_it_and_speaks_of_its_choice_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "kdhooks")
    distiller = distillation(tmp_path, teacher="auto", train="auto")
    distiller.fit()
    assert not any("ipex" in record.message or "Intel" in record.message for record in caplog.records)
    assert any(record.message.startswith("student: ") for record in caplog.records)


def test_the_example_ends_with_the_error() -> None:
    command = [sys.executable, str(ROOT / "examples" / "ipex.py"), "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-2:] == [
        f"<dict>: distillation.train.ipex: {NOT_INSTALLED}",
        ADVICE,
    ]
