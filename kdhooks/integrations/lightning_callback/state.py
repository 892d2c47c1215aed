"""What the callback leaves in the trainer's checkpoint: plain data and tensors, which load without unpickling.

Rules: the states of random generators are those of every rank. They are put back before the trainer asks the first
dataloader for its iterator, which draws from them; nothing is drawn by us afterwards. A checkpoint of a newer version,
or of a run that distilled something else, is refused before anything is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdhooks.errors import CheckpointError

FORMAT, VERSION = "kdhooks in Lightning", 1


def saved(distiller: Mapping[str, Any], components: Sequence[str], student: str, steps: int) -> dict[str, Any]:
    """The state of a callback.

    Args:
        distiller: the state of its distiller.
        components: of the loss.
        student: its name in the ``LightningModule``.
        steps: how many losses there were in the epoch that is under way.
    """
    content = {"distiller": dict(distiller), "components": list(components), "student": student, "steps": steps}
    return {"format": FORMAT, "version": VERSION, **content, "generators": [distiller["rng"]]}


def check(state: Mapping[str, Any]) -> None:
    """CheckpointError where a state is none of ours, of a newer version, or incomplete."""
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        raise CheckpointError("what this checkpoint holds for DistillationCallback is not of kdhooks")
    version = state.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"the distillation in this checkpoint is of version {version}, and this kdhooks reads up to version "
            f"{VERSION}: update kdhooks"
        )
    missing = {"distiller", "components", "student", "steps", "generators"} - set(state)
    if missing:
        raise CheckpointError(f"the distillation in this checkpoint is damaged: it has no {', '.join(sorted(missing))}")


def check_fits(state: Mapping[str, Any], components: Sequence[str]) -> None:
    """CheckpointError where a state is of a run that distilled something else."""
    if list(state["components"]) != list(components):
        raise CheckpointError(
            f"this checkpoint is of another configuration: it distilled {', '.join(state['components']) or 'nothing'}, "
            f"and this run distils {', '.join(components) or 'nothing'}"
        )


def components_of(criteria: Iterable[Any]) -> list[str]:
    """The names of what criteria add up, in their order."""
    return [name for one in criteria for name in (one.student_label, *(term.name for term in one.terms))]


def generators_of(state: Mapping[str, Any], rank: int) -> Mapping[str, Any] | None:
    """The generators of one rank, or None where another number of processes has saved them."""
    generators: Sequence[Mapping[str, Any]] = state["generators"]
    return generators[rank] if rank < len(generators) else None
