"""How a teacher runs, as plain data."""

from __future__ import annotations

from typing import Any

import pytest

from kdhooks.errors import CheckpointError
from kdhooks.speed import Choice


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (Choice(), "the loop's precision"),
        (Choice("fp32"), "fp32"),
        (Choice("bf16", channels_last=True), "bf16, channels last"),
        (Choice("fp16", channels_last=True, compile=True, ipex=True), "fp16, channels last, compiled, ipex"),
    ],
)
def test_a_choice_is_plain_data_and_prints_as_text(choice: Choice, text: str) -> None:
    assert Choice.from_dict(choice.to_dict()) == choice
    assert all(value is None or isinstance(value, (str, bool)) for value in choice.to_dict().values())
    assert str(choice) == text


def test_what_an_older_choice_lacks_has_its_default() -> None:
    assert Choice.from_dict({"precision": "bf16"}) == Choice("bf16")


@pytest.mark.parametrize(
    "saved",
    [None, [], {"precision": "int4"}, {"channels_last": 1}, {"compile": None}, {"precision": "bf16", "new": True}],
)
def test_no_choice_of_ours(saved: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        Choice.from_dict(saved)
    assert str(caught.value) == f"a saved choice of how a teacher runs can't be read: {saved!r}"
