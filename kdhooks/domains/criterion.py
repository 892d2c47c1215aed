"""The criterion of domain adaptation, as far as no framework matters: what a user wrote, its terms, and what it counts.

Rules: the target batch is run once a step, for all adapters that count at it, and not at all where each has weight 0.
Adapters are made at the first step that needs them. The reversal's coefficient counts steps of training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.config.layer_taps import LayerTap
from kdhooks.config.model import AdaptationSettings, Named
from kdhooks.criterion import Step, Term
from kdhooks.errors import ConfigError, DataError, LayerError, ModelError, UsageError
from kdhooks.hooks import Hook
from kdhooks.pairs.bound import Bound
from kdhooks.pairs.selection import found
from kdhooks.schedules import Schedule, parse_schedule

Tensor = Any

NO_LOSS = ("adabn",)
"""Adapters that only set statistics."""


class AdaptationCriterion(Hook, ABC):
    """What `kdhooks.torch.domains` and `kdhooks_tf` build on; see `kdhooks.torch.DomainAdaptationLoss`.

    Attributes:
        conf: the configuration that it comes from.
        settings: the section ``domain_adaptation``.
        outputs: what a mapping calls its logits.
        steps: of training that were counted, for the reversal.
        terms: one for each adapter with a loss, and one for labelled target rows.
    """

    adapts = True
    only_adds = True
    student_label = "CE"

    def __init__(self, criterion: Any, **options: Any) -> None:
        self._take(DistillationConf({"domain_adaptation": {"criterion": criterion, **options}}))

    @classmethod
    def of(cls, conf: DistillationConf) -> Any:
        """The criterion of a configuration with this section."""
        made = cls.__new__(cls)
        made._take(conf)
        return made

    def _take(self, conf: DistillationConf) -> None:
        settings = conf.settings.domain_adaptation
        if settings is None:
            raise UsageError("the configuration has no section domain_adaptation")
        self.conf, self.settings = conf, settings
        self.outputs = conf.settings.model.outputs
        self.student_weight = parse_schedule(0.0)
        self.steps = 0
        self._bound: Bound | None = None
        self._work: Any = None
        self._waiting: Mapping[str, Any] | None = None
        terms = [self._term(index, named) for index, named in enumerate(settings.criterion) if has_loss(named)]
        weight = self.scheduled(parse_schedule(settings.target_label_weight))
        labelled = Term("target_CE", weight, self._labelled, lambda: None, when=_has_labels)
        self.terms: Sequence[Term] = (*terms, labelled)

    def _term(self, index: int, named: Named) -> Term:
        weight = self.scheduled(parse_schedule(named.options["weight"]))
        return Term(
            named.name, weight, partial(self._loss, index), lambda: None, measures=partial(self._measures, index)
        )

    # ---- what a backend knows ----------------------------------------------------------------------

    def scheduled(self, schedule: Schedule) -> Callable[[Any], Any]:
        """A schedule that takes the steps of this backend."""
        return schedule

    @abstractmethod
    def at_work(self, bound: Bound) -> Any:
        """The adapters on the student of a run."""

    # ---- a step ------------------------------------------------------------------------------------

    def _loss(self, index: int, step: Step) -> Tensor:
        return self._working().loss(index, step)

    def _measures(self, index: int) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = self._working().measures(index)
        return found

    def _labelled(self, step: Step) -> Tensor:
        return self._working().labelled(step)

    # ---- events ------------------------------------------------------------------------------------

    def bind(self, bound: Bound) -> None:
        """Take the models of a run; `on_train_begin` comes next."""
        self._bound = bound

    def on_train_begin(self) -> None:
        """Tap the student's layers; starts anew."""
        if self._bound is None:
            raise UsageError("domain adaptation has no student: set it as the criterion of a Distillation")
        self.steps = 0
        self._work = self.at_work(self._bound)
        try:
            self._work.attach()
            if self._waiting is not None:
                self._load(self._waiting)
        except BaseException:
            self.on_train_end()
            raise
        self._waiting = None

    def on_after_compute_loss(self) -> None:
        """Let go of the step's features, and count a step of training."""
        if self._working().release():
            self.steps += 1

    def on_epoch_end(self) -> None:
        """Forget the epoch's predictions."""
        self._working().end_epoch()

    def on_train_end(self) -> None:
        """Take everything off the student and out of the optimizer."""
        self._bound = None
        if self._work is not None:
            self._work.detach()

    # ---- parameters and state ----------------------------------------------------------------------

    def parameters(self) -> Iterator[Any]:
        """The trainable parameters of adapters that are guests of the loop's optimizer.

        Before the first loss they are made for the first batch of the training data, where there is one.
        """
        return iter(()) if self._work is None else iter(self._work.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Counter, adapters and what optimizers keep for them; plain data and tensors."""
        names = [named.name for named in self.settings.criterion]
        return {"steps": self.steps, "names": names, **self._working().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a saved run: now, or when the training begins.

        Raises:
            CheckpointError: it is of other adapters, or of other shapes.
        """
        if self._work is None or self._bound is None:
            self._waiting = state
        else:
            self._load(state)

    def _load(self, state: Mapping[str, Any]) -> None:
        self._work.load_state_dict(state)
        self.steps = int(state["steps"])

    def __deepcopy__(self, memo: Any) -> AdaptationCriterion:
        twin: AdaptationCriterion = type(self).of(self.conf)
        return twin

    # ---- what the run asks for at an epoch's end -----------------------------------------------------

    @property
    def sets_statistics(self) -> bool:
        """Whether an adapter sets the student's statistics at an epoch's end; see AdaBN."""
        return not all(map(has_loss, self.settings.criterion))

    def set_statistics(self, loader: Any) -> None:
        """Set them.

        Args:
            loader: batches of the target domain.

        Raises:
            ConfigError: there is none.
        """
        index = next(index for index, named in enumerate(self.settings.criterion) if not has_loss(named))
        if loader is None:
            message = "reads the target domain at each epoch's end, and there is nothing to read"
            advice = "Set distiller.target_dataloader, or name a dataset in domain_adaptation.dataloader."
            raise self.problem(index, message, advice)
        try:
            self._working().set_statistics(loader)
        except (ModelError, DataError) as error:
            raise self.problem(index, error) from None

    def predictions(self) -> Any:
        """The logits [N, C] of the epoch's target batches, on the host; None where none are kept."""
        return self._working().predictions()

    # ---- inside ------------------------------------------------------------------------------------

    def problem(self, index: int, error: Exception | str, advice: str = "", *, part: str = "") -> ConfigError:
        """The error to raise for something that is wrong with an adapter; it points at the user's line."""
        path = self.settings.criterion[index].path
        return self.conf.problem(f"{path}.{part}" if part else path, str(error), advice)

    def located(self, path: str, message: str, advice: str = "", *, of_key: bool = False) -> ConfigError:
        """The error to raise for what is wrong at a path."""
        return self.conf.problem(path, message, advice, of_key=of_key)

    def found(self, captures: Any, tap: LayerTap) -> LayerTap:
        """The same tap with the layer's name as the student has it; ConfigError where there is no such layer."""
        try:
            return found(tap, captures)
        except LayerError as error:
            raise self.located(tap.path, error.message, error.advice) from None

    def _working(self) -> Any:
        if self._work is None:
            raise UsageError("on_train_begin() comes before the first loss")
        return self._work


def has_loss(named: Named) -> bool:
    """Whether an adapter has a loss."""
    return named.options["rules"].name not in NO_LOSS


def _has_labels(step: Step) -> bool:
    return step.target_labels is not None


def check_names(saved: Any, settings: AdaptationSettings) -> None:
    """ModelError where a state is of other adapters."""
    names = [named.name for named in settings.criterion]
    if list(saved) != names:
        raise ModelError(f"the state holds the adapters {', '.join(saved)}, and this run has {', '.join(names)}")
