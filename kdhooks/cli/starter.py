"""The YAML that ``kdhooks init`` writes: every key that there is, with its meaning.

What runs out of the box stands there plainly, everything else commented out with its default. The keys
and their words come from the rules themselves, so that the file cannot fall behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from kdhooks.config import describe

ACTIVE: Mapping[str, Any] = {
    "model.name": "digits",
    "distillation.train.end_epoch": 20,
    "distillation.train.optimizer": {"Adam": {"learning_rate": 0.003}},
    "distillation.train.scheduler": {"CosineAnnealing": {"warmup_epochs": 1}},
    "distillation.train.criterion.KnowledgeDistillationLoss.temperature": 4.0,
    "distillation.train.criterion.KnowledgeDistillationLoss.loss_types": ["CE", "KL"],
    "distillation.train.criterion.KnowledgeDistillationLoss.loss_weights": [0.5, 0.5],
    "distillation.train.dataloader.batch_size": 64,
    "distillation.train.dataloader.shuffle": True,
    "distillation.train.dataloader.dataset": {"digits": {"train": True}},
    "evaluation.accuracy.metric": {"topk": 1},
    "evaluation.accuracy.dataloader.batch_size": 256,
    "evaluation.accuracy.dataloader.dataset": {"digits": {"train": False}},
    "tuning.random_seed": 1978,
}
"""What the file sets, by path; it trains on data that comes with scikit-learn."""

_HEAD = """\
# A configuration of kdhooks. What begins with '#' is commented out and shows the default.
#
#   kdhooks validate {name}
#   kdhooks check {name} --student package.module:factory --teacher package.module:factory
#   kdhooks fit {name} --student package.module:factory --teacher package.module:factory
#
# A schedule may stand for a weight or a temperature: {{linear: {{from: 1, to: 0, steps: 1000}}}}
"""
_COLUMN = 54
_SAID = (
    *("domain_adaptation.dataloader.", "domain_adaptation.eval_dataloader.", "evaluation.accuracy.dataloader."),
    *("auto_distillation.train.", "auto_distillation.evaluation."),
)


@dataclass
class _Node:
    """A key of the file."""

    path: str
    doc: str
    default: Any
    inner: dict[str, _Node] = field(default_factory=dict)

    def active(self) -> bool:
        return self.path in ACTIVE or any(node.active() for node in self.inner.values())


def starter(name: str = "kd.yaml") -> str:
    """The text of a starter file.

    Args:
        name: what the file will be called, for the commands in its head.
    """
    lines = [_HEAD.format(name=name).rstrip()]
    for key, node in _tree().items():
        lines += ["", *_lines(key, node, 0)]
    return "\n".join(lines) + "\n"


def _tree() -> dict[str, _Node]:
    """The described keys as a tree; a key below a name (a criterion's option) makes the name a node."""
    root: dict[str, _Node] = {}
    for described in describe():
        parts = described.path.split(".")
        level, path = root, ""
        for part in parts[:-1]:
            path = f"{path}.{part}" if path else part
            level = level.setdefault(part, _Node(path, "", {})).inner
        level[parts[-1]] = _Node(described.path, described.doc, described.default)
    return root


def _lines(key: str, node: _Node, indent: int, comment: int | None = None) -> Iterator[str]:
    """The lines of a key and of what is in it; `comment` is the column of the '#' that they stand behind."""
    if node.path.startswith(_SAID) and node.path not in ACTIVE:
        return  # said once already, where the loop and its data are described
    if comment is None and not node.active():
        comment = indent
    value = "" if node.inner else _value(ACTIVE.get(node.path, node.default))
    before = " " * indent if comment is None else f"{' ' * comment}# {' ' * (indent - comment)}"
    text = f"{before}{key}:{' ' if value else ''}{value}"
    yield f"{text.ljust(_COLUMN)}  # {node.doc}" if node.doc else text
    for name, inner in node.inner.items():
        yield from _lines(name, inner, indent + 2, comment)


def _value(value: Any) -> str:
    """A value in one line of YAML; nothing for what is empty by default."""
    if value is None:
        return ""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("...\n").strip()
