"""Features of a teacher that a program has already: handed in by layer, in place of a forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdhooks.errors import LayerError, UsageError
from kdhooks.names import did_you_mean

NOBODY = "teacher"
"""What the teacher is called where none is set."""


class StoredFeatures(Mapping[tuple[str, bool], "StoredSlot"]):
    """What was handed in for one teacher at one step; stands where a backend's captures do.

    Args:
        features: by layer; ``layer:input`` for what goes into a layer.

    Attributes:
        role: what the model is called in errors.
        kind: the same.
        slots: itself.
    """

    role, kind = "teacher_features", "of this step"

    def __init__(self, features: Mapping[str, Any]) -> None:
        self._features = features

    @property
    def slots(self) -> StoredFeatures:
        """What was handed in, by the key of a tap."""
        return self

    def find(self, layer: str) -> str:
        """The name as it was handed in."""
        return layer

    def __getitem__(self, key: tuple[str, bool]) -> StoredSlot:
        name = key[0] + ":input" if key[1] else key[0]
        if name not in self._features:
            hint = did_you_mean(name, map(str, self._features), what="Handed in")
            raise LayerError(f"teacher_features has no layer {name!r}", hint)
        return StoredSlot(self._features[name])

    def __iter__(self) -> Iterator[tuple[str, bool]]:
        return iter([(name.removesuffix(":input"), name.endswith(":input")) for name in self._features])

    def __len__(self) -> int:
        return len(self._features)


class StoredSlot:
    """One feature: a tensor, which is what the mapping means whatever its selector; or what a layer returned.

    Attributes:
        chosen: True, since a tensor needs no selector any more.
    """

    chosen = True

    def __init__(self, value: Any) -> None:
        self._value = value

    def read(self) -> Sequence[Any]:
        """The one value."""
        return [self._value]


def stored_features(given: Any, teachers: Sequence[str]) -> dict[str, StoredFeatures]:
    """Features by teacher, as a step holds what was captured.

    Args:
        given: features by layer, or for several teachers such a mapping by the teacher's name; None for none.
        teachers: the teachers' names; none where no teacher is set.

    Raises:
        UsageError: anything else.

    >>> list(stored_features({"layer3": [1.0]}, ())["teacher"])
    [('layer3', False)]
    """
    if given is None:
        return {}
    names = tuple(teachers) or (NOBODY,)
    if isinstance(given, Mapping):
        if len(names) == 1 and not (set(given) == set(names) and isinstance(given[names[0]], Mapping)):
            return {names[0]: StoredFeatures(given)}
        if set(given) <= set(names) and all(isinstance(one, Mapping) for one in given.values()):
            return {name: StoredFeatures(features) for name, features in given.items()}
    several = f", by the teachers' names ({', '.join(names)})" if len(names) > 1 else ""
    raise UsageError(f"teacher_features must be a mapping from layers to tensors{several}")
