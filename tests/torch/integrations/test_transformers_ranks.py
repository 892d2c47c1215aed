"""A `Trainer` in two processes, as `torchrun` starts them, against one process with the same global batch."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.torch.integrations.test_transformers_state import tensors
from tests.torch.integrations.trainer_parts import callback, llama, losses, same, trainer, weights
from tests.torch.training_runs import process

PAIRS = [["model.layers.0", "model.layers.1"], ["model.norm"]]
STEPS, SAVED = 6, 3


def run(folder: Path, batch_size: int, resume: Any = None, **options: Any) -> dict[str, Any]:
    """Some steps with accumulation; what they found, as plain data and tensors."""
    back = callback("causal", pairs=PAIRS)
    made = trainer(
        *(llama(1), folder, "causal", back),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=2,
        max_steps=STEPS,
        train_sampling_strategy="sequential",
        optim="sgd",
        learning_rate=0.3,
        max_grad_norm=0.0,
        save_strategy="steps",
        save_steps=SAVED,
        **options,
    )
    made.train(resume_from_checkpoint=resume)
    names = ("loss", "kd_CE", "kd_KL", "kd_MSE[model.layers.0]", "kd_MSE[model.norm]")
    matchers = {str(index): one for index, one in enumerate(tensors(back.distiller.state_dict()["criteria"]))}
    return {
        "student": weights(made.model),
        "matchers": matchers,
        "losses": {name: losses(made, name) for name in names},
    }


def one_of_two(folder: Path, rank: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.save(run(folder / "both", 1), folder / f"whole{rank}.pt")
    torch.save(run(folder / "again", 1, folder / "both" / f"checkpoint-{SAVED}"), folder / f"resumed{rank}.pt")
    torch.save(run(folder / "apart", 1, average_tokens_across_devices=False), folder / f"apart{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [process(one_of_two, folder, rank, port) for rank in (0, 1)]
    for each in started:
        each.start()
    for each in started:
        each.join(200)
    assert [each.exitcode for each in started] == [0, 0]
    return folder


def found(folder: Path, name: str) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{name}{rank}.pt", weights_only=True) for rank in (0, 1)]


def close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> bool:
    return all(torch.allclose(value, other[name], rtol=0, atol=tolerance) for name, value in one.items())


@pytest.mark.parametrize("name", ["whole", "resumed", "apart"])
def test_ranks_end_with_the_same_weights_and_matchers(ranks: Path, name: str) -> None:
    first, second = found(ranks, name)
    assert same(first["student"], second["student"])
    assert len(first["matchers"]) >= 4 and same(first["matchers"], second["matchers"])
    assert first["losses"] == second["losses"]


def test_two_processes_learn_what_one_learns_with_the_same_batch(ranks: Path, tmp_path: Path) -> None:
    alone, (both, _) = run(tmp_path, 2), found(ranks, "whole")
    for name, values in alone["losses"].items():
        assert both["losses"][name] == pytest.approx(values, rel=1e-5), name
    assert close(alone["student"], both["student"], 1e-5)
    assert close(alone["matchers"], both["matchers"], 1e-5)


def test_a_restarted_job_ends_in_the_same_bits(ranks: Path) -> None:
    whole, resumed = found(ranks, "whole")[0], found(ranks, "resumed")[0]
    assert same(whole["student"], resumed["student"]) and same(whole["matchers"], resumed["matchers"])
    assert whole["losses"] == resumed["losses"]


def test_without_an_average_over_processes_each_counts_its_own_tokens(ranks: Path) -> None:
    whole, apart = found(ranks, "whole")[0], found(ranks, "apart")[0]
    assert apart["losses"]["kd_KL"] != whole["losses"]["kd_KL"]
    assert apart["losses"]["kd_KL"] == pytest.approx(whole["losses"]["kd_KL"], rel=0.2)
