"""Models under `fully_shard`: the teacher ends early, matchers stand beside sharded parameters."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from kdhooks.speed import Choice
from tests.torch.hidden_models import Net, distillation, train, weights
from tests.torch.small_models import made
from tests.torch.teacher_parts import attached
from tests.torch.test_teacher_taps import Deep


@pytest.fixture
def group() -> Iterator[None]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded(model: nn.Module) -> Any:
    mesh = init_device_mesh("cpu", (1,))
    for module in list(model.modules())[1:]:
        if isinstance(module, nn.Linear):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, of gloo and of meshes
def test_sharded_models_train_like_plain_ones(group: None) -> None:
    found = []
    for shard in (lambda model: model, sharded):
        student, teacher = shard(made(1, Net)), shard(made(2, Deep))
        optimizer = torch.optim.AdamW(student.parameters(), lr=0.01, foreach=True)
        options = {"layer_mappings": [["first", "layers.4"]], "loss_weights": [1.0]}
        with distillation(student, teacher, **options) as distiller:
            losses = train(distiller, student, optimizer, steps=3)
            teacher.ran.clear()
            losses += train(distiller, student, optimizer, steps=2, first=3)
            assert len(teacher.ran) == 10
            state = optimizer.state_dict()
            assert state["param_groups"][0]["foreach"] is True
            optimizer.load_state_dict(state)
            losses += train(distiller, student, optimizer, steps=2)
            found.append((losses, weights(distiller)))
        assert optimizer.param_groups[0]["foreach"] is True and len(optimizer.param_groups[0]["params"]) == 6
        with torch.no_grad():
            teacher(torch.zeros(2, 6))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, of gloo and of meshes
@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_a_sharded_teacher_runs_under_plain_autocast(
    precision: Any, group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdhooks.torch.teacher_choice._cpu_computes_bf16", lambda: True)
    plain, model, x = made(1, Deep).eval(), sharded(made(1, Deep)), torch.randn(3, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = plain(x)
    with attached(model, precision=precision) as teacher:
        output = teacher(x)
        assert teacher.choice == Choice("bf16")
        assert len(model.ran) == 2 * len(model.layers)  # the step's own, and one in full precision to compare with
        assert teacher._way is not None and teacher._way.copies is None
    assert torch.equal(output, expected)
