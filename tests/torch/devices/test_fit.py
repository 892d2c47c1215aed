"""`fit()` in two processes: with DistributedDataParallel and in shards, killed and started again, and by torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kdhooks import Distillation
from kdhooks.torch.checkpoint import CheckpointFile
from tests.torch.devices.parts import in_shards, on_ranks, said, student, teacher
from tests.torch.hidden_models import Net
from tests.torch.small_models import batches
from tests.torch.test_ranks import free_port
from tests.torch.training_runs import process

PAIRS = {
    "layer_mappings": [["first", "first"], ["block", "1", "layers.0", "0"]],
    "loss_weights": [1.0, 0.5],
    "add_origin_loss": True,
}


def run(folder: Path, strategy: str, *, size: int = 2, resume: bool = False, **train: Any) -> Distillation:
    """Two epochs of eight batches of eight rows over all processes, with matchers, clipping and accumulation."""
    dataset = {"dummy": {"shape": [6], "size": 64, "classes": 4}}
    given: dict[str, Any] = {
        "end_epoch": 2,
        "strategy": strategy,
        "criterion": {"IntermediateLayersKnowledgeDistillationLoss": PAIRS},
        "optimizer": {"AdamW": {"learning_rate": 0.01}},
        "gradient_accumulation": 2,
        "gradient_clipping": 0.5,
        "checkpoint_steps": 2,
        "dataloader": {"batch_size": 8 // size, "shuffle": True, "dataset": dataset},
    }
    tuning = {"workspace": {"path": str(folder), "resume": resume}, "random_seed": 5}
    sharded = {"sharded": strategy == "fsdp2"}
    conf = {"distillation": {"train": given | train, "teacher": sharded}, "tuning": tuning}
    distiller = Distillation(conf, student_model=student(), teacher_model=teacher())
    distiller.eval_dataloader = batches(2)
    return distiller


def end(distiller: Distillation) -> Any:
    """Train; the student's weights, matchers, scores and losses, and whether it is the user's own and plain."""
    own, weight = distiller.student_model, distiller.student_model.first.weight
    matchers: list[Any] = []
    hook = distiller.register_hook("on_epoch_end", lambda one: matchers.append([p.detach() for p in one.parameters()]))
    trained = distiller.fit()
    hook.remove()
    plain = [trained is own, type(own) is Net, own.first.weight is weight, distiller.student_model is own]
    plain.append(not any(module._forward_hooks or module._forward_pre_hooks for module in own.modules()))
    history = [[record["score"], record["losses"]["total"]] for record in distiller.history]
    return [own.state_dict(), matchers[-1], history, plain]


# ---- what the ranks do -----------------------------------------------------------------------------


def fits(rank: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for strategy in ("ddp", "fsdp2"):
        found[strategy] = end(run(folder / strategy, strategy))
    found["halves"] = end(run(folder / "halves", "fsdp2", precision="fp16", end_epoch=1))[0]
    own = run(folder / "own", "auto")  # a student that its user has sharded
    in_shards(own.student_model)
    trained = own.fit()
    found["own"] = {name: value.full_tensor() for name, value in trained.state_dict().items()}
    found["mistakes"] = mistakes(rank, folder)
    return found


def mistakes(rank: int, folder: Path) -> list[str]:
    found = [said(run(folder / "other", "fsdp2", end_epoch=2 + rank).fit)]
    made = run(folder / "other", "fsdp2")
    made.optimizer = torch.optim.SGD(made.student_model.parameters(), lr=0.1)
    found.append(said(made.fit))
    found.append(said(run(folder / "other", "fsdp2", optimizer={"LBFGS": {}}).fit))
    shares = run(folder / "other", "fsdp2")
    shares.teacher_model.head = shares.student_model.head
    found.append(said(shares.fit))
    return found


def killed(folder: Path, strategy: str, rank: int, port: int, kill: bool) -> None:
    """One of two processes of a launcher; the second is killed in its second epoch if asked for."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distiller = run(folder, strategy, resume=True)
    if kill and rank == 1:
        distiller.register_hook("on_step_begin", lambda one: one.step == 13 and os.kill(os.getpid(), signal.SIGKILL))
    torch.save(end(distiller), folder / f"rank{rank}.pt")


# ---- what is expected of it ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fits")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[Any]:
    return on_ranks(fits, folder)


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_fit_what_one_process_fits(strategy: str, ranks: list[Any], folder: Path, tmp_path: Path) -> None:
    (weights, matchers, history, plain), (twin, theirs, other, _) = (found[strategy] for found in ranks)
    alone, own, expected, _ = end(run(tmp_path, "auto", size=1))
    same([weights, matchers], [twin, theirs])
    assert plain == [True] * 5
    for one, two, three in zip(history, other, expected, strict=True):
        assert one[0] == two[0] == three[0]
        assert (one[1] + two[1]) / 2 == pytest.approx(three[1], rel=1e-5)
    torch.testing.assert_close(weights, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(matchers, own, rtol=1e-4, atol=1e-5)


def test_checkpoints_are_whole_and_of_no_strategy(
    ranks: list[Any], folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (CheckpointFile(folder / strategy / "checkpoint.pt").read() for strategy in ("ddp", "fsdp2"))
    assert one["position"] == other["position"] == {"epoch": 2, "batch": 0, "step": 16}
    torch.testing.assert_close(one["student"], other["student"], rtol=1e-4, atol=1e-5)
    slots = (content["optimizer"]["state"]["state"] for content in (one, other))
    torch.testing.assert_close(*slots, rtol=1e-4, atol=1e-5)
    assert one["optimizer"]["state"]["param_groups"] == other["optimizer"]["state"]["param_groups"]
    # a third epoch in one process, of what two began
    longer = run(folder / "fsdp2", "auto", size=1, resume=True, end_epoch=3)
    longer.conf["tuning.workspace.resume"] = str(folder / "fsdp2")
    longer.conf["tuning.workspace.path"] = str(tmp_path)
    with caplog.at_level("WARNING", logger="kdhooks"):
        longer.fit()
    assert [record.getMessage() for record in caplog.records] == [
        f"the checkpoint {folder}/fsdp2/checkpoint.pt was written by 2 processes, and this run has 1: the next epoch's "
        "batches have other rows, unless batch_size times processes is the same"
    ]
    assert [record["epoch"] for record in longer.history] == [0, 1, 2]


def test_halves_and_a_student_in_the_users_shards(ranks: list[Any]) -> None:
    same(ranks[0]["halves"], ranks[1]["halves"])
    assert not torch.equal(ranks[0]["halves"]["head.bias"], student().head.bias)
    same(ranks[0]["own"], ranks[1]["own"])
    torch.testing.assert_close(ranks[0]["own"], dict(ranks[0]["fsdp2"][0]), rtol=1e-4, atol=1e-5)


def test_mistakes(ranks: list[Any]) -> None:
    expected = [
        "UsageError: the ranks that train together have different settings: distillation.train.end_epoch is 2 on rank "
        "0 and 3 on rank 1. They would wait for each other for ever: give all the same",
        "UsageError: distiller.optimizer holds the parameters of the whole student, and strategy: fsdp2 trains a copy "
        "that is shared out. Name the optimizer in distillation.train.optimizer, or call fully_shard on the student "
        "yourself, before you make the optimizer",
        "ConfigError: <dict>: distillation.train.optimizer.LBFGS: LBFGS views all weights as one vector, and strategy: "
        "fsdp2 shares them out",
        "ModelError: the teacher Wide has modules or weights that are the student's too, and strategy: fsdp2 trains a "
        "copy of the student. Write strategy: ddp, or set a teacher of its own",
    ]
    for found in ranks:
        assert found["mistakes"] == expected


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_killed_rank_costs_nothing(strategy: str, ranks: list[Any], tmp_path: Path) -> None:
    """The other rank ends by itself, and both go on from the last checkpoint, bit for bit."""
    codes = []
    for kill in (True, False):
        port = free_port()
        started = [process(killed, tmp_path, strategy, rank, port, kill) for rank in (0, 1)]
        for one in started:
            one.start()
        for one in started:
            one.join(120)
        codes.append([one.exitcode for one in started])
        if kill:
            position = CheckpointFile(tmp_path / "checkpoint.pt").read()["position"]
            assert position == {"epoch": 1, "batch": 4, "step": 12}
    assert codes == [[1, -signal.SIGKILL], [0, 0]]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        same(found[:2], ranks[rank][strategy][:2])
        assert found[2][0] == ranks[0][strategy][2][0] and found[3] == [True] * 5


SCRIPT = """
import os, signal, sys, warnings
from pathlib import Path
import torch
from tests.torch.devices.test_fit import end, run

warnings.simplefilter("ignore")
torch.set_num_threads(1)
folder, mark = Path(sys.argv[1]), Path(sys.argv[1]) / "killed"
rank = int(os.environ["RANK"])
distiller = run(folder, "fsdp2", resume=True)

def kill(one):
    if rank == 1 and one.step == 13 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

distiller.register_hook("on_step_begin", kill)
torch.save(end(distiller), folder / f"rank{rank}.pt")
"""


def test_torchrun_starts_a_killed_job_again(ranks: list[Any], tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    command += ["--standalone", "--monitor-interval", "0.1", str(script), str(tmp_path)]
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "killed").exists()
    for rank in (0, 1):
        same(torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)[:2], ranks[rank]["fsdp2"][:2])
