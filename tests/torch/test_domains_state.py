"""Runs that adapt to a domain and go on bit for bit: discriminators, the reversal, random maps, optimizers of ours."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import Distillation
from kdhooks.errors import CheckpointError
from tests.torch.domain_runs import DANN, conf, data, equal, one, student, train

RUNS: dict[str, dict[str, Any]] = {
    "a discriminator and kernels": conf({**DANN, "MK_MMD": {"layer": "body.2"}}),
    "random maps": conf({"CDAN": {"layer": "body.2", "randomized": True, "random_size": 10, "hidden_size": 9}}),
    "second heads": conf({"MCD": {"head": "head"}, "MDD": {"head": "head"}}),
    "a schedule that begins later": conf(
        {"MCC": {}, "DANN": {"layer": "head", "weight": {"warmup": {"to": 1, "steps": 9}}}}
    ),
    "steps of their own": conf({**DANN, "ADDA": {"layer": "body.2", "encoder": "body"}}, alternating=True),
    "one forward": conf({**DANN, "AFN": {"layer": "body.0"}}, joint_forward=True, validator="snd"),
}


def saved(value: Any) -> Any:
    """What a file without pickled code gives back."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_goes_on_bit_for_bit(name: str) -> None:
    whole, begun = student(), student()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=0.02)
    with Distillation(RUNS[name], student_model=whole) as distiller:
        train(distiller, whole, optimizer, data(8))
        last = distiller.losses, saved(distiller.criterion[1].state_dict())
    optimizer = torch.optim.AdamW(begun.parameters(), lr=0.02)
    with Distillation(RUNS[name], student_model=begun) as distiller:
        train(distiller, begun, optimizer, data(8)[:4])
        state, weights = saved(distiller.state_dict()), saved(begun.state_dict())
        moments = saved(optimizer.state_dict())
    torch.rand(3)
    resumed = student(7)
    resumed.load_state_dict(weights)
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=0.02)
    optimizer.load_state_dict(moments)
    distiller = Distillation(RUNS[name], student_model=resumed)
    distiller.load_state_dict(state)
    with distiller:
        train(distiller, resumed, optimizer, data(8)[4:])
        assert distiller.losses == last[0]
        assert_same(saved(distiller.criterion[1].state_dict()), last[1])
    assert equal(resumed, whole)


def assert_same(mine: Any, other: Any) -> None:
    if isinstance(mine, dict):
        assert mine.keys() == other.keys()
        for key in mine:
            assert_same(mine[key], other[key])
    elif isinstance(mine, (list, tuple)):
        assert len(mine) == len(other)
        for one_, two in zip(mine, other, strict=True):
            assert_same(one_, two)
    elif isinstance(mine, torch.Tensor):
        assert torch.equal(mine, other)
    else:
        assert mine == other


def state_of(criterion: Any) -> Any:
    model = student()
    with Distillation(conf(criterion), student_model=model) as distiller:
        one(distiller, model, data(1)[0])
        return distiller.state_dict()


def refused(criterion: Any, state: Any) -> str:
    distiller = Distillation(conf(criterion), student_model=student())
    distiller.load_state_dict(state)
    with pytest.raises(CheckpointError) as caught:
        distiller.on_train_begin()
    return str(caught.value)


def test_a_state_of_another_adaptation_is_refused() -> None:
    state = state_of(DANN)
    assert refused({"MCC": {}}, state) == (
        "the state belongs to another domain adaptation: the state holds the adapters DANN, and this run has MCC"
    )
    assert refused({"DANN": {"layer": "body.2", "hidden_size": 13}}, state) == (
        "the state belongs to another domain adaptation: size mismatch for discriminator.layers.2.weight: copying a "
        "param with shape torch.Size([1, 12]) from checkpoint, the shape in current model is torch.Size([1, 13])."
    )


def fitting(folder: Path, *, epochs: int, resume: bool = False, **options: Any) -> Distillation:
    settings = conf(**{"validator": "snd", **options})
    settings["distillation"] = {"train": {"end_epoch": epochs, "optimizer": {"SGD": {"learning_rate": 0.05}}}}
    settings["distillation"]["train"]["checkpoint_steps"] = 2
    settings["tuning"] = {"workspace": {"path": str(folder), "resume": resume}}
    distiller = Distillation(settings, student_model=student(dropout=0.2))
    x, y, t = (torch.cat(parts) for parts in zip(*data(), strict=True))
    distiller.train_dataloader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    distiller.target_dataloader = DataLoader(TensorDataset(t, torch.zeros(len(t))), batch_size=7, shuffle=True)
    return distiller


class Stop(Exception):
    pass


@pytest.mark.parametrize("joint", [False, True])
def test_fit_cycles_the_target_and_resumes_in_the_middle_of_both(joint: bool, tmp_path: Path) -> None:
    whole = fitting(tmp_path / "whole", epochs=3, joint_forward=joint)
    expected = whole.fit()
    assert [list(record["metrics"]) for record in whole.history] == [["SND"]] * 3
    assert whole.best_score == max(record["metrics"]["SND"] for record in whole.history)
    assert [set(record["losses"]) for record in whole.history] == [{"CE", "DANN", "DANN.domain_accuracy", "total"}] * 3

    stopped = fitting(tmp_path / "parts", epochs=3, joint_forward=joint)

    def stop(distiller: Distillation) -> None:
        if distiller.step == 9:
            raise Stop

    stopped.register_hook("on_step_begin", stop)
    with pytest.raises(Stop):
        stopped.fit()
    resumed = fitting(tmp_path / "parts", epochs=3, resume=True, joint_forward=joint)
    found = resumed.fit()
    assert equal(found, expected)
    histories = [[{**record, "seconds": 0} for record in each.history] for each in (resumed, whole)]
    assert histories[0] == histories[1]
