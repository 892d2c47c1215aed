"""What the section ``auto_distillation`` becomes: frozen, typed, with every default filled in.

The classic spellings (nested ``knowledge_transfer``, lists of lists, tuples) are gone here: a search has
dimensions, metrics and limits, and a distillation has stages.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kdhooks.config.formulas import compared, formula
from kdhooks.config.model import EvaluationSettings, Named, TrainSettings

Algorithm = Literal["Grid", "Random", "BO", "TPE", "CMA-ES", "NSGA-II"]
"""How the next candidate is proposed; BO is a Gaussian process."""

MEASURED: Mapping[str, bool] = {
    "latency": False,
    "throughput": True,
    "parameters": False,
    "macs": False,
    "file_size": False,
    "peak_memory": False,
}
"""Metrics that are measured on the model itself, and whether higher is better. Units: seconds for one batch, rows
a second, numbers, multiply-accumulates of one row, bytes, bytes."""


@dataclass(frozen=True)
class When:
    """A condition of a dimension: another one has one of these values."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Choices:
    """A dimension with a few values.

    Attributes:
        name: of the parameter of the architecture.
        values: numbers, texts, booleans or None; an order is meant where all are numbers.
        when: all must hold, or the architecture does not have this parameter.
        path: where it stands in the configuration, for messages.
    """

    name: str
    values: tuple[Any, ...]
    when: tuple[When, ...] = ()
    path: str = ""

    @property
    def ordered(self) -> bool:
        """Whether neighbours are alike: all values are numbers."""
        return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in self.values)


@dataclass(frozen=True)
class Range:
    """A dimension between two numbers, both among its values.

    Attributes:
        name: of the parameter of the architecture.
        low, high: whole numbers where `integer` holds.
        step: between neighbours; None is 1 for whole numbers, and any number for others.
        log: whether ratios count and not differences; it has no step then.
        integer: whether its values are whole numbers.
        when, path: as those of `Choices`.
    """

    name: str
    low: float
    high: float
    step: float | None = None
    log: bool = False
    integer: bool = True
    when: tuple[When, ...] = ()
    path: str = ""


Dimension = Choices | Range


@dataclass(frozen=True)
class Limit:
    """A constraint on a metric: ``latency <= 5 ms``.

    Attributes:
        metric: one of `MEASURED`, or one that is searched for.
        at_most: whether it is a largest value, and not a smallest.
        bound: in the metric's own unit.
        text: as it was written.
        path: where it stands in the configuration.
    """

    metric: str
    at_most: bool
    bound: float
    text: str
    path: str = ""

    def violation(self, value: float) -> float:
        """By how much a value breaks it, relative to the bound; at most 0 where it keeps it."""
        apart = value - self.bound if self.at_most else self.bound - value
        return (
            apart / abs(self.bound) if abs(self.bound) >= sys.float_info.min else apart
        )  # relative to 0 it is infinite


@dataclass(frozen=True)
class Relation:
    """A constraint between parameters: ``hidden_size % num_attention_heads == 0``.

    Attributes:
        left, right: arithmetic over names of parameters and numbers.
        comparison: ``==``, ``!=``, ``<=``, ``>=``, ``<`` or ``>``.
        text: as it was written.
        path: where it stands in the configuration.
    """

    left: str
    comparison: str
    right: str
    text: str
    path: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that it is about, each once."""
        return tuple(dict.fromkeys((*formula(self.left).names, *formula(self.right).names)))

    def holds(self, arch: Mapping[str, Any]) -> bool:
        """Whether an architecture keeps it; one that doesn't have all of its parameters does.

        What divides by zero doesn't hold. Numbers with a point are equal where they are nearly so.

        Raises:
            UsageError: the value of a parameter is no number.

        >>> even = Relation("hidden % heads", "==", "0", "hidden % heads == 0")
        >>> even.holds({"hidden": 128, "heads": 4}), even.holds({"hidden": 128, "heads": 6}), even.holds({"heads": 6})
        (True, False, True)
        """
        if not all(name in arch for name in self.names):
            return True
        try:
            return compared(formula(self.left).value(arch), self.comparison, formula(self.right).value(arch))
        except (ZeroDivisionError, OverflowError):
            return False


@dataclass(frozen=True)
class SearchSettings:
    """``auto_distillation.search``.

    Attributes:
        search_space: its dimensions, in the order of the file; empty where the program sets the space.
        search_algorithm: how candidates are proposed.
        metrics: what is searched for, in the order of importance.
        higher_is_better: one for each metric.
        max_trials: candidates that count (all but stubs of dead workers); None until the space is exhausted.
        seed: of proposals, and with a candidate's architecture of its training.
        limits: constraints on metrics; those on `MEASURED` ones are looked at before any training.
        relations: constraints between parameters; candidates that break one are never proposed.
        pruner: ends candidates early by their scores after epochs; None ends none.
        storage: URL of the study: ``sqlite:///file.db``, ``journal:file.log``, ``postgresql://...``, ``mysql://...``,
            ``grpc://host:port``; None is a journal in the run's folder, ``memory`` none.
        study_name: of several studies in one storage; None is the model's name.
        timeout: seconds after which no new candidate begins; None for no limit.
        startup_trials: random candidates before BO, TPE or CMA-ES propose; None is the algorithm's default.
        best_by: how the best one of several metrics is chosen: ``ideal`` or the name of a metric.
        keep_weights: of the ``best`` candidates, of ``all``, or of ``none``.
        heartbeat: seconds between a worker's signs of life; after three without one its trial is taken up by another.
    """

    search_space: tuple[Dimension, ...] = ()
    search_algorithm: Algorithm = "BO"
    metrics: tuple[str, ...] = ("accuracy",)
    higher_is_better: tuple[bool, ...] = (True,)
    max_trials: int | None = 10
    seed: int = 42
    limits: tuple[Limit, ...] = ()
    relations: tuple[Relation, ...] = ()
    pruner: Named | None = None
    storage: str | None = None
    study_name: str | None = None
    timeout: float | None = None
    startup_trials: int | None = None
    best_by: str = "ideal"
    keep_weights: Literal["best", "all", "none"] = "best"
    heartbeat: float = 20.0


@dataclass(frozen=True)
class StageSettings:
    """One stage of a flash or regular distillation: which block learns from which pairs of layers, for how long.

    Attributes:
        block: the layer whose parameters are trained; empty for all of them.
        criterion: options of an `IntermediateLayersKnowledgeDistillationLoss`, as `schema` has checked them.
        train_steps: batches; None takes the epochs of ``train``.
        path: where its mappings stand in the configuration.
    """

    block: str = ""
    criterion: Mapping[str, Any] = field(default_factory=dict)
    train_steps: int | None = None
    path: str = ""


@dataclass(frozen=True)
class FlashSettings:
    """``flash_distillation``, or ``regular_distillation`` with one stage.

    Attributes:
        stages: in their order.
        freeze_earlier: whether a stage trains its own block alone, and not the earlier ones again.
        share_blocks: whether a candidate's block begins with what an earlier candidate's of the same shape learned.
    """

    stages: tuple[StageSettings, ...] = ()
    freeze_earlier: bool = True
    share_blocks: bool = False


@dataclass(frozen=True)
class MeasureSettings:
    """``measure``: how latency, throughput and memory are measured.

    Attributes:
        batch_size: rows of the batch, cut from the evaluation data or from ``example_inputs``.
        warm_up: runs that don't count.
        repeats: runs that do; the median is the metric, the quartiles its spread.
        threads: of the framework during the measurement; None leaves them.
    """

    batch_size: int = 1
    warm_up: int = 5
    repeats: int = 30
    threads: int | None = None


@dataclass(frozen=True)
class AutoDistillationSettings:
    """``auto_distillation``.

    Attributes:
        search: the search.
        flash: block by block; None where the section is not there.
        regular: the whole student; None where the section is not there.
        train: the loop of every stage; None takes ``distillation.train``.
        evaluation: what a candidate is judged by; None takes the section ``evaluation`` of the file.
        measure: how the model itself is measured.
    """

    search: SearchSettings = field(default_factory=SearchSettings)
    flash: FlashSettings | None = None
    regular: FlashSettings | None = None
    train: TrainSettings | None = None
    evaluation: EvaluationSettings | None = None
    measure: MeasureSettings = field(default_factory=MeasureSettings)

    @property
    def stages(self) -> tuple[StageSettings, ...]:
        """Those of the flash distillation, then those of the regular one."""
        return tuple(stage for part in (self.flash, self.regular) if part is not None for stage in part.stages)
