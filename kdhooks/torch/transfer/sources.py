"""Where weights come from: a model, a state_dict, a file; read tensor by tensor, and never run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdhooks.errors import DataError, UsageError, shown
from kdhooks.torch.weights import file_content, no_weights, safetensors
from kdhooks.torch.wrappers import inside

INNER = ("state_dict", "model_state_dict", "model", "student", "state_dict_ema", "net", "network", "module")
"""Where checkpoints keep their weights; the first that is there is taken."""

_DEEPEST = 3


@dataclass(frozen=True)
class Source:
    """Weights that can be read.

    Attributes:
        title: what they are, for the report.
        shapes: by name.
        read: gives one tensor; it may share its memory with the source.
    """

    title: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


@contextmanager
def opened(source: Any) -> Iterator[Source]:
    """The weights of a model, a state_dict (or a checkpoint that holds one), or the path of a file.

    Raises:
        UsageError: it is none of these.
        DataError: the file is missing or damaged, holds no weights, or objects that would be run.
        MissingPackageError: a safetensors file, and no safetensors.
    """
    if isinstance(source, nn.Module):
        root = inside(source)
        yield of_mapping(root.state_dict(), type(root).__name__)
    elif isinstance(source, Mapping):
        yield of_mapping(source, "the state_dict")
    elif not isinstance(source, (str, Path)):
        raise UsageError(f"weights come from a model, a state_dict or the path of a file, not from {shown(source)}")
    elif Path(source).suffix == ".safetensors":
        with _opened_safetensors(Path(source)) as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            yield Source(Path(source).name, shapes, file.get_tensor)
    else:
        yield of_mapping(file_content(Path(source), mapped=True), Path(source).name)


@contextmanager
def _opened_safetensors(path: Path) -> Iterator[Any]:
    safetensors()  # or the error about the package
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(str(path), framework="pt")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from None
    except SafetensorError:
        raise no_weights(path) from None
    with file as opened_file:
        yield opened_file


def of_mapping(content: Any, title: str) -> Source:
    """The weights in a state_dict, or in what a checkpoint holds.

    Raises:
        DataError: there are none, or several without a name that is known.
    """
    weights = _found(content, title)
    names = {str(name).replace("_orig_mod.", ""): name for name in weights}
    shapes = {clean: tuple(weights[name].shape) for clean, name in names.items()}
    return Source(title, shapes, lambda name: weights[names[name]].detach())


def _found(content: Any, title: str) -> dict[Any, Tensor]:
    there = dict(_state_dicts(content, "", 0))
    if "" in there:
        return there[""]
    for key in INNER:
        for path in sorted(there, key=lambda path: path.count(".")):
            if path.split(".")[-1] == key or path.split(".")[0] == key:
                return there[path]
    if len(there) == 1:
        return next(iter(there.values()))
    if there:
        names = ", ".join(map(repr, there))
        raise DataError(f"{title} holds several models: {names}. Hand over one of their state_dicts")
    raise DataError(f"{title} holds no weights: it must be a state_dict, or have one under {', '.join(INNER)}")


def _state_dicts(content: Any, path: str, depth: int) -> Iterator[tuple[str, dict[Any, Tensor]]]:
    """Mappings that hold tensors, by where they stand; what an optimizer keeps is not among them."""
    if not isinstance(content, Mapping) or depth > _DEEPEST or path.split(".")[-1].startswith("optim"):
        return
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors and all(isinstance(name, str) for name in tensors):
        yield path, tensors
        return
    for name, value in content.items():
        yield from _state_dicts(value, f"{path}.{name}" if path else str(name), depth + 1)
