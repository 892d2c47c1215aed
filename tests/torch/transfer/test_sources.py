"""Where weights come from: models, state_dicts, files; and files that would run code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdhooks import Distillation
from kdhooks.errors import ConfigError, DataError, TransferError, UsageError
from kdhooks.torch.transfer import transfer_weights
from tests.torch.transfer.models import net, same


class Runs:
    """What a pickle of it does when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def wrapped(state: Any) -> dict[str, Any]:
    return {
        "a state_dict": state,
        "under state_dict": {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"m": torch.ones(1)}}}},
        "under model": {"model": state, "lr": 0.1},
        "two levels deep": {"model": {"state_dict": state}},
        "under another name": {"my_net": state},
        "of DataParallel": {f"module.{name}": value for name, value in state.items()},
        "of Lightning": {"state_dict": {f"model.{name}": value for name, value in state.items()}, "hparams": {}},
        "of a compiled model": {f"_orig_mod.{name}": value for name, value in state.items()},
    }


@pytest.mark.parametrize("form", list(wrapped({})))
def test_the_conventions_of_checkpoints_are_understood(form: str, tmp_path: Path) -> None:
    source = net(1)
    content = wrapped(source.state_dict())[form]
    torch.save(content, tmp_path / "weights.pt")
    for given in (content, tmp_path / "weights.pt", str(tmp_path / "weights.pt")):
        student = net(2)
        report = transfer_weights(student, given)
        assert same(student.state_dict(), source.state_dict())
        assert report.counts() == {"transferred": 16, "resized": 0, "skipped": 0, "initial": 0, "unused": 0}


def test_models_compiled_and_parallel_ones_and_safetensors(tmp_path: Path) -> None:
    source = net(1)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    torch.save(source.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    compiled = torch.compile(source, backend="eager")
    for given in (source, nn.DataParallel(source), compiled, tmp_path / "weights.safetensors", tmp_path / "old.pt"):
        student = net(2)
        transfer_weights(torch.compile(student, backend="eager"), given)
        assert same(student.state_dict(), source.state_dict())


def test_a_file_with_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    file, trace = tmp_path / "weights.pt", tmp_path / "it-ran"
    torch.save({"state_dict": net(1).state_dict(), "hook": Runs(trace)}, file)
    student = net(2)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    told = f"{file} holds no plain weights: save model.state_dict() alone, since other objects would be run when loaded"
    with pytest.raises(DataError, match=f"^{re.escape(told)}$"):
        transfer_weights(student, file)
    yaml = tmp_path / "kd.yaml"
    yaml.write_text(f"finetune:\n  pretrained: {file}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Distillation(yaml, student_model=student).on_train_begin()
    assert str(caught.value).splitlines()[:2] == [
        f"{yaml}:2:15: finetune.pretrained: {told}",
        f"  2 |   pretrained: {file}",
    ]
    assert not trace.exists()
    assert same(student.state_dict(), before)


def test_files_that_are_no_weights_say_so(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"nothing")
    (tmp_path / "a.safetensors").write_bytes(b"nothing at all")
    torch.save({"epoch": 3}, tmp_path / "b.pt")
    torch.save({"one": net(1).state_dict(), "two": net(1).state_dict()}, tmp_path / "c.pt")
    told = {
        "a.pt": f"{tmp_path}/a.pt holds no plain weights: it is damaged or of another kind",
        "a.safetensors": f"{tmp_path}/a.safetensors holds no plain weights: it is damaged or of another kind",
        "b.pt": "b.pt holds no weights: it must be a state_dict, or have one under state_dict, model_state_dict, "
        "model, student, state_dict_ema, net, network, module",
        "c.pt": "c.pt holds several models: 'one', 'two'. Hand over one of their state_dicts",
        "none.pt": f"{tmp_path}/none.pt can't be read: No such file or directory",
    }
    for name, text in told.items():
        with pytest.raises(DataError) as caught:
            transfer_weights(net(2), tmp_path / name)
        assert str(caught.value) == text
    with pytest.raises(
        UsageError, match=r"^weights come from a model, a state_dict or the path of a file, not from 3$"
    ):
        transfer_weights(net(2), 3)


def test_nothing_is_written_where_something_is_wrong() -> None:
    student = net(2)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(TransferError):
        transfer_weights(student, net(1, classes=9), on_mismatch="error")
    assert same(student.state_dict(), before)
