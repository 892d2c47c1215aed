"""The formats by name: how their files are called, and which frameworks write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdhooks.errors import ExportError, UsageError
from kdhooks.names import did_you_mean


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: in Python and in messages.
        suffix: of its files; empty for a folder.
        title: what a file of it holds.
        frameworks: whose models can be written in it.
        needs_inputs: whether example inputs are needed to write it.
        any_name: whether its files may have any name, since those who read them don't ask for the suffix.
    """

    name: str
    suffix: str
    title: str
    frameworks: tuple[str, ...]
    needs_inputs: bool
    any_name: bool = False

    def __str__(self) -> str:
        return self.suffix or "a SavedModel folder"


_BOTH = ("pytorch", "tensorflow")

FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format("safetensors", ".safetensors", "weights by name", _BOTH, False),
        Format("pt2", ".pt2", "a program of torch.export", ("pytorch",), True, True),
        Format("onnx", ".onnx", "an ONNX graph", _BOTH, True, True),
        Format("keras", ".keras", "a Keras model", ("tensorflow",), True),
        Format("savedmodel", "", "a TensorFlow SavedModel", ("tensorflow",), True, True),
        Format("h5", ".weights.h5", "weights of a Keras model", ("tensorflow",), False),
    )
}
"""Every format by its name."""


def format_of(path: str | Path, named: str | None = None) -> Format:
    """The format of a file: the one that is named, or the one that the file's name ends like.

    A name without a suffix, or with a slash at its end, is a folder: a SavedModel.

    Raises:
        UsageError: no format of that name, or none whose files are called so.

    >>> format_of("student.onnx").name, format_of("served/").name, format_of("student.bin", "onnx").name
    ('onnx', 'savedmodel', 'onnx')
    """
    if named is not None:
        found = FORMATS.get(named.removeprefix(".").lower())
        if found is None:
            raise UsageError(f"there is no format {named!r}. {did_you_mean(named, FORMATS, what='Formats')}")
        if not found.any_name and not Path(path).name.endswith(found.suffix):
            raise UsageError(
                f"{path}: files of the format {found.name!r} end in {found.suffix}, else nobody reads them"
            )
        return found
    name = Path(path).name.lower()
    for one in FORMATS.values():
        if one.suffix and name.endswith(one.suffix):
            return one
    if str(path).endswith("/") or not Path(path).suffix:
        return FORMATS["savedmodel"]
    suffixes = [one.suffix for one in FORMATS.values() if one.suffix]
    suggestion = did_you_mean(Path(path).suffix, suffixes, what="Known are")
    if suggestion.startswith("Known"):
        suggestion += "; a name without a suffix is the folder of a SavedModel"
    raise UsageError(f"{path}: no format has files that end in {Path(path).suffix!r}. {suggestion}")


def check_framework(form: Format, path: Path, kind: str, framework: str) -> None:
    """Refuse a format that models of a framework are not written in.

    Args:
        form: the format.
        path: where the file should go.
        kind: the class of the model, for the message.
        framework: of the model.

    Raises:
        ExportError: it can't be; the message names those that can.
    """
    if framework in form.frameworks:
        return
    others = [str(one) for one in FORMATS.values() if framework in one.frameworks]
    title = {"pytorch": "PyTorch", "tensorflow": "Keras"}[framework]
    raise ExportError(
        f"{path}: {form.title} can't be made of {kind}, which is a {title} model: "
        f"write {', '.join(others[:-1])} or {others[-1]}"
    )
