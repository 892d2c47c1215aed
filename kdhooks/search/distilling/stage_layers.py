"""Looks for the layers that stages name, before any of them is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kdhooks.backend import Backend
from kdhooks.config.mappings import layer_pairs
from kdhooks.criterion import teachers_by_name
from kdhooks.errors import LayerError
from kdhooks.search.distilling.stage_conf import Stage


def check_layers(backend: Backend, stages: Sequence[Stage], student: Any, teachers: Any) -> None:
    """Look for all layers that stages name.

    Args:
        backend: of the models.
        stages: whose blocks and pairs are looked for.
        student: the model that learns.
        teachers: one, or several by name or place, of which only a pair's criterion knows which is meant.

    Raises:
        ConfigError: a model lacks one; the problem is at the user's line.
    """
    found = list(teachers_by_name(teachers).values())
    teacher = found[0] if len(found) == 1 else None
    for stage in stages:
        try:
            backend.found_layer(student, stage.settings.block, "student", ("teacher", teacher))
        except LayerError as error:
            raise stage.problem(error) from None
        for tap, model, role, other in _looks(stage, student, teacher):
            try:
                backend.found_layer(model, tap.layer, role, other)
            except LayerError as error:
                raise stage.option_problem(tap.path, error) from None


def _looks(stage: Stage, student: Any, teacher: Any) -> Iterator[tuple[Any, Any, str, Any]]:
    """The layers of a stage's pairs, each with its model and the other one."""
    options = stage.settings.criterion
    keys = ("layer_mappings", "layer_mappings_for_knowledge_transfer")
    key = next((key for key in keys if options.get(key) is not None), keys[0])
    for pair in layer_pairs(options.get(key), key)[0]:
        other = None if teacher is None else ("teacher", teacher)
        yield from ((tap, student, "student", other) for tap in pair.students)
        if teacher is not None:
            yield from ((tap, teacher, "teacher", ("student", student)) for tap in pair.teachers)
