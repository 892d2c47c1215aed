"""The single values of the tree: numbers, words and short lists, each with what it expects in words."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schema import And, Or, Schema, Use

from kdhooks.config.expressions import Wrong
from kdhooks.config.known import FEATURE_LOSSES, FEATURE_MATCHERS, STUDENT_LOSSES, TEACHER_LOSSES
from kdhooks.config.layer_taps import layer_tap
from kdhooks.config.mappings import layer_groups, layer_pairs
from kdhooks.config.rules import Leaf, ListOf, OneOf, Report, any_broken
from kdhooks.config.scalars import meaning
from kdhooks.config.source import BROKEN, join
from kdhooks.names import did_you_mean

_number: Any = And(
    Or(int, float), lambda value: not isinstance(value, bool), lambda value: abs(value) <= sys.float_info.max
)
_whole: Any = And(_number, lambda value: value == int(value), Use(int))  # 1e3 is meant as 1000
_words = re.compile(r"[,\s]+")


def _whole_from(least: int, most: float = math.inf) -> Schema:
    return Schema(And(_whole, lambda value: least <= value <= most))


WHOLE = Leaf("a whole number", Schema(_whole))
NUMBER = Leaf("a number", Schema(_number))
STEP = Leaf("a number above 0", Schema(And(_number, lambda value: value > 0)))
FROM_ZERO = Leaf("a whole number of at least 0", _whole_from(0))
FROM_ONE = Leaf("a whole number of at least 1", _whole_from(1))
FROM_TWO = Leaf("a whole number of at least 2", _whole_from(2))
ITERATION = Leaf(
    "a whole number of at least 1, or -1 for all",
    Schema(And(_whole, lambda value: value >= 1 or value == -1, Use(lambda value: None if value == -1 else value))),
)
SEED = Leaf("a whole number from 0 to 4294967295", _whole_from(0, 2**32 - 1))
NOT_NEGATIVE = Leaf("a number of at least 0", Schema(And(_number, lambda value: value >= 0, Use(float))))
POSITIVE = Leaf("a number above 0", Schema(And(_number, lambda value: value > 0, Use(float))))
BOOLEAN = Leaf("true or false", Schema(bool))
TEXT = Leaf("text", Schema(And(str, len)))
BLOCK = Leaf("the name of a layer", Schema(str))
RUN_NAME = Leaf(
    "text without slashes",
    Schema(And(str, lambda value: re.fullmatch(r"[^/\\\0]+", value) and value not in (".", ".."))),
)
RESUME = Leaf("true, false or the path of a checkpoint", Schema(Or(bool, And(str, len))))
DEVICE = Leaf(
    "'auto', 'cpu', 'gpu', 'cuda', 'xpu' or 'mps', or one of several as in 'cuda:1'",
    Schema(And(str, Use(str.lower), lambda value: re.fullmatch(r"auto|cpu|(gpu|cuda|xpu|mps)(:[0-9]+)?", value))),
)
PRECISION = OneOf(
    {
        **{"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"},
        **{"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"},
    }
)
PRECISION_OR_AUTO = OneOf({**PRECISION.choices, "auto": "auto"})
SWITCH = Leaf("true, false or auto", Schema(Or(bool, And(str, Use(str.lower), "auto"))))
STORED = OneOf(
    {
        **{"float32": "float32", "float16": "float16", "bfloat16": "bfloat16", "int8": "int8"},
        **{"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"},
    }
)
POOL = Leaf(
    "one or more whole numbers of at least 1, as in [1, 1]",
    Schema(Or(And(_whole_from(1), Use(lambda size: (size,))), And([_whole_from(1)], len, Use(tuple)))),
)
_IPEX = (
    "Intel's extension is chosen for teacher and student apart",
    "Write framework: pytorch, and ipex: true or auto in distillation.teacher and distillation.train.",
)
FRAMEWORK = OneOf(
    {
        **{"pytorch": "pytorch", "tensorflow": "tensorflow"},
        **{"pytorch_fx": "pytorch", "torch": "pytorch", "keras": "tensorflow", "NA": None},
    },
    refused={"pytorch_ipex": _IPEX},
)
MODE = OneOf({"eager": "eager", "graph": "graph"})
STRATEGY = OneOf({"auto": "auto", "ddp": "ddp", "fsdp2": "fsdp2"})
LAST_BATCH = OneOf({"keep": "keep", "discard": "discard", "rollover": "rollover"})
COMBINE = OneOf({"losses": "losses", "logits": "logits", "probabilities": "probabilities"})
VOCABULARY = OneOf({"common": "common", "student": "student", "teacher": "teacher"})
BALANCE = OneOf({"gradient": "gradient"})
WORDS = ListOf(TEXT, "a list of names", split=lambda text: [word for word in _words.split(text) if word])
WEIGHTS = ListOf(
    NOT_NEGATIVE,
    "a list of numbers",
    alone=True,
    split=lambda text: [meaning(word) for word in _words.split(text) if word],
)
SIGNS = ListOf(
    BOOLEAN,
    "true or false, or a list of them",
    alone=True,
    split=lambda text: [meaning(word) for word in _words.split(text) if word],
)
INPUT_COLUMNS = Leaf(
    "a list of column numbers, or a list of names, each once",
    Schema(
        Or(
            And(None, Use(lambda nothing: ())),
            And(
                Or([And(_whole, lambda value: value >= 0)], [And(str, len)]),
                lambda columns: len(set(columns)) == len(columns),
                Use(tuple),
            ),
        )
    ),
)


@dataclass(frozen=True)
class LossTypes:
    """The student's loss, then the teacher's terms, by name or as a name with its options."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The names as the tables spell them."""
        if not isinstance(value, list):
            return report.expected(path, "a list of the student's loss and the teacher's terms, as in [CE, KL]", value)
        if len(value) < 2:
            return report.add(
                path,
                f"expected the student's loss and at least one teacher's term, got {len(value) or 'none'}",
                "Write both, as in [CE, KL]",
            )
        found = [self._name(item, index, f"{path}[{index}]", report) for index, item in enumerate(value)]
        return BROKEN if any_broken(found) else tuple(found)

    def _name(self, value: Any, index: int, path: str, report: Report) -> Any:
        if not index or not isinstance(value, Mapping) or len(value) != 1:
            return self._known(value, index, path, report)
        name, options = next(iter(value.items()))
        if options is not None and not isinstance(options, Mapping):
            return report.expected(join(path, name), "the options of the loss by name", options)
        known = self._known(name, index, join(path, name), report, of_key=True)
        return BROKEN if known is BROKEN or _has_broken(options) else {known: dict(options or {})}

    def _known(self, value: Any, index: int, path: str, report: Report, *, of_key: bool = False) -> Any:
        table = TEACHER_LOSSES if index else STUDENT_LOSSES
        if not isinstance(value, str):
            return report.expected(path, f"the name of a {table.what}", value)
        known = table.name(value)
        if known is None and not index and value in TEACHER_LOSSES:
            message = f"{value!r} compares with the teacher, and the first of loss_types is the loss against the labels"
            return report.add(path, message, f"Known: {', '.join(sorted(table, key=str.casefold))}")
        if known is None:
            hint = did_you_mean(value, table, what="Known")
            return report.add(path, f"unknown {table.what} {value!r}", hint, of_key=of_key)
        return known


FRACTION = Leaf("a number between 0 and 1", Schema(And(_number, lambda value: 0 < value < 1, Use(float))))


@dataclass(frozen=True)
class LayerMappings:
    """Pairs of layers, in any of the forms of `mappings`.

    Attributes:
        groups: whether they stand in groups, as in self-distillation.
    """

    groups: bool = False

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The mappings as they were given."""
        if _has_broken(value):
            return BROKEN
        _, findings = (layer_groups if self.groups else layer_pairs)(value, "")
        for finding in findings:
            report.add(path + finding.path, finding.message, finding.suggestion, of_key=finding.of_key)
        return BROKEN if findings else value


@dataclass(frozen=True)
class LayerSide:
    """One layer, or a layer and its selector."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The layer as it was given."""
        if _has_broken(value):
            return BROKEN
        try:
            layer_tap(value, path)
        except Wrong as wrong:
            finding = wrong.finding
            return report.add(finding.path, finding.message, finding.suggestion)
        return value


@dataclass(frozen=True)
class FeatureLoss:
    """The name of a loss between features, or a name with its options."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The name as the tables spell it, with the options where there are any."""
        if isinstance(value, Mapping) and len(value) == 1:
            name, options = next(iter(value.items()))
            if options is not None and not isinstance(options, Mapping):
                return report.expected(join(path, name), "the options of the loss by name", options)
            known = self._name(name, join(path, name), report, of_key=True)
            return BROKEN if known is BROKEN or _has_broken(options) else {known: dict(options or {})}
        return self._name(value, path, report)

    def _name(self, value: Any, path: str, report: Report, *, of_key: bool = False) -> Any:
        if not isinstance(value, str):
            return report.expected(path, "the name of a loss between features", value)
        if value in FEATURE_LOSSES:
            return FEATURE_LOSSES.name(value)
        if value in TEACHER_LOSSES:
            message = f"the loss {value!r} compares logits, not features"
            return report.add(path, message, "Name it in a KnowledgeDistillationLoss.", of_key=of_key)
        hint = did_you_mean(value, FEATURE_LOSSES, what="Known")
        return report.add(path, f"unknown loss between features {value!r}", hint, of_key=of_key)


@dataclass(frozen=True)
class FeatureMatcher:
    """The name of a feature matcher."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The name as the table spells it."""
        if not isinstance(value, str):
            return report.expected(path, "the name of a feature matcher", value)
        known = FEATURE_MATCHERS.name(value)
        if known is None:
            hint = did_you_mean(value, FEATURE_MATCHERS, what="Known")
            return report.add(path, f"unknown feature matcher {value!r}", hint)
        return known


def _has_broken(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_broken(item) for item in value.values())
    return any(map(_has_broken, value)) if isinstance(value, list) else value is BROKEN
