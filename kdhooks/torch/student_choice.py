"""How the built-in loop runs the student: as the configuration says, or what the first batch shows to be fastest.

Rules: ``auto`` is decided once, by rank 0, before the first step; every rank, and every run that continues from a
checkpoint, does the same. What is timed is a copy without hooks, on one batch; the student, the generators and the
loader are afterwards as they were.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kdhooks.config.model import TrainSettings
from kdhooks.errors import UsageError
from kdhooks.loop.batches import split_batch
from kdhooks.messages import logger
from kdhooks.speed import Choice
from kdhooks.torch.backend import unwrap
from kdhooks.torch.checkpoint import CheckpointFile
from kdhooks.torch.memory_format import channels_last, input_layout, to_channels_last
from kdhooks.torch.observation.untouched import untouched
from kdhooks.torch.outputs import as_call, map_tensors
from kdhooks.torch.placement import autocast, batch_mover, needs_closure
from kdhooks.torch.ranks import Ranks
from kdhooks.torch.sharding import is_sharded
from kdhooks.torch.teacher_copies import has_maps
from kdhooks.torch.trials import fastest, native_precisions, time_in_turn

_IN_FORCE: WeakKeyDictionary[nn.Module, Choice] = WeakKeyDictionary()

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def choice_of(model: nn.Module) -> Choice | None:
    """How the loop that trains a model runs it; None where none does."""
    return _IN_FORCE.get(unwrap(model))


@contextmanager
def in_force(student: nn.Module, choice: Choice, optimizer: Any) -> Iterator[None]:
    """Within the block the student lies in memory as chosen, and evaluation runs it as the loop does."""
    student = unwrap(student)
    _IN_FORCE[student] = choice
    try:
        if choice.channels_last:
            with channels_last(student, optimizer):
                yield
        else:
            yield
    finally:
        del _IN_FORCE[student]


def choose(distiller: Any, loader: Any, optimizer: Any, *, device: torch.device, ranks: Ranks, resume: Any) -> Choice:
    """How the student is run.

    Args:
        distiller: the `Distillation`.
        loader: of the training data, whose first batch is timed.
        optimizer: of the student.
        device: where it trains.
        ranks: the processes that train together.
        resume: the checkpoint that is continued, or None.

    Raises:
        ConfigError: ``ipex: true`` without Intel's extension.
        UsageError: channels last with an optimizer that can't work on it.
        CheckpointError: the checkpoint can't be read.
    """
    train = distiller.conf.settings.distillation.train
    if needs_closure(optimizer) and train.channels_last is True:
        raise UsageError("LBFGS can't be used with channels_last: true, since it views gradients as vectors")
    ipex = _ipex(distiller, loader, optimizer, device, ranks)
    if "auto" not in (train.precision, train.channels_last, train.ipex):
        choice = _choice(train, train.precision, train.channels_last, train.ipex)
        return choice if ipex is None else ipex.settled(choice)
    saved = None if resume is None else CheckpointFile(resume).read().get("speed")
    if saved is None:
        if is_sharded(unwrap(distiller.student_model)):
            mine = _native(train, device)
        else:
            mine = _fastest(distiller, loader, optimizer, device, ipex) if ranks.rank == 0 else Choice()
        saved = ranks.gather({"speed": mine.to_dict()})[0]["speed"]
    chosen = Choice.from_dict(saved)
    choice = _choice(  # what is not auto is what the configuration says now
        train,
        chosen.precision if train.precision == "auto" else train.precision,
        chosen.channels_last if train.channels_last == "auto" else train.channels_last,
        chosen.ipex if train.ipex == "auto" else train.ipex,
    )
    return choice if ipex is None else ipex.settled(choice)


def _native(train: TrainSettings, device: torch.device) -> Choice:
    """What a student in shards runs in: it can't be copied, so nothing is timed; the low precision of its device."""
    choice = Choice(native_precisions(device)[-1] if train.precision == "auto" else train.precision)
    logger.info("student: %s; other ways can't be timed on shards", choice)
    return choice


def _ipex(distiller: Any, loader: Any, optimizer: Any, device: torch.device, ranks: Ranks) -> Any:
    """What decides about Intel's extension; None where nobody asks for it."""
    if distiller.conf.settings.distillation.train.ipex is False or is_sharded(unwrap(distiller.student_model)):
        return None
    from kdhooks.torch.ipex_choice import Ipex

    return Ipex(
        distiller,
        optimizer,
        device=device,
        ranks=ranks,
        first_input=lambda: _first_input(distiller, loader),
        copied=_without_hooks,
    )


def _choice(train: TrainSettings, precision: Any, last: Any, ipex: Any) -> Choice:
    return Choice(precision, bool(last), compile=train.execution_mode == "graph", ipex=bool(ipex))


def _fastest(distiller: Any, loader: Any, optimizer: Any, device: torch.device, ipex: Any) -> Choice:
    """The fastest way, told in one line; the plainest where nothing can be timed."""
    train = distiller.conf.settings.distillation.train
    precisions = native_precisions(device) if train.precision == "auto" else (train.precision,)
    layouts = (False, True) if train.channels_last == "auto" else (bool(train.channels_last),)
    if needs_closure(optimizer):
        layouts = (False,)
    plainest = Choice(precisions[0], channels_last=layouts[0])
    with _first_input(distiller, loader) as given:
        if given is None:
            logger.info("student: %s; there was no first batch to time other ways on", plainest)
            return plainest
        inputs = batch_mover(device)(given)
        copies = _copies(unwrap(distiller.student_model), inputs, layouts)
        choices = [Choice(precision, channels_last=last) for precision, last in product(precisions, copies)]
        ways = {choice: _pass(copies[choice.channels_last], inputs, choice, device) for choice in choices}
        if ipex is not None and copies:
            last = train.channels_last is True  # the extension has a format of its own
            fast = ipex.copies([Choice(precision, last) for precision in precisions])
            own = {one: _pass(model, inputs, one, device) for one, model in fast.items()}
            ways = own if own and train.ipex is True else {**ways, **own}
        seconds = time_in_turn(ways, device) if len(ways) > 1 else {}
    chosen = fastest(seconds) if seconds else next(iter(ways), plainest)
    times = ", ".join(f"{way} {taken * 1e3:.1f} ms" for way, taken in seconds.items())
    logger.info("student: %s%s", chosen, f"; a forward and backward took: {times}" if times else "")
    return chosen


@contextmanager
def _first_input(distiller: Any, loader: Any) -> Iterator[Any]:
    """The model's input of the first batch, or None; the loader and the generators are afterwards as they were."""
    conf = distiller.conf.settings
    columns = conf.distillation.train.dataloader
    with untouched([], loader, distiller.backend):  # left before anything is timed: workers would compute beside it
        batches = iter(loader)
        batch = None if batches is loader else next(batches, None)  # an iterator's batch would be lost
        del batches
    given = None
    if batch is not None:
        places = () if columns is None else columns.input_columns
        given = split_batch(batch, inputs=conf.model.inputs, input_columns=places).input
    with untouched([], None, distiller.backend):
        yield given


def _copies(student: nn.Module, inputs: Any, layouts: tuple[bool, ...]) -> dict[bool, nn.Module]:
    """A copy of the student for each layout that may help; none where it can't be copied."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, inputs)  # type: ignore[func-returns-value]
    copies = {}
    try:
        maps = has_maps(student) and any(tensor.ndim == 4 for tensor in found)
        for last in layouts if maps else layouts[:1]:
            copies[last] = _without_hooks(student)
            if last:
                to_channels_last(copies[last])
    except (TypeError, RuntimeError, AttributeError) as problem:  # such as a weight that has a graph
        logger.info("student: other ways can't be tried, since it can't be copied: %s", str(problem).splitlines()[0])
        return {}
    return copies


def _without_hooks(student: nn.Module) -> nn.Module:
    """A copy in train mode without gradients, in which no hook of the user's is called."""
    # deepcopy finds an empty table wherever it would copy one of hooks
    tables = (vars(module).get(name) for module in student.modules() for name in _HOOKS)
    twin = copy.deepcopy(student, {id(table): OrderedDict() for table in tables if table is not None})
    twin.zero_grad(set_to_none=True)
    return twin.train()


def _pass(model: nn.Module, inputs: Any, choice: Choice, device: torch.device) -> Callable[[], None]:
    """A forward and a backward."""
    args, kwargs = as_call(input_layout(choice.channels_last)(inputs))

    def once() -> None:
        with autocast(choice.precision, device):
            output = model(*args, **kwargs)
        _sum(output).backward()
        model.zero_grad(set_to_none=True)

    return once


def _sum(output: Any) -> Tensor:
    """The sum of all that has a graph in an output, or of its logits where it is an object."""
    sums: list[Tensor] = []

    def add(tensor: Tensor) -> Tensor:
        if tensor.requires_grad:
            sums.append(tensor.float().sum())
        return tensor

    map_tensors(add, getattr(output, "logits", output))
    return torch.stack(sums).sum()
