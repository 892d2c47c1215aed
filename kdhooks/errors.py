"""What can go wrong, and how it prints.

This module knows no other: every room may raise what stands here. A user's mistake is always a
`KDHooksError`; anything else that escapes is our bug.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path


class KDHooksError(Exception):
    """Something that the caller can mend; the message says how."""

    ag_pass_through = True  # in a tf.function AutoGraph raises it as it is, not as a text inside of an error of its own


class UsageError(KDHooksError):
    """The calls of a program contradict each other or the documentation."""


class ModelError(KDHooksError):
    """A model, or what it returned, cannot be used as it is."""


class LayerError(ModelError):
    """A mapping of layers that doesn't fit a model, before its place in the configuration is known.

    Attributes:
        message: what is wrong, in one sentence without a full stop.
        advice: one thing to do about it.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message, advice)
        self.message, self.advice = message, advice

    def __str__(self) -> str:
        return f"{self.message}. {self.advice}".rstrip(". ") if self.advice else self.message


class TransferError(ModelError):
    """Weights that can't be transferred, before the place of that wish in the configuration is known.

    Attributes:
        key: of ``finetune``, whose value is at fault; empty for the whole section.
        message: what is wrong, in one sentence without a full stop.
        advice: one thing to do about it.
    """

    def __init__(self, message: str, advice: str = "", *, key: str = "") -> None:
        super().__init__(message, advice)
        self.message, self.advice, self.key = message, advice, key

    def __str__(self) -> str:
        return f"{self.message}. {self.advice}".rstrip(". ") if self.advice else self.message


class MatcherError(ModelError):
    """No feature matcher of this name fits these shapes; the message says why."""


class ExportError(ModelError):
    """A model can't be written in a format, or what was written gives other numbers; the message says why."""


class DataError(KDHooksError):
    """A dataset, a batch or a file of data is missing, damaged or of another form."""


class CheckpointError(KDHooksError):
    """A checkpoint is missing, damaged, of another run or of a newer version."""


class NonFiniteLossError(KDHooksError):
    """A loss became NaN or infinite; the message names the step and the component.

    Attributes:
        step: the first bad step, counted as schedules count (from 0).
        component: the name of the loss component that went bad first.
    """

    def __init__(self, step: int, component: str, hint: str = "") -> None:
        self.step, self.component, self.hint = step, component, hint
        super().__init__(step, component, hint)  # the arguments, so that pickle can make it again

    def __str__(self) -> str:
        return f"the loss component {self.component!r} became NaN or infinite at step {self.step}{self.hint}"


class MissingPackageError(KDHooksError):
    """An optional package is needed for what was asked; the message has the install line."""

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        self.package, self.purpose, self.extra = package, purpose, extra
        super().__init__(package, purpose, extra)

    def __str__(self) -> str:
        return f"{self.purpose} needs the package {self.package!r}: pip install 'kdhooks[{self.extra}]'"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration, and where.

    Attributes:
        path: the dotted path inside the configuration, for example ``distillation.train.optimizer``.
        message: what is wrong, in one sentence without a full stop.
        suggestion: one thing to do about it, or an empty string.
        file: the file's name as the user gave it; ``<dict>`` where there is none, ``<python>`` for a
            value that the program set afterwards.
        line: line in the file, counted from 1; 0 where there is no file.
        column: column in the line, counted from 1; 0 where there is no file.
        snippet: the source line, without its newline.
        width: how many characters the caret line underlines.
    """

    path: str
    message: str
    suggestion: str = ""
    file: str = "<dict>"
    line: int = 0
    column: int = 0
    snippet: str = ""
    width: int = 1

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        lines = [f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"]
        if self.line:
            number = f"{self.line:3d}"
            # Tabs are repeated, not counted, so that the caret stands below what it means.
            indent = "".join("\t" if letter == "\t" else " " for letter in self.snippet[: self.column - 1])
            lines.append(f"{number} | {self.snippet}")
            lines.append(f"{' ' * len(number)} | {indent.ljust(self.column - 1)}{'^' * max(1, self.width)}")
        if self.suggestion:
            lines.append(f"  {self.suggestion}")
        return "\n".join(lines)


class ConfigError(KDHooksError):
    """A configuration is wrong; every problem is listed, in file order.

    Attributes:
        problems: the `Problem` list, never empty.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def shown(value: object) -> str:
    """How a message names a value that a user gave.

    >>> shown(None), shown(True), shown([1]), shown("off")
    ('nothing', 'true', 'a list', "'off'")
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, int) and value.bit_length() > 100:  # str() itself refuses thousands of digits
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, Real):
        return str(value)
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, Sequence):
        return "a list"
    if callable(value):
        return "a function"
    return f"an object of type {type(value).__name__}"


def told(error: BaseException) -> str:
    """An error of somebody else's code in one line: its class, its first line, and the place in the user's file."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}{place_of(error)}"


def place_of(error: BaseException) -> str:
    """File and line of the user's own code that an error came through, since no traceback is shown; empty for none."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}, line {error.lineno})"
    here = Path(__file__).parent
    ours = (str(here), str(here.with_name("kdhooks_tf")))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*ours, "<frozen")) and frame.filename != importlib.__file__
    ]
    installed = tuple({str(Path(path)) for path in sys.path if "site-packages" in path} | {sys.prefix, sys.base_prefix})
    mine = [frame for frame in frames if not frame.filename.startswith(installed)] or frames
    return f" ({mine[-1].filename}, line {mine[-1].lineno})" if mine else ""
