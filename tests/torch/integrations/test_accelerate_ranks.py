"""`Distilled` in two processes: DDP and FSDP2, against one process with the same global batch, and resumed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from kdhooks.integrations.accelerate import Distilled
from tests.torch.hidden_models import Net
from tests.torch.integrations.accelerated_script import distillation, loader
from tests.torch.small_models import made
from tests.torch.training_runs import process

KINDS = ("ddp", "fsdp")
STEPS, EPOCH, SAVED = 30, 5, 12


def an_accelerator(kind: str) -> Accelerator:
    """One of a single process, of DDP, or of FSDP2, which Accelerate itself leaves to machines with accelerators."""
    from accelerate.state import AcceleratorState, DistributedType, GradientState, PartialState
    from accelerate.utils import FullyShardedDataParallelPlugin

    AcceleratorState._reset_state(reset_partial_state=False)
    GradientState._reset_state()
    if kind != "fsdp":
        return Accelerator(cpu=True)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="size_based_wrap", min_num_params=10, state_dict_type="SHARDED_STATE_DICT"
    )
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    return accelerator


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Biases without decay, in a group of their own, as most scripts have it."""
    named = list(model.named_parameters())
    return [
        {"params": [one for name, one in named if "bias" not in name], "weight_decay": 0.1},
        {"params": [one for name, one in named if "bias" in name], "weight_decay": 0.0},
    ]


def run(accelerator: Accelerator, folder: Path, *, batch_size: int, resume: bool = False) -> dict[str, Any]:
    """Thirty steps, a checkpoint on the way; what they found, as plain tensors."""
    student = made(1, Net)
    optimizer = torch.optim.AdamW(groups(student), lr=0.01)
    model, optimizer, data = accelerator.prepare(student, optimizer, loader(batch_size, shuffle=False))
    losses, done = [], 0
    with Distilled(accelerator, distillation()) as distilled:
        if resume:
            accelerator.load_state(str(folder))
            done = distilled.steps
        norms = []
        while done < STEPS:
            left = done % EPOCH
            for x, y in accelerator.skip_first_batches(data, left) if left else data:
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)
                norms.append(accelerator.clip_grad_norm_(model.parameters(), 0.5))
                distilled.clip_grad_norm_(10.0)
                optimizer.step()
                optimizer.zero_grad()
                done += 1
                losses.append(list(distilled.losses.values()))
                if done == SAVED and not resume:
                    accelerator.save_state(str(folder))
        found = {
            "losses": torch.tensor(losses),
            "matchers": [parameter.detach().clone() for parameter in distilled.parameters()],
            "steps": distilled.steps,
        }
    weights = accelerator.get_state_dict(model) if accelerator.is_main_process or accelerator.is_fsdp2 else {}
    clean = accelerator.unwrap_model(model)
    found |= {
        "weights": dict(weights),
        "hooks": [len(one._forward_hooks) for one in clean.modules() if not hasattr(one, "set_reshard_after_forward")],
        "guests": sum(len(group["params"]) for group in optimizer.param_groups),
        "epochs": [record["epoch"] for record in distilled.distiller.history],
        "sharded": type(next(model.parameters())).__name__,
    }
    return found


def one_of_two(folder: Path, rank: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for kind in KINDS:
        for resume in (False, True):
            found = run(an_accelerator(kind), folder / kind, batch_size=4, resume=resume)
            torch.save(found, folder / f"{kind} {'resumed ' if resume else ''}{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What two processes and one found, by kind and rank."""
    from accelerate.state import AcceleratorState, GradientState

    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [process(one_of_two, folder, rank, port) for rank in (0, 1)]
    for one in started:
        one.start()
    AcceleratorState._reset_state(reset_partial_state=True)
    found = {"alone": run(an_accelerator("alone"), folder / "alone", batch_size=8)}
    for one in started:
        one.join(120)
    assert [one.exitcode for one in started] == [0, 0]
    for file in folder.glob("*.pt"):
        found[file.stem] = torch.load(file, weights_only=True)
    found["files"] = {kind: sorted(one.name for one in (folder / kind).glob("kdhooks*")) for kind in KINDS}
    yield found
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one_with_the_same_global_batch(ranks: dict[str, Any], kind: str) -> None:
    alone, one, other = ranks["alone"], ranks[f"{kind} 0"], ranks[f"{kind} 1"]
    assert one["sharded"] == other["sharded"] == ("DTensor" if kind == "fsdp" else "Parameter")
    mean = (one["losses"] + other["losses"]) / 2
    assert mean.shape == alone["losses"].shape == (STEPS, 5)
    torch.testing.assert_close(mean, alone["losses"], rtol=1e-5, atol=1e-5)
    assert list(one["weights"]) == list(alone["weights"])
    for name, value in alone["weights"].items():
        torch.testing.assert_close(one["weights"][name], value, rtol=1e-4, atol=1e-4)
    assert len(one["matchers"]) == 2 and all(map(torch.equal, one["matchers"], other["matchers"]))
    for mine, theirs in zip(one["matchers"], alone["matchers"], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_job_ends_with_the_same_weights(ranks: dict[str, Any], kind: str) -> None:
    assert ranks["files"][kind] == ["kdhooks.pt", "kdhooks_1.pt"]
    for rank in (0, 1):
        whole, resumed = ranks[f"{kind} {rank}"], ranks[f"{kind} resumed {rank}"]
        assert resumed["steps"] == whole["steps"] == STEPS and resumed["epochs"] == whole["epochs"] == list(range(6))
        assert torch.equal(resumed["losses"], whole["losses"][SAVED:])
        assert all(map(torch.equal, resumed["matchers"], whole["matchers"]))
        assert all(torch.equal(value, whole["weights"][name]) for name, value in resumed["weights"].items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_leaves_a_clean_student(ranks: dict[str, Any], kind: str) -> None:
    for rank in (0, 1):
        assert not any(ranks[f"{kind} {rank}"]["hooks"]) and ranks[f"{kind} {rank}"]["guests"] == 6
