"""Teacher and student on the evaluation data, for the page of a run: `kdhooks.compared.Looks` for PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdhooks.compared import NoLook
from kdhooks.compared.evaluation_looks import EvaluationLooks
from kdhooks.criterion import teachers_by_name
from kdhooks.torch.evaluation import evaluator
from kdhooks.torch.observation.untouched import untouched
from kdhooks.torch.outputs import logits_of
from kdhooks.torch.similar_layers import bounded_similarity
from kdhooks.torch.wrappers import compiled_parts, inside, something_was_traced

_LARGEST_INPUT = 1 << 20


class TorchLooks(EvaluationLooks):
    """A distiller's models and evaluation data.

    Args:
        distiller: the `Distillation`.
        backend: keeps modes and generators.

    Raises:
        NoLook: a model is spread over processes, or has no parameters yet.
    """

    def __init__(self, distiller: Any, backend: Any) -> None:
        self.student: nn.Module = inside(distiller.student_model)
        self.teachers = {name: inside(model) for name, model in teachers_by_name(distiller.teacher_model).items()}
        self._named = {"student": self.student, **self.teachers}
        for name, model in self._named.items():
            if any(hasattr(one, "device_mesh") for one in model.parameters()) or _is_sharded(model):
                raise NoLook(f"the {name} is sharded over processes, and one of them alone can't run it")
            if any(is_lazy(one) for one in (*model.parameters(), *model.buffers())):
                raise NoLook(f"the {name} has parameters without a shape yet")
        self._keys = distiller.conf.settings.model.outputs
        self._backend = backend
        self._evaluation = evaluator(distiller)
        if isinstance(distiller.eval_dataloader, Iterator):
            raise NoLook("the evaluation data are an iterator, which can be gone through once")

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Within the block the models may run on the evaluation data, without a graph."""
        student, *teachers = self._named.values()
        with untouched([student, *teachers], self._loader, self._backend), self._backend.evaluation_mode(student):
            for teacher in teachers:
                teacher.eval()  # untouched() puts the modes back
            with torch.no_grad():
                yield

    def _compare(self, inputs: Iterator[Any], **limits: Any) -> tuple[list[str], list[str], list[list[float]]]:
        for name, model in self._named.items():
            if _is_compiled(model) or (something_was_traced() and compiled_parts(model)):
                raise NoLook(f"the {name} is compiled, and a compiled model's layers can't be looked at")
        return bounded_similarity(self.student, next(iter(self.teachers.values())), inputs, **limits)

    def _logits(self, output: Any, name: str) -> Any:
        return logits_of(output, self._keys, model=name).detach().float().cpu().numpy()

    def _labels(self, target: Any) -> Any:
        return target.detach().cpu().numpy() if isinstance(target, Tensor) else None

    def _shown(self, given: Any) -> Callable[[int], Any]:
        def row(number: int) -> Any:
            if not isinstance(given, Tensor) or given[number].numel() > _LARGEST_INPUT:
                return None
            one = given[number].detach().cpu()
            return (one.float() if one.is_floating_point() else one).numpy()

        return row

    def _size(self, loader: Any) -> Any:
        return getattr(getattr(loader, "batch_sampler", None), "batch_size", None)

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """What the evaluation finds of a model."""
        data = self._data
        with self._looking(), self._backend.evaluation_mode(model), data.by_itself():  # only rank 0 looks
            found: dict[str, float] = data(model)[0]
        return found

    def bytes_of(self, model: nn.Module) -> int:
        """Parameters and buffers, each once."""
        tensors = {id(one): one for one in (*model.parameters(), *model.buffers())}
        return sum(one.numel() * one.element_size() for one in tensors.values())


def _is_compiled(model: nn.Module) -> bool:
    return any("_orig_mod" in one._modules or getattr(one, "_compiled_call_impl", None) for one in model.modules())


def _is_sharded(model: nn.Module) -> bool:
    return any(base.__name__ == "FullyShardedDataParallel" for one in model.modules() for base in type(one).__mro__)
