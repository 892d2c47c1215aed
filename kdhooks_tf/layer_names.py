"""Names of layers as Keras users know them, nested by ``/`` or ``.``; ``''`` is the model itself.

Rules: one name of a layer is its own and is what everything prints and saves: the attribute it stands in, or,
where that is private or there is none (a Sequential or functional model), the name that Keras gave it. A user may
write either, in each part of a name. A name that fits two layers is an error, never a choice of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from kdhooks.errors import LayerError, ModelError
from kdhooks.names import closest

Layer = Any

_OUTSIDE = frozenset({"_layers", "_functional", "_operations", "_operations_by_depth"})
"""Attributes of Keras that hold layers under no name of their own."""


def named_layers(model: Layer) -> dict[str, Layer]:
    """Every layer by its own name, the model first.

    >>> list(named_layers(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")])))
    ['', 'head']
    """
    layers: dict[str, Layer] = {"": model}
    layers.update(_below(model, "", (id(model),)))
    return layers


def _below(layer: Layer, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Layer]]:
    for names, child in children(layer):
        if id(child) not in above:
            yield prefix + names[0], child
            yield from _below(child, f"{prefix}{names[0]}/", (*above, id(child)))


def children(layer: Layer) -> list[tuple[list[str], Layer]]:
    """The layers directly inside of one, each with all its names, its own one first."""
    found: dict[int, tuple[list[str], Layer]] = {}
    tracked = [child for child in getattr(layer, "_layers", ()) if _is_layer(child)]
    if isinstance(layer, keras.Sequential):
        tracked = layer.layers  # without the InputLayer that Keras puts there
    if isinstance(layer, keras.Sequential) or "_operations" in vars(layer):
        for child in tracked:
            _add(found, child, [child.name])
    for name, value in vars(layer).items():
        if name in _OUTSIDE or name.startswith("_self_"):  # the latter are TensorFlow's own lists
            continue
        for path, child in _layers_in(value, name, 0):
            if not name.startswith("_"):
                _add(found, child, [path, child.name])
            elif any(child is one for one in tracked):
                _add(found, child, [child.name, path])
    for child in tracked:
        _add(found, child, [child.name])
    return _with_own_names(list(found.values()))


def _with_own_names(children: list[tuple[list[str], Layer]]) -> list[tuple[list[str], Layer]]:
    """No two have the same first name."""
    taken: set[str] = set()
    for names, _ in children:
        own = next((name for name in names if name not in taken), None)
        if own is None:
            own = next(name for index in range(1, len(children) + 1) if (name := f"{names[0]}_{index}") not in taken)
        names[:] = [own, *(name for name in names if name != own)]
        taken.add(own)
    return children


def _add(found: dict[int, tuple[list[str], Layer]], child: Layer, names: list[str]) -> None:
    known = found.setdefault(id(child), ([], child))[0]
    known += [name for name in names if name not in known]


def _layers_in(value: Any, path: str, depth: int) -> Iterator[tuple[str, Layer]]:
    """The layers that an attribute holds, in lists and mappings too."""
    if _is_layer(value):
        yield path, value
    elif depth < 4 and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _layers_in(item, f"{path}/{key}", depth + 1)
    elif depth < 4 and isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _layers_in(item, f"{path}/{index}", depth + 1)


def _is_layer(value: Any) -> bool:
    return isinstance(value, keras.Layer) and not isinstance(value, keras.metrics.Metric)


def find_layer(model: Layer, name: str, role: str, other: tuple[str, Layer] | None = None) -> tuple[str, Layer]:
    """The own name of a layer, and the layer.

    Args:
        model: where to look.
        name: as a mapping has it: attributes and names of Keras, with ``/`` or ``.`` between them; the model's own
            name may stand before them, as in Keras' `layer.path`.
        role: what the model is called in errors: ``student``, ``teacher``.
        other: role and model of the other side, which an error mentions where the layer is there.

    Raises:
        LayerError: there is no such layer, or several; `advice` has the suggestion.
    """
    if not name:
        return "", model
    hits = _hits(model, name)
    if not hits and name[: len(model.name) + 1] in (f"{model.name}/", f"{model.name}."):
        hits = _hits(model, name[len(model.name) + 1 :])
    kind = type(model).__name__
    if len({id(layer) for _, layer in hits}) > 1:
        shown = ", ".join(f"{own!r} (which Keras calls {layer.name!r})" for own, layer in hits[:4])
        advice = "Write the other name of the one that is meant: its attribute, or what Keras calls it."
        raise LayerError(f"{role} {kind} has {len(hits)} layers that {name!r} may mean: {shown}", advice)
    if not hits:
        raise _unknown(model, name, f"{role} {kind}", other)
    if isinstance(hits[0][1], keras.layers.InputLayer):
        advice = "Map the input of the layer behind it, as in 'dense:input', or that of the model: ':input'."
        raise LayerError(f"{role} {kind}: {name!r} is an InputLayer, which no forward calls", advice)
    return hits[0]


def _hits(model: Layer, name: str) -> list[tuple[str, Layer]]:
    return list(dict(_matches(model, name, "", (id(model),))).items())


def _matches(layer: Layer, rest: str, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Layer]]:
    """Own names and layers that the rest of a name may mean; a part may itself contain dots."""
    for names, child in children(layer):
        if id(child) in above:
            continue
        own = prefix + names[0]
        for spelled in {form for name in names for form in (name, name.replace("/", "."))}:
            if rest == spelled:
                yield own, child
            elif rest.startswith(spelled) and rest[len(spelled)] in "/.":
                yield from _matches(child, rest[len(spelled) + 1 :], f"{own}/", (*above, id(child)))


def _unknown(model: Layer, name: str, who: str, other: tuple[str, Layer] | None) -> LayerError:
    layers = [layer for layer in named_layers(model) if layer]
    plain = name.replace(".", "/")
    alike = [layer for layer in layers if layer.endswith(f"/{plain}")]
    if len(alike) > 1:
        shown = ", ".join(map(repr, alike[:4])) + (", ..." if len(alike) > 4 else "")
        return LayerError(f"{who} has {len(alike)} layers that end in {name!r}: {shown}", "Write the whole name.")
    near = alike[0] if alike else closest(plain, layers)
    theirs = ""
    if other is not None and _is_layer(other[1]) and _hits(other[1], name):
        theirs = f"The {other[0]} {type(other[1]).__name__} has one. "
    advice = theirs + (f"Did you mean {near!r}? " if near else "") + "All layers: kdhooks layers MODEL"
    return LayerError(f"{who} has no layer {name!r}", advice)


def require_built(model: Layer, role: str) -> None:
    """Refuse a model whose layers and weights do not all exist yet.

    Raises:
        ModelError: it is not built.
    """
    if not model.built:
        raise ModelError(
            f"{role} {type(model).__name__} is not built, so its layers have no weights yet: "
            "call it once on a batch, or model.build(input_shape), before distillation begins"
        )
