"""The state of `Distilled` in Accelerate's checkpoints: exact resumes, plain files, clear refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from kdhooks.errors import CheckpointError
from kdhooks.integrations.accelerate import Distilled
from tests.torch.integrations.accelerated_script import (
    Dropping,
    accelerator,
    distillation,
    error_of,
    own_accelerator,
    script,
)
from tests.torch.small_models import made, same_weights

__all__ = ["own_accelerator"]


def interrupted(folder: Path, batch: int, **options: Any) -> None:
    """A run of 20 batches that saves its state after one of them, and goes on."""
    own = accelerator()

    def save(number: int) -> None:
        if number == batch:
            own.save_state(str(folder))

    script(own, lambda *_: Distilled(own, distillation(**options)), after=save, shuffle=False)


@pytest.mark.parametrize("batch", [4, 10, 16])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(tmp_path: Path, batch: int) -> None:
    held: list[Distilled] = []
    own = accelerator()
    expected, _, _ = script(own, lambda *_: held.append(Distilled(own, distillation())), shuffle=False)
    whole = held.pop()
    matchers = [parameter.detach().clone() for parameter in whole.parameters()]
    whole.end()

    interrupted(tmp_path, batch)
    own = accelerator()

    def resume(*_: Any) -> None:
        held.append(Distilled(own, distillation()))
        own.load_state(str(tmp_path))

    epochs, skip = (2, batch) if batch < 10 else (1, batch - 10)
    found, _, _ = script(own, resume, epochs=epochs, skip=skip, shuffle=False)
    again = held.pop()
    assert same_weights(found, expected)
    assert all(map(torch.equal, matchers, again.parameters())) and len(matchers) == 2
    assert again.losses == whole.losses and again.steps == whole.steps == 10
    again.end()
    told = [{key: value for key, value in record.items() if key != "seconds"} for record in again.distiller.history]
    assert told == [
        {key: value for key, value in record.items() if key != "seconds"} for record in whole.distiller.history
    ]


def test_the_state_is_plain_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path, 4)
    file = tmp_path / "kdhooks.pt"
    state = torch.load(file, weights_only=True)
    assert sorted(state) == ["distillation", "format", "steps", "version"] and state["steps"] == 2
    assert not list(tmp_path.glob("custom_checkpoint_*"))

    def load(**options: Any) -> str:
        own = accelerator()
        student = made(1, Dropping)
        model, _ = own.prepare(student, torch.optim.AdamW(student.parameters()))
        before = copy.deepcopy(model.state_dict())
        with Distilled(own, distillation(**options)):
            said = error_of(lambda: own.load_state(str(tmp_path)), CheckpointError)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        return said.replace(str(tmp_path), "FOLDER")

    assert load(zero=True) == (
        "this state holds 1 criteria with parameters, and this run has 0: it belongs to another configuration"
    )
    torch.save(state | {"version": 9}, file)
    assert load() == "FOLDER/kdhooks.pt is of version 9, and this kdhooks reads up to version 1: update kdhooks"
    torch.save({"model": 1}, file)
    assert load() == "FOLDER/kdhooks.pt is not a state of kdhooks with Accelerate"
    file.write_bytes(file.read_bytes()[:40])
    assert load() == "FOLDER/kdhooks.pt is damaged, or holds other things than a state of kdhooks"
    file.unlink()
    assert load() == (
        "FOLDER holds no kdhooks.pt: it was saved without distillation. To begin distilling with its weights call "
        "accelerator.load_state(...) before Distilled(...)"
    )
