"""Names of layers as their author gave them, whatever was wrapped around them since.

`torch.compile`, DataParallel, DDP, FSDP and checkpointing put a module around another one and a segment into
the names below it; here both are seen through.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from kdhooks.errors import LayerError
from kdhooks.names import closest

__all__ = ["LayerError", "compiled_parts", "find_layer", "inside", "living", "named_layers", "something_was_traced"]

_SEGMENTS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_AROUND = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def inside(module: nn.Module) -> nn.Module:
    """The author's own module inside of all wrappers."""
    while (inner := _inner(module)) is not None:
        module = inner
    return module


def _inner(module: nn.Module) -> nn.Module | None:
    for segment in _SEGMENTS:
        found = module._modules.get(segment)
        if found is not None:
            return found
    return module.module if isinstance(module, _AROUND) else None


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer by its author's name; the module outside of a layer's wrappers, whose call is the layer's.

    The root, ``''``, is the author's own module: a user may call it with or without what is around it.

    >>> list(named_layers(nn.DataParallel(nn.Sequential(nn.Linear(1, 1)))))
    ['', '0']
    """
    root = inside(model)
    layers: dict[str, nn.Module] = {"": root}
    layers.update(_below(root, "", ()))
    return layers


def _below(module: nn.Module, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module._modules.items():
        if child is None or id(child) in above:
            continue
        yield prefix + name, child
        yield from _below(inside(child), f"{prefix}{name}.", (*above, id(child)))


def find_layer(
    model: nn.Module, name: str, role: str, other: tuple[str, nn.Module] | None = None
) -> tuple[str, nn.Module]:
    """The name and the module of a layer.

    Args:
        model: where to look.
        name: as a mapping has it, with or without the segments of wrappers.
        role: what the model is called in errors: ``student``, ``teacher``.
        other: role and model of the other side, which an error mentions where the layer is there.

    Raises:
        LayerError: there is no such layer, or only several that end like it; `advice` has the suggestion.
    """
    layers = named_layers(model)
    if name in layers:
        return name, layers[name]
    parts = [part for part in name.split(".") if part not in _SEGMENTS]
    for bare in (".".join(parts), ".".join(parts[1:]) if parts[:1] == ["module"] else name):
        if bare in layers:
            return bare, layers[bare]
    kind = type(layers[""]).__name__
    alike = [layer for layer in layers if layer.endswith(f".{name}")]
    if len(alike) > 1:
        shown = ", ".join(map(repr, alike[:4])) + (", ..." if len(alike) > 4 else "")
        message = f"{role} {kind} has {len(alike)} layers that end in {name!r}: {shown}"
        raise LayerError(message, "Write the whole name.")
    near = closest(name, [layer for layer in layers if layer])
    theirs = ""
    if other is not None and isinstance(other[1], nn.Module) and name in named_layers(other[1]):
        theirs = f"The {other[0]} {type(inside(other[1])).__name__} has one. "
    advice = theirs + (f"Did you mean {near!r}? " if near else "") + "All layers: kdhooks layers MODEL"
    raise LayerError(f"{role} {kind} has no layer {name!r}", advice)


def something_was_traced() -> bool:
    """Whether torch holds compiled code of anything; where it holds none no model has to be traced again."""
    frames = sys.modules.get("torch._dynamo.convert_frame")
    return frames is not None and bool(getattr(getattr(frames, "input_codes", None), "seen", True))


def compiled_parts(model: nn.Module) -> bool:
    """Whether a module is compiled: itself, one inside of it, or one that was made around it elsewhere."""
    for module in model.modules():
        if "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None:
            return True
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    root = inside(model)
    if dynamo is None:
        return False
    return any(_modules(wrapper).get("_orig_mod") is root for wrapper in living(dynamo.OptimizedModule))


def living(*kinds: type) -> list[Any]:
    """All objects of these types that the program still has; takes a while, so it is asked once a run."""
    return [one for one in gc.get_objects() if issubclass(type(one), kinds)]


def _modules(module: Any) -> dict[str, Any]:
    found: dict[str, Any] = vars(module).get("_modules", {})
    return found
