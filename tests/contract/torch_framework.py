"""PyTorch, as the rules of the contract see it. Nothing is imported before a test asks for it."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

Array = np.ndarray[Any, Any]
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "bincount")
"""Operations whose result has to be on the host: ``.item()``, a tensor as a bool, shapes that depend on values."""


class TorchFramework:
    """PyTorch on the CPU."""

    name, traced, argument = "pytorch", False, "input"

    def classifier(self, seed: int, width: int = 8, *, classes: int = 4, dropout: float = 0.25, **names: str) -> Any:
        import torch
        from torch import nn

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = {
                names.get("body", "body"): nn.Linear(6, width),
                "norm": nn.BatchNorm1d(width),
                "relu": nn.ReLU(),
                "drop": nn.Dropout(dropout),
                "head": nn.Linear(width, classes),
            }
            model = nn.Sequential()
            for name, layer in layers.items():
                model.add_module(name, layer)
        return model

    def two_inputs(self, seed: int) -> Any:
        import torch
        from torch import nn

        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.other = nn.Linear(6, 4), nn.Linear(3, 4)

            def forward(self, first: Any, second: Any) -> Any:
                return self.one(first) + self.other(second)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Two()

    def infinite(self) -> Any:
        import torch

        model = self.classifier(3)
        with torch.no_grad():
            model.head.bias.fill_(float("inf"))
        return model

    def counting(self, model: Any) -> Any:
        from torch import nn

        class Counting(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model, self.calls = model, 0

            def forward(self, *args: Any, **kwargs: Any) -> Any:
                self.calls += 1
                return self.model(*args, **kwargs)

        return Counting()

    def inputs(self, rows: int = 8, features: int = 6, seed: int = 7) -> Any:
        import torch

        return torch.tensor(np.random.default_rng(seed).normal(size=[rows, features]), dtype=torch.float32)

    def labels(self, rows: int = 8, seed: int = 7) -> Any:
        import torch

        return torch.tensor(np.random.default_rng(seed).integers(4, size=[rows]))

    def seed(self, number: int) -> None:
        import torch

        torch.manual_seed(number), random.seed(number), np.random.seed(number)

    def drawn(self) -> list[float]:
        import torch

        return [random.random(), np.random.rand(), float(torch.randn(()))]

    def optimizer(self, model: Any, rate: float = 0.1) -> Any:
        import torch

        return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)

    def stepping(self, student: Any, distiller: Any, optimizer: Any) -> Callable[[int], Any]:
        from torch.nn.functional import cross_entropy

        data = [(self.inputs(seed=number), self.labels(seed=number)) for number in range(5)]

        def step(number: int) -> Any:
            x, y = data[number % 5]
            output = student(x)
            loss = cross_entropy(output, y)
            if distiller is not None:
                loss = distiller.on_after_compute_loss(x, output, loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    def train(self, student: Any, *, steps: int = 10, distiller: Any = None, optimizer: Any = None) -> list[float]:
        step = self.stepping(student, distiller, optimizer or self.optimizer(student))
        return [float(loss) for loss in [step(number) for number in range(steps)]]

    def total(self, distiller: Any, student: Any, **given: Any) -> Any:
        from torch.nn.functional import cross_entropy

        x = given.pop("x", None)
        x = self.inputs() if x is None else x
        output = student(**x) if isinstance(x, dict) else student(*x) if isinstance(x, (list, tuple)) else student(x)
        loss = cross_entropy(output, self.labels())
        return distiller.on_after_compute_loss(x, output, loss, **given)

    def very_tensor(self, distiller: Any, student: Any) -> bool:
        from torch.nn.functional import cross_entropy

        x = self.inputs()
        output = student(x)
        loss = cross_entropy(output, self.labels())
        return distiller.on_after_compute_loss(x, output, loss) is loss

    def logits(self, model: Any, inputs: Any) -> Array:
        import torch

        training = getattr(model, "training", False) and not isinstance(model, torch.fx.GraphModule)
        if training:
            model.eval()
        with torch.no_grad():
            if isinstance(inputs, dict):
                said = model(**inputs)
            else:
                said = model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
        if training:
            model.train()
        return said.numpy()

    def constant(self, values: Array) -> Any:
        import torch

        return torch.tensor(values)

    def number(self, tensor: Any) -> float:
        return float(tensor.detach())

    def weights(self, model: Any) -> dict[str, Array]:
        return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}

    def parameters(self, values: Iterable[Any]) -> list[Array]:
        return [value.detach().numpy().copy() for value in values]

    def surface(self, model: Any) -> Any:
        from torch.nn.modules import module as torch_module

        everywhere = [name for name, value in vars(torch_module).items() if name.startswith("_global_") and value]
        seen = {
            name: (
                sorted(vars(module)),
                type(module).__name__,
                module.training,
                [key for key, value in vars(module).items() if "hook" in key and value],
                [(key, value.requires_grad) for key, value in module._parameters.items() if value is not None],
            )
            for name, module in model.named_modules()
        }
        return seen, [name for name in everywhere if isinstance(vars(torch_module)[name], dict)]

    def rough(self, model: Any) -> None:
        model.norm.eval()
        model.head.bias.requires_grad_(False)

    def ordinary(self, model: Any, distiller: Any) -> None:
        import torch

        said: list[Any] = []
        handle = model.register_forward_hook(lambda module, args, output: said.append(output))
        self.total(distiller, self.classifier(1))
        handle.remove()
        (output,) = said
        assert not output.requires_grad and output.grad_fn is None and not output.is_inference()
        weight = torch.ones(4, requires_grad=True)
        (output * weight).sum().backward()
        assert weight.grad is not None
        assert all(parameter.grad is None for parameter in model.parameters())

    def wrapped_output(self, form: str, said: Any) -> Any:
        if form == "tuple":
            return said, 1
        return {"logits": said} if form == "mapping" else SimpleNamespace(logits=said)

    def returning(self, model: Any, form: str) -> Any:
        from torch import nn

        outer = self

        class Returning(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, x: Any) -> Any:
                return outer.wrapped_output(form, self.model(x))

        return Returning()

    def copies(self, model: Any, folder: Any) -> Sequence[Any]:
        import torch

        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        loaded = self.classifier(9)
        loaded.load_state_dict(torch.load(file, weights_only=True))
        pickled = io.BytesIO()
        torch.save(model, pickled)
        assert b"kdhooks" not in pickled.getvalue()
        twin = copy.deepcopy(model)
        exported = torch.export.export(copy.deepcopy(model).eval(), (self.inputs(),)).module()
        return twin, loaded, exported

    @contextmanager
    def not_waiting(self) -> Iterator[None]:
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        class NoWaiting(TorchDispatchMode):
            def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                name = function.overloadpacket.__name__
                assert name not in WAITS, f"{name} waits for the device"
                return function(*args, **(kwargs or {}))

        def refuse(*_: Any) -> Any:
            raise AssertionError("a tensor's value was read")

        with pytest.MonkeyPatch.context() as patch, NoWaiting():
            for name in ("tolist", "numpy", "__array__", "cpu"):
                patch.setattr(torch.Tensor, name, refuse)
            yield

    def batch_columns(self, rows: int, seed: int = 7) -> dict[str, Any]:
        return {"x": self.inputs(rows, seed=seed), "y": self.labels(rows, seed=seed)}
