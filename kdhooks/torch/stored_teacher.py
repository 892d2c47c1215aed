"""A teacher in PyTorch whose outputs are stored; the rules are `kdhooks.stored`'s."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdhooks.criterion import Step, Term
from kdhooks.nests import arrays_in
from kdhooks.stored.choices import KeptChoice
from kdhooks.stored.looks import LOGITS, Wants
from kdhooks.stored.shared import SharedStore
from kdhooks.stored.teacher import StoredTeacher as _StoredTeacher
from kdhooks.torch.fingerprints import (
    classes_of,
    float_array,
    host_array,
    is_foreign,
    options_of,
    tensor_beside,
    unreadable,
    versions_of,
    weights_of,
)
from kdhooks.torch.layer_mappings import VALUES
from kdhooks.torch.outputs import logits_of, map_tensors
from kdhooks.torch.sharding import gather_nothing
from kdhooks.torch.stored_choice import precision_in_effect, processor_of, settled
from kdhooks.torch.teacher import Teacher
from kdhooks.torch.teacher_shards import Company, company_of
from kdhooks.torch.wrappers import compiled_parts

if TYPE_CHECKING:
    from kdhooks.cache import TopK

_FLAT = "FullyShardedDataParallel"


class StoredTeacher(_StoredTeacher):
    """A teacher that runs for rows that are not stored yet.

    Args:
        live: the teacher.
        name: of the teacher.
        shared: the store of the run.
        student: to know what it shares with the teacher.
    """

    values = VALUES

    def __init__(self, live: Teacher, name: str, shared: SharedStore, student: nn.Module) -> None:
        super().__init__(live, name, shared)
        self._student = student
        self._identified: tuple[object, str] | None = None
        self._asked_company = False
        self._company: Company | None = None

    def array(self, tensor: Tensor) -> NDArray[Any]:
        """A tensor's values on the host."""
        return float_array(tensor)

    def tensor(self, array: NDArray[np.float32], beside: Tensor) -> Tensor:
        """An array as a tensor on the device of another one."""
        return tensor_beside(array, beside)

    def dense(self, kept: TopK, beside: Tensor) -> Tensor:
        """All logits [..., C], put together on the device: only what is stored crosses to it."""
        return dense_logits(kept, beside)

    def take(self, tensor: Tensor, places: NDArray[np.intp]) -> Tensor:
        """Some rows of a tensor."""
        return tensor.index_select(0, torch.from_numpy(places).to(tensor.device))

    def keys(self, value: Any) -> list[bytes]:
        """The keys of a batch; its tensors are looked at without a copy where they are on the CPU."""
        return content_keys(value)

    def logits(self, output: Any, keys: Sequence[str]) -> Tensor:
        """The logits in what the teacher returned."""
        return logits_of(output, keys, model=self.name)

    def narrowing(self, mask: Tensor) -> Callable[[Tensor | None], Tensor]:
        """A function that takes positions of padding out of a mask."""
        positions = mask.to(torch.bool)

        def narrow(given: Tensor | None) -> Tensor:
            if given is None:
                return positions
            if given.shape != positions.shape:  # the loss says what shape it must have
                return given
            return given.to(positions.device, torch.bool) & positions

        return narrow

    def effect(self, value: Any) -> str:
        """The precision of the teacher's own autocast, or of that around the call."""
        choice = self.live.choice or settled(self.live, value, self._kept_choice)
        return precision_in_effect(choice, self.live, next(arrays_in(value)).device.type)

    def fingerprint(self, effect: str, wants: Wants) -> str:
        """The name of this teacher's space."""
        from kdhooks.cache import fingerprint

        pool = self.shared.settings.pool is not None
        codecs = {LOGITS: self.shared.codec(logits=True)} if wants.output else {}
        if wants.looks:
            codecs["features"] = self.shared.codec(logits=False, pooled=pool)
        return fingerprint((), precision=effect, layers=wants.names, codecs=codecs, more=[self._identity()])

    def _identity(self) -> str:
        """The teacher's weights, code and options as one name, apart from how it runs and what is stored of it."""
        from kdhooks.cache import fingerprint

        if self._identified is None or self._identified[0] != self._version:
            model = self.live.model
            name = fingerprint(weights_of(model), more=[*classes_of(model), *options_of(model)])
            self._identified = self._version, name
        return self._identified[1]

    def _kept_choice(self) -> KeptChoice:
        from kdhooks.cache import fingerprint

        where = next(iter(tensor.device for tensor in self.live.model.parameters()), torch.device("cpu"))
        name = processor_of(where)
        base = fingerprint((), precision="auto", more=[self._identity(), name, str(self.live._asked)])
        return KeptChoice(self.shared.store, base, {"teacher": type(self.live.model).__name__, "on": name})

    def company(self) -> Company | None:
        """The ranks that share out the teacher, or None."""
        if not self._asked_company:
            self._asked_company, self._company = True, company_of(self.live.share_out())
        return self._company

    def on_train_begin(self) -> None:
        """The teacher begins; who runs it is found out when it is used first."""
        self._asked_company, self._company = False, None
        super().on_train_begin()

    def version(self) -> object:
        """Which version each weight is of."""
        gather_nothing(self.live.model)
        return versions_of(self.live.model)

    def obstacle(self) -> str:
        """Why this teacher's outputs can't be stored."""
        model = self.live.model
        if any(base.__name__ == _FLAT for module in model.modules() for base in type(module).__mro__):
            return "it is sharded by flat parameters over processes, which must run together"
        students = {id(one) for one in (*self._student.modules(), *self._student.parameters())}
        if any(id(one) in students for one in (*model.modules(), *model.parameters())):
            return "it shares modules or weights with the student, which training changes"
        weight = unreadable(model)
        return f"its weight {weight}, can't be read" if weight else ""

    def whole_batches(self) -> bool:
        """Whether the teacher is compiled: then another number of rows would be compiled anew."""
        return compiled_parts(self.live.model) or (self.live.choice is not None and self.live.choice.compile)

    def value_of(self, term: Term, step: Step) -> float:
        """A term's value, without a graph and without a trace."""
        from kdhooks.torch.backend import BACKEND

        state = BACKEND.rng_state()
        try:
            with torch.no_grad():
                return float((term.probe or term.compute)(step))
        finally:
            BACKEND.set_rng_state(state)


def content_keys(value: Any) -> list[bytes]:
    """The keys of a batch of tensors by their content; see `kdhooks.cache.row_keys`."""
    from kdhooks.cache import Bits, row_keys

    def hashable(tensor: Tensor) -> Any:
        array, dtype = host_array(tensor)
        return Bits(array, dtype) if is_foreign(tensor.dtype) else array

    return row_keys(map_tensors(hashable, value))


def dense_logits(kept: TopK, beside: Tensor) -> Tensor:
    """All logits [..., C] of the largest ones: the mass of the rest is spread evenly over the other classes."""
    values, indices, rest = (tensor_beside(one, beside) for one in (kept.values, kept.indices, kept.rest))
    others = kept.classes - values.shape[-1]
    share = rest - math.log(others) if others else rest
    return share.unsqueeze(-1).repeat(*[1] * share.ndim, kept.classes).scatter_(-1, indices, values)
