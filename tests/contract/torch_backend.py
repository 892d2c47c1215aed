"""PyTorch on the CPU, as the contract sees it. Nothing is imported before a test asks for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Torch:
    """PyTorch on the CPU."""

    def __init__(self) -> None:
        self.epsilon = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-10}

    def kinds(self) -> dict[str, str]:
        from kdhooks.torch.losses import LOSSES, loss_kind

        return {name: loss_kind(name) for name in LOSSES}

    def round(self, values: Array, dtype: str) -> Array:
        import torch

        return torch.tensor(values, dtype=getattr(torch, dtype)).to(torch.float64).numpy()

    def loss(
        self,
        name: str,
        student: Array,
        teacher: Array,
        *,
        mask: Array | None = None,
        target: Array | None = None,
        dtype: str = "float64",
        **options: Any,
    ) -> tuple[float, Array]:
        from kdhooks.torch.losses import logit_loss

        given = {"mask": _tensors(mask), "target": _tensors(target), **options}
        return _run(lambda s, t: logit_loss(name)(s, t, **given), student, teacher, dtype)

    def feature(
        self,
        name: str,
        student: Any,
        teacher: Any,
        *,
        mask: Array | None = None,
        dtype: str = "float64",
        **options: Any,
    ) -> tuple[float, Any]:
        from kdhooks.torch.losses import build_feature_loss

        if mask is not None:
            options["mask"] = _tensors(mask)
        loss = build_feature_loss(name, _shapes(student), _shapes(teacher), **options)
        return _run(loss, student, teacher, dtype)

    def module(self, name: str, student_shape: Any, teacher_shape: Any, **options: Any) -> Any:
        from kdhooks.torch.losses import build_feature_loss

        return TorchModule(build_feature_loss(name, student_shape, teacher_shape, **options))

    def criterion(self, **options: Any) -> Any:
        from kdhooks.torch import KnowledgeDistillationLoss

        return KnowledgeDistillationLoss(**options)

    def evaluate(self, criterion: Any, student: Any, teacher: Any, *, target: Any = None, mask: Any = None) -> float:
        return float(
            criterion(_tensors(student), _tensors(teacher), target=_tensors(target), mask=_tensors(mask)).detach()
        )


class TorchModule:
    """An `nn.Module` that is a loss."""

    def __init__(self, module: Any) -> None:
        self.module = module.double()

    @property
    def numbers(self) -> dict[str, Array]:
        state = self.module.state_dict().items()
        return {name: tensor.double().numpy().copy() for name, tensor in state if not name.endswith("_extra_state")}

    def run(self, student: Any, teacher: Any, dtype: str = "float64") -> tuple[float, Any]:
        if dtype != "float64":
            self.module.float()
        return _run(self.module, student, teacher, dtype)

    def slopes(self, student: Any, teacher: Any) -> dict[str, Array]:
        import torch

        parameters = dict(self.module.named_parameters())
        value = self.module(_tensors(student), _tensors(teacher))
        gradients = torch.autograd.grad(value, list(parameters.values()))
        return {name: gradient.numpy() for name, gradient in zip(parameters, gradients, strict=True)}

    def mask(self, student: Array, teacher: Array) -> Array:
        import torch

        aligned = torch.empty(student.shape[0], teacher.shape[1], *student.shape[2:], dtype=torch.float64)
        return self.module.mask(aligned).numpy()

    def negatives(self, student: Array) -> Array:
        import torch

        return self.module.draw(self.module.rows(len(student), None, torch.device("cpu"))).numpy()


def _run(loss: Any, student: Any, teacher: Any, dtype: str) -> tuple[float, Any]:
    import torch

    kind = getattr(torch, dtype)
    several = isinstance(student, list)
    leaves = [torch.tensor(one).to(kind).requires_grad_() for one in (student if several else [student])]
    fixed = [torch.tensor(one).to(kind) for one in (teacher if several else [teacher])]
    value = loss(leaves, fixed) if several else loss(leaves[0], fixed[0])
    assert value.shape == () and value.dtype == (torch.float64 if kind is torch.float64 else torch.float32)
    gradients = torch.autograd.grad(value, leaves)
    assert all(one.dtype == kind for one in gradients)
    found = [one.to(torch.float64).numpy() for one in gradients]
    return float(value.detach()), found if several else found[0]


def _shapes(features: Any) -> Any:
    return [one.shape for one in features] if isinstance(features, list) else features.shape


def _tensors(value: Any) -> Any:
    import torch

    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, list):
        return [_tensors(item) for item in value]
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    return value
