"""The criterion of pairs of layers, as far as no framework matters: options, terms, events and state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdhooks.config.mappings import LayerPair, LayerTap
from kdhooks.criterion import Step, Term, check_balance
from kdhooks.errors import UsageError
from kdhooks.hooks import Hook
from kdhooks.pairs.bound import Bound, Locate, NoTeacher, captured_features, followed, no_location
from kdhooks.pairs.masks import FeatureMask, check_feature_mask
from kdhooks.pairs.options import PairOptions, PairRules
from kdhooks.pairs.stored import NOBODY
from kdhooks.schedules import Schedule, parse_schedule

Tensor = Any


class PairsCriterion(Hook):
    """What a backend's criterion of pairs of layers builds on; see its own docstring for users.

    Attributes:
        rules: of the backend.
        student_model, teacher_model: of the run, or set by a program that drives the criterion itself.
        student_label, student_weight, terms: what a `kdhooks.criterion.Criterion` has.
        loss_weights: of each pair, functions of the step.
        add_origin_loss: whether the loop's own loss counts.
        locate: makes the errors about a place in the configuration.
    """

    rules: PairRules
    needs_teacher = True

    def __init__(
        self,
        layer_mappings: Any = None,
        loss_types: Any = None,
        loss_weights: Any = None,
        add_origin_loss: bool = False,
        *,
        feature_matchers: Any = None,
        teacher: str | None = None,
        student_label: str = "CE",
        layer_mappings_for_knowledge_transfer: Any = None,
        balance: str | None = None,
        feature_mask: FeatureMask | None = None,
    ) -> None:
        if (layer_mappings is None) == (layer_mappings_for_knowledge_transfer is None):
            raise UsageError("give layer_mappings, or layer_mappings_for_knowledge_transfer, and not both")
        named: dict[str, Any] = {
            "feature_matchers": feature_matchers,
            "teacher": teacher,
            "student_label": student_label,
            "layer_mappings_for_knowledge_transfer": layer_mappings_for_knowledge_transfer,
            "balance": check_balance(balance),
            "feature_mask": check_feature_mask(feature_mask),
        }
        long = layer_mappings is None
        key = "layer_mappings_for_knowledge_transfer" if long else "layer_mappings"
        mappings = layer_mappings_for_knowledge_transfer if long else layer_mappings
        options = PairOptions(mappings, loss_types, loss_weights, feature_matchers, rules=self.rules, key=key)
        self.begin_options((layer_mappings, loss_types, loss_weights, add_origin_loss), named, options)

    def begin_options(self, given: tuple[Any, ...], named: dict[str, Any], options: PairOptions) -> None:
        """What holds before the first run; `given` and `named` make a copy, and the loop's own loss is given last."""
        self._given, self._named, self._options = given, named, options
        self._balanced, self._mask = named["balance"] is not None, named["feature_mask"]
        self.loss_weights = tuple(map(self.scheduled, options.weights))
        self.student_label, self.add_origin_loss = named["student_label"], bool(given[-1])
        self.student_weight = parse_schedule(1.0 if self.add_origin_loss else 0.0)
        self.student_model: Any = None
        self.teacher_model: Any = None
        self.locate: Locate = no_location
        self._bound: Bound | None = None
        self._alone = False  # whether a program drives it without a run
        self._pairs: Any = None
        self._waiting: Mapping[str, Any] | None = None
        self._step: Step | None = None
        self._next = 0
        self.terms: Sequence[Term] = tuple(map(self._term, range(len(options.pairs))))

    # ---- what a backend knows ----------------------------------------------------------------------

    def scheduled(self, schedule: Schedule) -> Callable[[Any], Any]:
        """A schedule that takes the steps of this backend."""
        return schedule

    @abstractmethod
    def pairs_at_work(self, options: PairOptions, bound: Bound, teacher: str) -> Any:
        """The pairs on the models of a run."""

    @abstractmethod
    def own_student(self) -> tuple[Any, Any]:
        """What captures the layers of the student that a program has set, and its optimizer where that is known."""

    @abstractmethod
    def own_teacher(self) -> Any:
        """Runs the teacher that a program has set."""

    @abstractmethod
    def added_up(self, losses: list[Tensor]) -> Tensor:
        """The sum of scalars."""

    def own_models(self) -> Bound:
        """The models that a program has set, where there is no run."""
        if self.student_model is None or self.teacher_model is None:
            raise UsageError("no models are set: student_model and teacher_model come before on_train_begin()")
        taps, optimizer = self.own_student()
        return Bound(taps, {"teacher": self.own_teacher()}, optimizer)

    # ---- what users know ---------------------------------------------------------------------------

    @property
    def layer_mappings(self) -> list[list[Any]]:
        """The student's and the teacher's layer of each pair, or lists of them where a pair has several."""
        return [_both_sides(pair, lambda tap: tap.layer) for pair in self._all()]

    @property
    def layer_output_process(self) -> list[list[Any]]:
        """The selectors of each pair, or lists of them where a pair has several layers."""
        return [_both_sides(pair, lambda tap: tap.selector) for pair in self._all()]

    @property
    def loss_types(self) -> tuple[str, ...]:
        """The loss of each pair."""
        return tuple(name for name, _ in self._options.losses)

    @property
    def student_features(self) -> dict[str, Any]:
        """What the student's layers gave in the last forward, by name, until the loss was computed."""
        if self._pairs is None:
            return {}
        taps = [tap for pair in self._pairs.pairs for tap in pair.students]
        return captured_features(self._pairs.bound.student, taps)

    @property
    def teacher_features(self) -> dict[str, Any]:
        """The same of the teacher."""
        if self._pairs is None:
            return {}
        return captured_features(self._pairs.taps, [tap for pair in self._pairs.pairs for tap in pair.teachers])

    def init_loss_funcs(self) -> None:
        """Check the losses by name; UsageError where one is unknown or has no such option."""
        self._options.check_losses()

    def teacher_model_forward(self, input: Any, teacher_model: Any = None) -> dict[str, Any]:
        """Run the teacher as far as its deepest layer that is wanted, in a program that drives the criterion itself.

        Args:
            input: what the student got.
            teacher_model: sets `teacher_model` where none is set.

        Returns:
            The teacher's features by layer.
        """
        if self.teacher_model is None:
            self.teacher_model = teacher_model
        if self._pairs is None:
            self.on_train_begin()
        pairs = self._working()
        self._step = Step(self._next, input, None, teachers=pairs.bound.teachers)
        self._step.demand([term for term in self.terms if term.weight(self._next) != 0])
        self._step.features(pairs.name)
        return self.teacher_features

    def loss_cal(self) -> Tensor:
        """The weighted sum over pairs, after a forward of the student and `teacher_model_forward`."""
        if self._step is None:
            raise UsageError("teacher_model_forward(input) comes before loss_cal()")
        if self._balanced:
            raise UsageError("balance compares with the loop's own loss, which only a Distillation is handed")
        step, self._step = self._step, None
        weighted = [(term.weight(step.index), term) for term in self.terms]
        losses = [weight * term.compute(step) for weight, term in weighted if weight != 0]
        self._next += 1
        self.on_after_compute_loss()
        if not losses:
            raise UsageError("every loss weight is 0 at this step, so there is no loss")
        return self.added_up(losses)

    # ---- events ------------------------------------------------------------------------------------

    def bind(self, bound: Bound) -> None:
        """Take the models of a run; `on_train_begin` comes next."""
        self._bound, self._alone = bound, False

    def on_train_begin(self) -> None:
        """Tap the layers of both models; starts anew."""
        alone = self._bound is None
        bound = self.own_models() if self._bound is None else self._bound
        if self.needs_teacher and not bound.teachers:
            bound = replace(bound, teachers={NOBODY: NoTeacher()})
        self._bound, self._alone, self._next = bound, alone or self._alone, 0
        name = self.teacher_name(bound)
        self._pairs = self.pairs_at_work(self._options, bound, name)
        if self._alone:
            bound.teachers[name].on_train_begin()
        else:
            self.student_model, self.teacher_model = bound.student.model, bound.teachers[name].model
        try:
            self._pairs.attach()
            if self._waiting is not None:
                self._pairs.load_state_dict(self._waiting)
        except BaseException:
            self.on_train_end()
            raise
        self._waiting = None

    def on_after_compute_loss(self) -> None:
        """Let go of all features; the loss has what it needs."""
        if self._pairs is not None:
            self._pairs.release()

    def on_train_end(self) -> None:
        """Take everything off both models and out of the optimizer."""
        pairs, bound = self._pairs, self._bound
        self._bound = self._step = None
        if pairs is not None:
            pairs.detach()
        if self._alone and bound is not None:
            for teacher in bound.teachers.values():
                teacher.on_train_end()

    def teacher_looks(self, name: str) -> list[tuple[LayerTap, str]]:
        """The layers of a teacher that pairs look at, each with the calls that count, once the run has begun."""
        pairs = self._working()
        if pairs.name != name:
            return []
        live = [pairs.pairs[index] for index in self._options.live()]
        return [(tap, pair.calls) for pair in live for tap in pair.teachers]

    @property
    def looks_at_output(self) -> bool:
        """Whether the loss needs more of the student than its layers: its output, or the loop's own loss."""
        return self.add_origin_loss or self._balanced

    def student_looks(self) -> list[Any]:
        """The layers of the student that pairs look at, as the backend calls them, once the run has begun."""
        pairs = self._working().pairs
        return list(dict.fromkeys(tap.key for index in self._options.live() for tap in pairs[index].students))

    # ---- parameters and state ----------------------------------------------------------------------

    def parameters(self) -> Iterator[Any]:
        """The trainable parameters of matchers and losses.

        Before the first loss their shapes are found with the first batch of the training data, where there is one.
        """
        return iter(()) if self._pairs is None else self._pairs.parameters(self.terms)

    def state_dict(self) -> dict[str, Any]:
        """Shapes, weights and what the optimizer keeps for them; plain data and tensors."""
        state: dict[str, Any] = self._working().state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a saved run: now, or when the training begins.

        Raises:
            CheckpointError: it is of other pairs, matchers or losses.
        """
        if self._pairs is None or self._bound is None:
            self._waiting = state
        else:
            self._pairs.load_state_dict(state)

    def explain(self, component: str) -> str | None:
        """Which of the teacher's layers was NaN or infinite, where that spoiled a component; waits for the device."""
        found: str | None = None if self._pairs is None else self._pairs.explain()
        return found

    def __deepcopy__(self, memo: Any) -> PairsCriterion:
        twin = type(self)(*self._given, **self._named)
        twin.locate = self.locate
        return twin

    # ---- inside ------------------------------------------------------------------------------------

    def _term(self, index: int) -> Term:
        pair, kind = self._options.pairs[index], self._options.losses[index][0]
        ends = dict.fromkeys(tap.layer or "root" for tap in (pair.students[0], pair.students[-1]))
        return Term(
            f"{kind}[{'..'.join(ends)}]",
            self.loss_weights[index],
            lambda step: self._working().loss(index, step),
            lambda: frozenset(tap.key for tap in self._working().pairs[index].teachers),
            (lambda step, own, value: self._working().ratio(index, own, value)) if self._balanced else None,
            lambda step: self._working().probed(index, step),
            of_features=True,
        )

    def _all(self) -> Sequence[LayerPair]:
        pairs: Sequence[LayerPair] = self._options.pairs if self._pairs is None else self._pairs.pairs
        return pairs

    def _working(self) -> Any:
        if self._pairs is None:
            raise UsageError("on_train_begin() comes before the first loss")
        return self._pairs

    def teacher_name(self, bound: Bound) -> str:
        """The teacher that is followed.

        Raises:
            UsageError: there is none, or it is not said which of several.
        """
        return followed(bound, self._named["teacher"])


def _both_sides(pair: LayerPair, of: Callable[[LayerTap], Any]) -> list[Any]:
    sides = [[of(tap) for tap in side] for side in (pair.students, pair.teachers)]
    return sides if pair.several else [sides[0][0], sides[1][0]]
