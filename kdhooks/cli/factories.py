"""Models by name: ``package.module:factory``, from the command line only, never from a configuration."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from kdhooks.errors import MissingPackageError, ModelError, UsageError, place_of, told
from kdhooks.names import closest


def import_module(name: str) -> ModuleType:
    """A module of the user's.

    Raises:
        UsageError: there is none of this name, or importing it fails; the message says where.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if missing.split(".")[0] == "torch" and not sys.modules.get("torch"):
            raise MissingPackageError("torch", "a PyTorch model", "torch") from None
        if missing.split(".")[0] in ("tensorflow", "keras") and not sys.modules.get("tensorflow"):
            raise MissingPackageError(missing.split(".")[0], "a Keras model", "tensorflow") from None
        if name == missing or name.startswith(f"{missing}."):
            raise UsageError(f"there is no module {missing!r}{_searched(missing)}") from None
        raise UsageError(f"{name} needs the module {missing!r}, which is not installed{place_of(error)}") from None
    except Exception as error:
        raise UsageError(f"{name} can't be imported: {told(error)}") from None


def make_model(spelling: str) -> Any:
    """The model that a factory returns when it is called with nothing.

    Args:
        spelling: ``package.module:factory``; the factory may be an attribute of an attribute, and what is
            a model already is taken as it is.

    Raises:
        UsageError: no such module or factory.
        ModelError: the factory failed, or returned no model.
    """
    found = find(spelling, "model", "factory, as in torchvision.models:resnet18")
    from kdhooks.backend import backend_of, framework_of

    if framework_of(found) is None or isinstance(found, type):
        if not callable(found):
            raise UsageError(f"{spelling} is {type(found).__name__}, which can't be called to make a model")
        try:
            found = found()
        except Exception as error:
            raise ModelError(f"{spelling} failed: {told(error)}") from None
    backend_of(found)
    return found


def make_function(spelling: str, what: str) -> Callable[..., Any]:
    """A function of the user's, which is called later.

    Args:
        spelling: ``package.module:function``.
        what: it is for, for messages: the name of an option.

    Raises:
        UsageError: there is none.
    """
    found = find(spelling, "function", "function, as in my_search:build")
    if not callable(found):
        raise UsageError(f"{what} {spelling} is {type(found).__name__}, which can't be called")
    function: Callable[..., Any] = found
    return function


def find(spelling: str, kind: str, form: str) -> Any:
    """What stands in a module under a name.

    Args:
        spelling: ``package.module:name``; the name may be that of an attribute of an attribute.
        kind: of what is looked for, for messages.
        form: how its name is written, with an example.

    Raises:
        UsageError: there is no such module or name.
    """
    module_name, colon, name = spelling.partition(":")
    if not (module_name and colon and name):
        raise UsageError(f"{spelling!r} names no {kind}: write package.module:{form}")
    found: Any = import_module(module_name)
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{_title(found)} has no {part!r}.{_suggestion(part, found)}")
        found = getattr(found, part)
    return found


def _title(owner: Any) -> str:
    return owner.__name__ if isinstance(owner, (ModuleType, type)) else type(owner).__name__


def _suggestion(name: str, owner: Any) -> str:
    public = [one for one in dir(owner) if not one.startswith("_") and callable(getattr(owner, one, None))]
    own = [
        one for one in public if getattr(getattr(owner, one), "__module__", None) == getattr(owner, "__name__", None)
    ]
    near = closest(name, public)
    if near is not None:
        return f" Did you mean {near!r}?"
    return f" It has: {', '.join(own[:10])}" if own else ""


def _searched(missing: str) -> str:
    """A hint for the two usual mistakes: a file's name, and another folder."""
    if missing.endswith(".py") or "/" in missing:
        module = missing.removesuffix(".py").strip("./").replace("/", ".")
        return f": name the module, not the file: {module}"
    if missing == "py" or Path(f"{missing}.py").exists():
        return ": name the module, not the file"
    near = closest(missing, [path.stem for path in Path().glob("*.py")] + [path.name for path in Path().glob("*/")])
    return f" in the present folder or among what is installed.{f' Did you mean {near!r}?' if near else ''}"
