"""``kdhooks transfer``: the report on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kdhooks.cli import main
from tests.torch.transfer.models import net

STUDENT = "tests.torch.transfer.models:Net"


def output(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_report_is_printed_as_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(net(1, classes=5).state_dict(), tmp_path / "weights.pt")
    file = tmp_path / "kd.yaml"
    file.write_text(f"finetune: {{pretrained: {tmp_path}/weights.pt}}\n", encoding="utf-8")
    assert output(capsys, "transfer", str(file), "--student", STUDENT) == (
        0,
        "weights of weights.pt in Net: 93.7% of 237 numbers\n"
        "14 transferred, 0 resized, 2 skipped, 0 left at initialisation, 0 unused in the source\n"
        "tensor       shape   from      its shape  what happened\n"
        "head.weight  [3, 4]  the same  [5, 4]     skipped: another shape\n"
        "head.bias    [3]     the same  [5]        skipped: another shape\n",
        "",
    )
    code, out, _ = output(capsys, "transfer", str(file), "--student", STUDENT, "--json")
    assert code == 0 and json.loads(out)["counts"]["skipped"] == 2


def test_a_model_may_be_the_source_and_without_one_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kd.yaml"
    file.write_text("finetune: {}\n", encoding="utf-8")
    code, out, _ = output(capsys, "transfer", str(file), "--student", STUDENT, "--pretrained", STUDENT, "--everything")
    assert code == 0 and out.count("the same") == 16
    assert output(capsys, "transfer", str(file), "--student", STUDENT) == (
        2,
        "",
        "kdhooks transfer: nothing is transferred: write finetune.pretrained, or name a model with --pretrained\n",
    )
