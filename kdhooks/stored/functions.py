"""Functions, classes and models by what they do, so that what another one made is never taken for this one's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kdhooks.cache import Weight

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))


def function_digest(function: Callable[..., Any]) -> str:
    """32 hexadecimal digits of a function's name, byte code, constants, defaults, closure, and what it calls.

    Functions and plain values of the same package count as they are, all else by its name; comments and lines don't.

    >>> function_digest(lambda value: value[0]) == function_digest(lambda value: value[0])
    True
    >>> function_digest(lambda value: value[0]) == function_digest(lambda value: value[1])
    False
    """
    return _digest(_parts(function, set()))


def class_digest(kind: type) -> str:
    """The same of a class: its name and its own methods, without those of its bases.

    >>> class_digest(type("A", (), {"f": lambda self: 1})) == class_digest(type("A", (), {"f": lambda self: 2}))
    False
    """
    seen: set[int] = set()
    texts = [f"{kind.__module__}.{kind.__qualname__}"]
    for name, value in sorted(vars(kind).items()):
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        text = plain(function)
        if isinstance(function, FunctionType):
            texts += [name, *_parts(function, seen)]
        elif text is not None and not name.startswith("__"):
            texts.append(f"{name}={text}")
    return _digest(texts)


def model_digest(texts: Iterable[str], weights: Iterable[Weight]) -> str:
    """The same of a model, by texts that say what it does and all its weights, in its order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(text.encode())
    for weight in weights:
        digest.update(f"{weight.name}|{weight.dtype}|{weight.array.shape}".encode())
        content: Any = np.ascontiguousarray(weight.array).reshape(-1).view(np.uint8)
        digest.update(content)
    return digest.hexdigest()


def _digest(texts: list[str]) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=16).hexdigest()


def plain(value: Any) -> str | None:
    """A value as text, where it is a number, a text, or a collection of such; None where it is something else.

    >>> plain({"b": (1, 2.0)}), plain(object())
    ("{'b':(1,2.0)}", None)
    """
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Mapping):
        items = [(plain(key), plain(item)) for key, item in value.items()]
        texts = [f"{key}:{item}" for key, item in items if key is not None and item is not None]
        return f"{{{','.join(texts)}}}" if len(texts) == len(items) else None
    if isinstance(value, (tuple, list, set, frozenset)):
        parts = [plain(item) for item in value]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        unordered = isinstance(value, (set, frozenset))
        return f"({','.join(sorted(known) if unordered else known)})"
    return None


def _parts(function: Any, seen: set[int]) -> list[str]:
    if id(function) in seen:  # a closure over itself
        return ["again"]
    seen.add(id(function))
    if isinstance(function, partial):
        held = [text for item in (*function.args, *sorted(function.keywords.items())) for text in _value(item, seen)]
        return ["partial", *_parts(function.func, seen), *held]
    if hasattr(function, "__func__"):  # a method, with what it is bound to
        return ["method", *_parts(function.__func__, seen), *_value(function.__self__, seen)]
    code = getattr(function, "__code__", None)
    if code is None:
        return _callable_object(function, seen)
    named = sorted((function.__kwdefaults__ or {}).items())
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    held = [text for item in (*(function.__defaults__ or ()), *named, *cells) for text in _value(item, seen)]
    return [f"{function.__module__}.{function.__qualname__}", *_code(code), *held, *_called(function, code, seen)]


def _called(function: Any, code: CodeType, seen: set[int]) -> list[str]:
    """The functions and plain values of its own package that a function names."""
    around, texts = function.__globals__, list[str]()
    package = function.__module__.partition(".")[0]
    for name in sorted(_names(code) & set(around)):
        value, text = around[name], plain(around[name])
        if text is not None:
            texts.append(f"{name}={text}")
        elif isinstance(value, FunctionType) and value.__module__.partition(".")[0] == package:
            texts += _parts(value, seen)
    return texts


def _names(code: CodeType) -> set[str]:
    """All names in byte code, also in that of functions inside."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _callable_object(function: Any, seen: set[int]) -> list[str]:
    kind = type(function)
    if isinstance(function, type) or kind.__module__ == "builtins":
        return [f"{function.__module__}.{getattr(function, '__qualname__', kind.__qualname__)}"]
    code: Any = getattr(vars(kind).get("__call__"), "__code__", None)
    state = sorted(getattr(function, "__dict__", {}).items())
    texts = [] if code is None else _code(code)
    return [f"{kind.__module__}.{kind.__qualname__}", *texts, *(text for item in state for text in _value(item, seen))]


def _value(value: Any, seen: set[int]) -> list[str]:
    """A value that a function holds: as text, as the function that it is, or by its class."""
    text = plain(value)
    if text is not None:
        return [text]
    if isinstance(value, tuple):
        return [text for item in value for text in _value(item, seen)]
    if callable(value):
        return _parts(value, seen)
    return [f"{type(value).__module__}.{type(value).__qualname__}"]


def _code(code: CodeType) -> list[str]:
    constants = []
    for constant in code.co_consts:
        constants += _code(constant) if isinstance(constant, CodeType) else [plain(constant) or "?"]
    return [code.co_code.hex(), " ".join((*code.co_names, "|", *code.co_varnames, "|", *code.co_freevars)), *constants]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a variable that was never set
        return False
