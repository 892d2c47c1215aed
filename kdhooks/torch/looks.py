"""Teacher and student on the evaluation data, for the page of a run: `kdhooks.compared.Looks` for PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdhooks.compared import NoLook, SeenRows
from kdhooks.compared.similar_layers import part_of, rows_of
from kdhooks.criterion import teachers_by_name
from kdhooks.loop.batches import Batch
from kdhooks.torch.evaluation import Evaluation, evaluator
from kdhooks.torch.observation.untouched import untouched
from kdhooks.torch.outputs import logits_of
from kdhooks.torch.similar_layers import bounded_similarity
from kdhooks.torch.wrappers import compiled_parts, inside, something_was_traced

_NO_DATA = "there are no evaluation data: set eval_dataloader, or name a dataset in evaluation.accuracy.dataloader"
_LARGEST_INPUT = 1 << 20


class TorchLooks:
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

    @property
    def _data(self) -> Evaluation:
        if self._evaluation is None:
            raise NoLook(_NO_DATA)
        return self._evaluation

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Within the block the models may run on the evaluation data, without a graph."""
        student, *teachers = self._named.values()
        loader = None if self._evaluation is None else self._evaluation.loader
        with untouched([student, *teachers], loader, self._backend), self._backend.evaluation_mode(student):
            for teacher in teachers:
                teacher.eval()  # untouched() puts the modes back
            with torch.no_grad():
                yield

    def similarity(
        self, rows: int, layers: int, names: tuple[Sequence[str], Sequence[str]] | None, over: Callable[[], bool]
    ) -> tuple[list[str], list[str], list[list[float]]]:
        """The linear CKA of layers; see `kdhooks.compared.Looks`."""
        data, teacher = self._data, next(iter(self.teachers.values()))
        for name, model in self._named.items():
            if _is_compiled(model) or (something_was_traced() and compiled_parts(model)):
                raise NoLook(f"the {name} is compiled, and a compiled model's layers can't be looked at")
        with self._looking():
            inputs = (parts.input for parts in data.batches())
            limits: dict[str, Any] = {"rows": rows, "layers": layers, "names": names, "over": over}
            return bounded_similarity(self.student, teacher, inputs, **limits)

    def rows(self, seen: SeenRows, teacher: str, over: Callable[[], bool]) -> dict[str, float]:
        """Show the outputs of both to `seen`; see `kdhooks.compared.Looks`."""
        data, spent = self._data, {"student": 0.0, "teacher": 0.0}
        with self._looking():
            runs = {"student": data.forward_of(self.student), "teacher": data.forward_of(self.teachers[teacher])}
            for parts in data.batches():
                if rows_of(parts.input) > seen.left:
                    parts = _first_rows(parts, seen.left)
                outputs, labels = {}, None
                for name, forward in runs.items():
                    began = time.perf_counter()
                    output, labels = forward(parts)
                    outputs[name] = _array(logits_of(output, self._keys, model=name))
                    spent[name] += time.perf_counter() - began
                seen.add(outputs["teacher"], outputs["student"], _labels(labels), _shown(parts.input))
                if not seen.left or over():
                    break
        return {name: seconds / max(seen.count, 1) for name, seconds in spent.items()}

    def class_names(self) -> Sequence[str] | None:
        """``classes`` of the evaluation's dataset, as torchvision's have it."""
        names = getattr(getattr(self._data.loader, "dataset", None), "classes", None)
        return names if isinstance(names, (list, tuple)) else None

    def one_row(self) -> Any:
        """The input of the first row."""
        with self._looking():
            parts = next(self._data.batches(), None)
        return None if parts is None else part_of(parts.input, 0, 1)

    def count_rows(self) -> int | None:
        """Rows of an evaluation, where the loader tells."""
        batches = self._data.count_batches()
        size = getattr(self._data.loader, "batch_size", None)
        if size is None:
            size = getattr(getattr(self._data.loader, "batch_sampler", None), "batch_size", None)
        return batches * size if batches is not None and isinstance(size, int) else None

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """What the evaluation finds of a model."""
        data = self._data
        with self._looking(), self._backend.evaluation_mode(model), data.by_itself():  # only rank 0 looks
            return data(model)[0]

    def bytes_of(self, model: nn.Module) -> int:
        """Parameters and buffers, each once."""
        tensors = {id(one): one for one in (*model.parameters(), *model.buffers())}
        return sum(one.numel() * one.element_size() for one in tensors.values())


def _is_compiled(model: nn.Module) -> bool:
    return any("_orig_mod" in one._modules or getattr(one, "_compiled_call_impl", None) for one in model.modules())


def _is_sharded(model: nn.Module) -> bool:
    return any(base.__name__ == "FullyShardedDataParallel" for one in model.modules() for base in type(one).__mro__)


def _first_rows(parts: Batch, rows: int) -> Batch:
    return Batch(part_of(parts.input, 0, rows), part_of(parts.target, 0, rows))


def _array(output: Tensor) -> Any:
    return output.detach().float().cpu().numpy()


def _labels(target: Any) -> Any:
    return target.detach().cpu().numpy() if isinstance(target, Tensor) else None


def _shown(given: Any) -> Callable[[int], Any]:
    """A function that gives the input of a row for people: an image, or the ids of tokens."""
    if isinstance(given, Mapping):
        known = next((given[key] for key in ("pixel_values", "input_ids") if key in given), None)
        given = next(iter(given.values()), None) if known is None else known
    elif isinstance(given, (tuple, list)):
        given = given[0] if given else None

    def row(number: int) -> Any:
        if not isinstance(given, Tensor) or given[number].numel() > _LARGEST_INPUT:
            return None
        one = given[number].detach().cpu()
        return (one.float() if one.is_floating_point() else one).numpy()

    return row
