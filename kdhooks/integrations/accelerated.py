"""What an `Accelerator` has prepared, and the files beside its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdhooks.errors import CheckpointError, UsageError
from kdhooks.integrations.saved import read, write, written
from kdhooks.torch.wrappers import inside

FILE = "kdhooks.pt"


def prepared_student(accelerator: Any, wanted: nn.Module | None) -> nn.Module:
    """The student as ``prepare`` returned it, around the one that is wanted.

    Raises:
        UsageError: it is not among the prepared models, or there is not one model to take.
    """
    models: list[nn.Module] = list(accelerator._models)
    if wanted is None:
        if len(models) != 1:
            raise UsageError(
                f"no student is set, and {len(models) or 'no'} model{'s are' if len(models) > 1 else ' is'} prepared: "
                "give Distilled(accelerator, ..., student_model=...) what accelerator.prepare(...) returned"
            )
        return models[0]
    for model in models:
        if inside(model) is inside(wanted):
            return model
    raise UsageError(
        f"the student {type(inside(wanted)).__name__} is not prepared: call accelerator.prepare(student, optimizer, "
        "...) before Distilled(...)"
    )


def place_teachers(accelerator: Any, teachers: Mapping[str, Any], student: nn.Module) -> None:
    """Move teachers that stand on the CPU to the accelerator's device; spread and already placed ones stay.

    Raises:
        UsageError: a teacher is prepared.
    """
    for name, teacher in teachers.items():
        if not isinstance(teacher, nn.Module) or inside(teacher) is inside(student):
            continue
        if any(inside(model) is inside(teacher) for model in accelerator._models):
            what = "the teacher" if len(teachers) == 1 else f"the teacher {name!r}"
            raise UsageError(
                f"{what} is prepared, so it would be wrapped for gradients and saved with the student: leave it out of "
                "accelerator.prepare(...); Distilled moves it to the device"
            )
        tensors = [*teacher.parameters(), *teacher.buffers()]
        on_host = all(one.device.type == "cpu" and not hasattr(one, "device_mesh") for one in tensors)
        if on_host and not hasattr(teacher, "hf_device_map"):
            teacher.to(accelerator.device)


def optimizer_of(accelerator: Any, student: nn.Module) -> Any:
    """The prepared optimizer that trains most of the student; None where none is prepared."""
    theirs = {id(parameter) for parameter in student.parameters()}

    def count(optimizer: Any) -> int:
        return sum(id(parameter) in theirs for group in optimizer.param_groups for parameter in group["params"])

    found = max(accelerator._optimizers, key=count, default=None)
    return found if found is not None and count(found) else None


def no_second(accelerator: Any) -> None:
    """UsageError where another object is at work in ``accelerator.backward``."""
    if "backward" in vars(accelerator):
        raise UsageError(
            "this accelerator distils already: end() the first Distilled before another one is made, or let one "
            "Distillation sum the criteria"
        )


def save_to(folder: Path, state: Mapping[str, Any], accelerator: Any) -> None:
    """Write a state beside a checkpoint: once, and what other processes have of their own beside it."""
    here = accelerator.project_configuration.save_on_each_node and accelerator.is_local_main_process
    if accelerator.is_main_process or here:
        write(folder / FILE, state)
    if not accelerator.is_main_process:
        own = {"monitor": state["distillation"]["monitor"]}
        write(_own_file(folder, accelerator), written(state["format"], own))


def load_from(folder: Path, kind: str, accelerator: Any) -> dict[str, Any]:
    """The state beside a checkpoint, as this process has it.

    Raises:
        CheckpointError: there is none, or one that can't be used.
    """
    path = folder / FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no {FILE}: it was saved without distillation. To begin distilling with its weights call "
            "accelerator.load_state(...) before Distilled(...)"
        )
    state = read(path, kind)
    own = _own_file(folder, accelerator)
    if not accelerator.is_main_process and own.is_file():  # none where fewer processes saved
        state["distillation"] = {**state["distillation"], **{"monitor": read(own, kind)["monitor"]}}
    return state


def _own_file(folder: Path, accelerator: Any) -> Path:
    return folder / f"{FILE.removesuffix('.pt')}_{accelerator.process_index}.pt"
