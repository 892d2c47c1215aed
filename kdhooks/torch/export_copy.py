"""A clean copy of a model for export, and what it returns in plain forms."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdhooks.errors import ExportError, ModelError, told
from kdhooks.torch.taps import drop_dead_hooks
from kdhooks.torch.wrappers import inside


def clean_twin(model: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode, without hooks of ours and without what stands around it or its layers.

    `torch.compile`, DataParallel, DDP, checkpointing and what accelerate puts before a ``forward`` are left out.

    Raises:
        ExportError: the model can't be copied, has no weights yet, or only its part of weights that ranks share.
    """
    _check_weights(model)
    root = inside(model)
    try:
        twin = copy.deepcopy(root)
    except Exception as error:  # whatever a user's module has against it
        raise ExportError(f"{type(root).__name__} can't be copied: {told(error)}") from None
    for module in twin.modules():
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = inside(child)
    for module in twin.modules():
        if "_original_forward" in vars(module):  # accelerate's, whose closure still runs the original
            vars(module).pop("forward", None)
            del module._original_forward
    drop_dead_hooks(*twin.modules())
    twin.zero_grad(set_to_none=True)
    return twin.to("cpu").eval()


def _check_weights(model: nn.Module) -> None:
    kind = type(inside(model)).__name__
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(value):
            raise ModelError(f"{kind} has weights without a shape yet, {name!r}: call it on a batch first")
        if value.is_meta:
            raise ModelError(f"{kind} has weights without values, {name!r} is on the device 'meta': load its weights")
        if type(value.data).__name__ == "DTensor":
            raise ExportError(
                f"{kind} is sharded, so this process has only its part of {name!r}: gather the weights (the file that "
                "fit() writes has them), load them into a model that is not sharded, and export that"
            )


def precision_of(model: nn.Module) -> str:
    """The least precise floating dtype of a model's weights, as NumPy spells it."""
    dtypes = [value.dtype for value in [*model.parameters(), *model.buffers()] if value.is_floating_point()]
    least = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)
    return str(least).removeprefix("torch.")


def floats_as(model: nn.Module, inputs: Any) -> Any:
    """Inputs with floats in the model's dtype, where all of its floating weights have the same."""
    from kdhooks.torch.outputs import map_tensors

    dtypes = {value.dtype for value in model.parameters() if value.is_floating_point()}
    if len(dtypes) != 1:
        return inputs
    (dtype,) = dtypes
    return map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, inputs)


def plain(output: Any) -> Any:
    """An output as a tensor, or as tuples and dicts of tensors; what is neither (None, numbers, caches) is left out.

    A file then needs nothing of the library whose class the output had.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        kept = {str(name): plain(value) for name, value in output.items()}
        return {name: value for name, value in kept.items() if not _is_empty(value)}
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        return plain(output._asdict())
    if isinstance(output, (tuple, list)):
        return tuple(value for value in map(plain, output) if not _is_empty(value))
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return plain({one.name: getattr(output, one.name) for one in dataclasses.fields(output)})
    return None


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (tuple, dict)) and not value)


def named(output: Any) -> dict[str, Tensor]:
    """The tensors of a plain output by name, in order: ``output``, ``output_1``, keys, keys with a place behind a dot.

    >>> list(named({"logits": torch.zeros(1), "hidden": (torch.zeros(1), torch.zeros(1))}))
    ['logits', 'hidden.0', 'hidden.1']
    """
    if isinstance(output, tuple):
        output = {f"output_{place}": value for place, value in enumerate(output)}
    if not isinstance(output, Mapping):
        output = {"output": output}
    return dict(_leaves(output, ""))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (tuple, list, Mapping)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _leaves(item, f"{name}.{key}" if name else str(key))


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Copies on the host; of dtypes that NumPy has not as float32."""
    found = {}
    for name, tensor in tensors.items():
        here = tensor.detach().cpu()
        unknown = here.dtype is torch.bfloat16 or str(here.dtype).startswith("torch.float8")
        found[name] = np.array((here.float() if unknown else here).resolve_conj().numpy())
    return found


def each_once(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a state for safetensors, tied ones once; and metadata: which name stands for which.

    Of names of one tensor the first stays, which is the embedding of a language model with a tied head, as its readers
    expect. ``safetensors.torch.load_model`` and ``load_state_dict(..., strict=False)`` load such a file.
    """
    kept: dict[str, Tensor] = {}
    metadata = {"format": "pt"}
    first: dict[Any, str] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            continue
        memory = value.untyped_storage().data_ptr()
        key = (memory, value.storage_offset(), value.shape, value.stride(), value.dtype) if value.numel() else name
        if key in first:
            metadata[name] = first[key]
        else:
            first[key] = name
            kept[name] = value.detach().clone(memory_format=torch.contiguous_format)  # views share memory, too
    return kept, metadata
