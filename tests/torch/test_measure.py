"""What a model costs in PyTorch: numbers that are known, and a model that is afterwards as it was."""

from __future__ import annotations

import copy
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import profile

from kdhooks.config.search_settings import MEASURED
from kdhooks.errors import ModelError, UsageError
from kdhooks.measurement import Measured
from kdhooks.search import measure
from kdhooks.torch.weights import write_weights
from tests.torch.small_models import Classifier, Counting


def value(model: nn.Module, inputs: Any, metric: str, **options: Any) -> float:
    return measure(model, inputs, [metric], **options)[metric].value


def test_all_metrics_of_a_small_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 3))
    costs = measure(model, torch.zeros(2, 20), batch_size=8)
    assert list(costs) == list(MEASURED)
    assert costs["parameters"] == Measured.exact(20 * 50 + 50 + 50 * 3 + 3)
    assert costs["macs"] == Measured.exact(20 * 50 + 50 * 3)
    assert costs["peak_memory"] == Measured.exact(2 * 8 * 50 * 4)
    write_weights(model, tmp_path / "model.safetensors")
    assert costs["file_size"] == Measured.exact((tmp_path / "model.safetensors").stat().st_size)
    assert 0 < costs["latency"].low <= costs["latency"].value <= costs["latency"].high < 1
    assert costs["throughput"] == costs["latency"].rate(8)


def test_metrics_come_in_the_order_of_their_names_and_once() -> None:
    costs = measure(nn.Linear(2, 2), None, ["file_size", "parameters", "file_size"])
    assert list(costs) == ["file_size", "parameters"]
    assert list(measure(nn.Linear(2, 2), metrics="parameters")) == ["parameters"]


def test_shared_parameters_count_once_and_buffers_do_not() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.BatchNorm1d(4), shared)
    model[1].weight.requires_grad_(False)
    assert value(model, None, "parameters") == 20 + 8


def test_twice_the_depth_takes_twice_as_long() -> None:
    def deep(layers: int) -> nn.Module:
        return nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(layers)))

    x = torch.zeros(64, 1024)
    found = [[value(deep(layers), x, "latency", batch_size=64, repeats=10) for layers in (4, 8)] for _ in range(3)]
    short, long = (min(times) for times in zip(*found, strict=True))  # other work on the machine only adds to a time
    assert 1.4 < long / short < 2.8
    assert value(deep(8), x, "macs") == 2 * value(deep(4), x, "macs")


def test_delays_in_some_of_the_runs_do_not_move_the_latency() -> None:
    class Disturbed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.runs = 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            time.sleep(0.1 if self.runs % 3 == 0 else 0.005)
            return x

    latency = measure(Disturbed(), torch.zeros(1, 1), ["latency"])["latency"]
    assert 0.005 <= latency.low <= latency.value < 0.03 and latency.high > 0.09


def test_the_model_runs_as_often_as_was_said() -> None:
    model = Counting(nn.Linear(2, 2))
    measure(model, torch.zeros(1, 2), ["latency", "throughput"], warm_up=2, repeats=3)
    assert model.calls == 1 + 2 + 3


# ---- memory --------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """Layers one after the other; what a layer returned is let go of as soon as the next one has run."""

    def __init__(self, *layers: nn.Module, keep: bool = False) -> None:
        super().__init__()
        self.layers, self.keep = nn.ModuleList(layers), keep

    def forward(self, x: Tensor) -> Any:
        kept = [x]
        for layer in self.layers:
            kept.append(layer(kept[-1]))
            if not self.keep:
                del kept[0]
        return kept[-1]


@pytest.mark.parametrize(
    ("model", "floats_a_row"),
    [
        (Layers(nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 5)), 200),
        (Layers(nn.Linear(10, 100), nn.ReLU(inplace=True), nn.Linear(100, 5)), 105),
        (Layers(nn.Linear(10, 100), nn.Linear(100, 40), nn.Linear(40, 300)), 340),
        (Layers(nn.Linear(10, 100), nn.Linear(100, 40), nn.Linear(40, 300), keep=True), 440),
        (Layers(nn.Identity()), 0),
    ],
)
@pytest.mark.parametrize("rows", [1, 16])
def test_peak_memory_is_what_layers_hold_at_once(model: nn.Module, floats_a_row: int, rows: int) -> None:
    assert value(model, torch.zeros(3, 10), "peak_memory", batch_size=rows) == 4 * rows * floats_a_row


def test_a_table_that_the_first_forward_makes_is_no_peak() -> None:
    assert value(Tabled(), torch.zeros(1, 6), "peak_memory") == 4 * 6


def test_temporaries_inside_of_an_operation_count() -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.exp().exp().sum()

    assert value(Sorted(), torch.zeros(1, 1000), "peak_memory") >= 8000


def test_a_profiler_that_runs_already_is_in_the_way() -> None:
    with profile() as outer, pytest.raises(UsageError) as caught:
        value(nn.Linear(2, 2), torch.zeros(1, 2), "peak_memory")
    assert str(caught.value) == (
        "peak_memory needs torch's profiler, which can't run twice at once: end the other one first"
    )
    assert len(outer.events())


# ---- afterwards ----------------------------------------------------------------------------------------


class Tabled(nn.Module):
    """Keeps a table that its first forward makes, as rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.table = nn.Parameter(torch.ones(1)), None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(x.shape[1], dtype=torch.float32)
        return x * self.weight * self.table if self.weight.requires_grad and torch.is_grad_enabled() else x * self.table


class Restless(nn.Module):
    """Draws numbers and counts in a buffer, in whatever mode it is."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        noise = torch.rand(1).item() + random.random() + np.random.rand()
        return self.drop(self.norm(x)) + noise


def state_of(model: nn.Module) -> Any:
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad for parameter in model.parameters()],
        copy.deepcopy({name: tensor.tolist() for name, tensor in model.state_dict().items()}),
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
    )


def test_model_and_generators_are_as_they_were() -> None:
    model = Restless().train()
    model.drop.eval()
    model.norm.bias.requires_grad_(False)
    before, buffer = state_of(model), model.count
    measure(model, torch.ones(4, 3), batch_size=4, threads=2)
    assert state_of(model) == before and model.count is buffer
    assert not torch.nn.modules.module._global_forward_hooks


def test_threads_are_set_meanwhile() -> None:
    class Threads(nn.Module):
        seen = 0

        def forward(self, x: Tensor) -> Tensor:
            Threads.seen = torch.get_num_threads()
            return x

    before = torch.get_num_threads()
    measure(Threads(), torch.zeros(1), ["latency"], threads=before + 1)
    assert Threads.seen == before + 1 and torch.get_num_threads() == before


def test_a_model_that_keeps_a_tensor_of_its_forward_can_be_trained_afterwards() -> None:
    model = Tabled()
    measure(model, torch.ones(1, 6))
    model(torch.ones(2, 6)).sum().backward()
    assert model.weight.grad.item() == 30.0


def test_a_graph_that_was_there_before_can_still_be_followed() -> None:
    model = Classifier()
    loss = model(torch.ones(4, 6)).sum()
    measure(model, torch.ones(4, 6), batch_size=4)
    loss.backward()


def test_a_model_that_fails_is_as_it_was_too() -> None:
    model = Classifier().train()
    before = state_of(model)
    with pytest.raises(ModelError) as caught:
        measure(model, torch.ones(2, 5), batch_size=2)
    assert str(caught.value) == (
        "Classifier can't be measured: it failed on inputs [2, 5]: RuntimeError: mat1 and mat2 shapes cannot be "
        "multiplied (2x5 and 6x8)"
    )
    assert state_of(model) == before
