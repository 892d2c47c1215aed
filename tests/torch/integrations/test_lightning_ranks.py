"""Two processes under Lightning: replicas and sharded students, their checkpoints, and what every rank draws."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.torch.integrations.lightning_parts import Hidden
from tests.torch.integrations.lightning_ranks import data_parallel, sharded
from tests.torch.training_runs import process


def both(function: Any, folder: Path) -> list[dict[str, Any]]:
    """What both processes found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [process(function, folder, rank, port) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(200)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def equal(one: Any, other: Any) -> bool:
    """Whether two states have the same parameters, bit for bit; statistics are each rank's own until the next step."""
    names = [name for name in one if "running" not in name]
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in names)


def goes_on(first: dict[str, Any], resumed: dict[str, Any]) -> bool:
    return equal(first["state"], resumed["state"]) and all(map(torch.equal, first["ours"], resumed["ours"]))


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: Any) -> list[dict[str, Any]]:
    return both(data_parallel, tmp_path_factory.mktemp("replicas"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: Any) -> list[dict[str, Any]]:
    return both(sharded, tmp_path_factory.mktemp("shards"))


def test_replicas_have_equal_weights_and_equal_matchers(replicas: Any) -> None:
    for run in ("matchers", "dropout", "unused", "clipped", "resumed"):
        mine, theirs = (rank[run] for rank in replicas)
        assert equal(mine["state"], theirs["state"]), run
        assert len(mine["ours"]) == (0 if run == "dropout" else 2)
        assert all(map(torch.equal, mine["ours"], theirs["ours"])), run
        assert mine["losses"] != theirs["losses"]  # each has its own half of the data


def test_with_weights_of_zero_replicas_are_those_of_the_trainer_alone(replicas: Any) -> None:
    for rank in replicas:
        assert all(torch.equal(value, rank["without"]["state"][name]) for name, value in rank["alone"]["state"].items())


def test_a_resumed_run_of_replicas_has_the_same_weights_with_the_dropout_of_every_rank(replicas: Any) -> None:
    for rank in replicas:
        assert goes_on(rank["matchers"], rank["resumed"])
        assert goes_on(rank["dropout"], rank["dropped again"])
    mine, _ = replicas
    assert mine["resumed"]["losses"] == mine["matchers"]["losses"]


def test_what_is_logged_is_the_mean_over_the_ranks(replicas: Any) -> None:
    mine, theirs = (rank["matchers"] for rank in replicas)
    assert mine["logged"] == theirs["logged"]
    for name, value in mine["losses"][-1].items():
        mean = (value + theirs["losses"][-1][name]) / 2
        assert mine["logged"][f"kd/{name}_epoch"] == pytest.approx(mean, rel=1e-5)


def test_sharded_students_train_like_replicas(shards: Any) -> None:
    for rank in shards:
        for one, other in (
            ("sharded", "plain"),
            ("clipped", "clipped plain"),
            ("whole", "plain"),
            ("grouped", "plain"),
        ):
            for name, value in rank[one]["state"].items():
                torch.testing.assert_close(value, rank[other]["state"][name], rtol=0, atol=1e-6)
            for value, expected in zip(rank[one]["ours"], rank[other]["ours"], strict=True):
                torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    mine, theirs = shards
    assert all(map(torch.equal, mine["sharded"]["ours"], theirs["sharded"]["ours"]))
    assert not equal(mine["clipped"]["state"], mine["sharded"]["state"])


def test_sharded_students_resume_from_sharded_and_from_whole_checkpoints(shards: Any) -> None:
    for rank in shards:
        assert goes_on(rank["sharded"], rank["resumed"])
        assert goes_on(rank["grouped"], rank["regrouped"])
        assert goes_on(rank["whole"], rank["resumed whole"])


def test_frozen_layers_need_replicas_that_expect_them(replicas: Any) -> None:
    for rank in replicas:
        assert rank["ddp"]["error"] == (
            "finetune.freeze takes parameters of the student 'model' out of training, and DistributedDataParallel "
            "waits for the gradients of all that it was made with: use strategy='ddp_find_unused_parameters_true'"
        )
        state = rank["ddp_find_unused_parameters_true"]["state"]
        assert torch.equal(state["model.first.weight"], Hidden().state_dict()["model.first.weight"])
        assert not torch.equal(state["model.head.weight"], Hidden().state_dict()["model.head.weight"])
