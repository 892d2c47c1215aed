"""What a teacher in PyTorch is known by: its weights, its code, and its options that are no tensors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdhooks.stored.functions import class_digest, function_digest, plain
from kdhooks.torch.sharding import author_class, gather_nothing, is_sharded, sharded_modules, whole
from kdhooks.torch.shards import of_sharding, whole_copy
from kdhooks.torch.taps import is_ours
from kdhooks.torch.wrappers import inside, named_layers

if TYPE_CHECKING:
    from kdhooks.cache import Weight

_BITS: dict[int, torch.dtype] = {1: torch.uint8, 2: torch.int16}
_PUBLISHED = frozenset({"torch", "torchvision", "torchaudio", "timm", "transformers", "peft", "sentence_transformers"})
"""Packages whose classes are known by the package's version, without a look at their code."""

_ORIGIN = frozenset(
    {"_name_or_path", "name_or_path", "transformers_version", "_commit_hash", "architectures", "dtype", "torch_dtype"}
)
"""What transformers notes when it saves and loads a model, which is the same teacher afterwards; dtypes are known from
the weights themselves."""


def host_array(tensor: Tensor) -> tuple[NDArray[Any], str]:
    """A tensor's values on the host, or their bits where NumPy has no such dtype; and the dtype's name in torch.

    On the CPU nothing is copied.
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    if is_foreign(tensor.dtype):
        tensor = tensor.detach().contiguous().view(_BITS[tensor.element_size()])
    return tensor.numpy(force=True), dtype


def is_foreign(dtype: torch.dtype) -> bool:
    """Whether NumPy has no such dtype."""
    return dtype is torch.bfloat16 or "float8" in str(dtype)


def weights_of(model: nn.Module) -> Iterator[Weight]:
    """All parameters and buffers, in the model's order, by their author's names."""
    from kdhooks.cache import Weight

    gather_nothing(model)
    for name, tensor in _tensors(model):
        array, dtype = host_array(whole(tensor))
        yield Weight(name, array, dtype)


def unreadable(model: nn.Module) -> str:
    """The name of a weight whose values can't be read as they are, and its class; empty where there is none."""
    for name, tensor in _tensors(model):
        plainly = type(tensor) in (Tensor, nn.Parameter) or isinstance(tensor, nn.Parameter)
        if not plainly or tensor.device.type == "meta" or tensor.is_quantized or tensor.layout is not torch.strided:
            return f"{name}, {type(tensor).__name__} on {tensor.device.type}"
    return ""


def versions_of(model: nn.Module) -> list[tuple[int, int]]:
    """What changes when a weight is written to or replaced, at no cost; in inference tensors only replacing is seen."""
    tensors = (tensor for _, tensor in _tensors(model))
    return [(id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]


def classes_of(model: nn.Module) -> list[str]:
    """The classes of a model's modules and their bases, by what they do; those of published packages by version."""
    layers = named_layers(model).values()
    kinds = dict.fromkeys(
        kind for module in layers for kind in author_class(inside(module)).__mro__ if kind is not object
    )
    texts = []
    for kind in kinds:
        package = kind.__module__.partition(".")[0]
        version = getattr(sys.modules.get(package), "__version__", None) if package in _PUBLISHED else None
        name = f"{kind.__module__}.{kind.__qualname__}"
        texts.append(f"{name} {class_digest(kind)}" if version is None else f"{name} of {package} {version}")
    return sorted(texts)


def options_of(model: nn.Module) -> list[str]:
    """What changes a model's output besides weights and classes: its structure, plain attributes, functions, hooks.

    Attributes count where they are numbers, texts, or collections of such; those whose names begin with an underscore
    don't, and no other object does but functions and a Hugging Face config.
    """
    root = inside(model)
    texts = [_text(root)]
    config: Any = getattr(root, "config", None)
    if hasattr(config, "to_json_string"):
        said = json.loads(config.to_json_string(use_diff=False))
        texts.append(json.dumps({key: value for key, value in said.items() if key not in _ORIGIN}, sort_keys=True))
    for name, module in named_layers(model).items():
        own = [*attributes_of(inside(module)), *_hooks(inside(module))]
        if own:
            texts.append(f"{name}: {'; '.join(own)}")
    return texts


def _text(root: nn.Module) -> str:
    """A model as text, whoever shares out its weights; the precision that `fully_shard` gives a part belongs to it."""
    text = repr(whole_copy(root) if is_sharded(root) else root)
    policies = (module._get_fsdp_state()._mp_policy for module in sharded_modules(root))
    lower = dict.fromkeys(
        f"{one.param_dtype} {one.output_dtype} {one.cast_forward_inputs}"
        for one in policies
        if one.param_dtype is not None or one.output_dtype is not None
    )
    return "\n".join((text, *lower))


def attributes_of(module: nn.Module) -> Iterator[str]:
    """A module's own plain attributes and functions, without those of its parts."""
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or name in ("training", "config", *_ORIGIN):
            continue
        text = plain(value)
        if text is not None:
            yield f"{name}={text}"
        elif callable(value) and not isinstance(value, nn.Module):
            yield f"{name}={function_digest(value)}"


def _hooks(module: nn.Module) -> Iterator[str]:
    """Hooks that may change what a layer gets or returns."""
    for kind in (module._forward_pre_hooks, module._forward_hooks):
        others = (hook for hook in kind.values() if not is_ours(hook) and not of_sharding(hook))
        yield from (f"hook {function_digest(hook)}" for hook in others)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    root = inside(model)
    yield from ((_clean(name), tensor) for name, tensor in root.named_parameters())
    yield from ((_clean(name), tensor) for name, tensor in root.named_buffers())


def _clean(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPED)


_WRAPPED: Sequence[str] = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


def float_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor's values on the host; those of dtypes that NumPy has not as float32."""
    return (tensor.float() if is_foreign(tensor.dtype) else tensor).numpy(force=True)


def tensor_beside(array: NDArray[Any], beside: Tensor) -> Tensor:
    """An array as a tensor where another one is; on the CPU nothing is copied."""
    tensor = torch.from_numpy(array if array.flags.writeable else np.array(array))
    if beside.device.type == "cuda":
        tensor = tensor.pin_memory()  # from other memory the copy waits for the device
    return tensor if beside.device.type == "cpu" else tensor.to(beside.device, non_blocking=True)
