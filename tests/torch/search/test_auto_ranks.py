"""Two processes that train each candidate together: one proposes and records, both train, both end alike."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from kdhooks.errors import UsageError
from kdhooks.torch.backend import BACKEND
from tests.torch.search.searches import agent, batches
from tests.torch.test_ranks import free_port
from tests.torch.training_runs import process


def both(function: Any, folder: Path) -> list[Any]:
    """Run a function in two processes; what each has written."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    started = [process(function, folder, rank, port) for rank in (0, 1)]
    for one in started:
        one.start()
    for one in started:
        one.join(120)
    assert [one.exitcode for one in started] == [0, 0]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def join(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)


def write(folder: Path, rank: int, found: Any) -> None:
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def talk(folder: Path, rank: int, port: int) -> None:
    join(rank, port)
    with BACKEND.together() as (mine, size):
        heard = BACKEND.broadcast({"from": rank, "values": [1.5, None, "ü", float("inf")]})
        empty = BACKEND.broadcast(None if rank == 0 else 5)
    write(folder, rank, [mine, size, heard, empty])


def test_what_rank_zero_says_is_heard_by_all(tmp_path: Path) -> None:
    said = {"from": 0, "values": [1.5, None, "ü", float("inf")]}
    assert both(talk, tmp_path) == [[0, 2, said, None], [1, 2, said, None]]


def test_alone_there_is_nothing_to_say() -> None:
    with BACKEND.together() as group:
        assert group == (0, 1)
        value = object()
        assert BACKEND.broadcast(value) is value


def search(folder: Path, rank: int, port: int) -> None:
    """A search with DDP in the user's own loop, a candidate that fails, and one that breaks a limit."""
    join(rank, port)
    made = agent(folder, max_trials=6, search_algorithm="Grid", constraints=["accuracy >= 0.35"])
    builder, trained = made.model_builder, []

    def build(arch: dict[str, Any]) -> Any:
        if arch["width"] == 3:
            raise ValueError("not this one")
        return builder(arch)

    def train(model: Any) -> None:
        trained.append([model.hidden.out_features, float(model.hidden.weight.sum())])
        wrapped = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for inputs, target in batches()[rank::2]:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(wrapped(inputs), target).backward()
            optimizer.step()

    def judge(model: Any) -> float:
        return model.hidden.out_features / 10 + rank  # of rank 1 nothing is heard

    made.model_builder, made.train_func, made.eval_func = build, train, judge
    best = made.search_loop()
    candidates = [[one.arch["width"], one.state, one.metrics, one.worker] for one in made.search_result.candidates]
    best_weights = made.best_model().hidden.weight.tolist()
    write(folder, rank, {"best": best, "candidates": candidates, "trained": trained, "weights": best_weights})


def test_both_ranks_train_every_candidate_and_know_the_same(tmp_path: Path) -> None:
    first, second = both(search, tmp_path)
    assert first == second
    assert first["best"] == {"width": 8}
    assert [(width, state) for width, state, _, _ in first["candidates"]] == [
        (2, "infeasible"),
        (3, "failed"),
        (4, "complete"),
        (5, "complete"),
        (6, "complete"),
        (8, "complete"),
    ]
    assert [one[2]["accuracy"] for one in first["candidates"] if one[1] == "complete"] == [0.4, 0.5, 0.6, 0.8]
    assert [width for width, _ in first["trained"]] == [2, 4, 5, 6, 8]


def fails(folder: Path, rank: int, port: int) -> None:
    join(rank, port)
    made = agent(folder, storage=f"journal:{__file__}/search.log")
    try:
        made.search_loop()
    except Exception as error:
        write(folder, rank, str(error))


def test_what_ends_the_search_on_rank_zero_ends_it_on_both(tmp_path: Path) -> None:
    first, second = both(fails, tmp_path)
    assert first == second
    assert first == (
        f"<dict>: auto_distillation.search.storage: the storage journal:{__file__}/search.log can't be opened: "
        "File exists"
    )


def stages(folder: Path, rank: int, port: int) -> None:
    """The configuration's own stages, whose loop wraps the student."""
    join(rank, port)
    os.environ.pop("WORLD_SIZE", None)
    made = agent(folder, max_trials=2)
    data = {"batch_size": 4, "distributed": True, "dataset": {"dummy": {"shape": [6], "size": 32, "classes": 3}}}
    made.config["distillation.train.dataloader"] = data
    made.train_dataloader = None
    made.search_loop()
    write(folder, rank, [[dict(one.arch), one.state, one.reason, one.metrics] for one in made.search_result.candidates])


def test_stages_of_the_configuration_train_on_all_ranks(tmp_path: Path) -> None:
    first, second = both(stages, tmp_path)
    assert first == second
    assert [one[1] for one in first] == ["complete", "complete"]


def test_a_rank_that_hears_of_a_mistake_says_the_same() -> None:
    from kdhooks.search.trials.together import Together

    class Deaf:
        def broadcast(self, value: Any) -> Any:
            return {"error": "the storage is gone"}

    with pytest.raises(UsageError) as caught:
        Together(1, 2, Deaf()).led(lambda: 1)  # type: ignore[arg-type]
    assert str(caught.value) == "the storage is gone"
