"""Pairs of layers on the models of one run, as far as no framework matters: found, captured, compared, and errors.

A pair's modules are made at the first step that needs them, when both shapes are known.
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdhooks.config.mappings import LayerPair, LayerTap
from kdhooks.criterion import Step, Term
from kdhooks.errors import CheckpointError, LayerError, MatcherError, ModelError, UsageError
from kdhooks.pairs.bound import Bound, Locate, say_made_later
from kdhooks.pairs.masks import FeatureMask, mask_of
from kdhooks.pairs.modules import Given
from kdhooks.pairs.options import PairOptions
from kdhooks.pairs.selection import Values, found, tensors_of
from kdhooks.schedules import Schedule

Tensor = Any
Sides = tuple[list[Tensor], list[Tensor]]
"""The features of the student's and of the teacher's layers in one call."""


class _Noted(threading.local):
    """What a step noted about the teacher's features; replicas are traced in threads of their own."""

    def __init__(self) -> None:
        self.index: Any = 0
        self.sums: list[tuple[str, Tensor]] = []


class PairsAtWork(ABC):
    """The pairs of one criterion on the models of one run.

    Args:
        options: what the user wrote.
        bound: the models.
        teacher: the one that is followed.
        locate: makes errors.
        mask: the option ``feature_mask``.

    Attributes:
        values: what the backend knows of tensors.
        pairs: with the layers' names as their authors gave them.
        modules: what was made so far, by pair.
        taps: captures the teacher's layers.
    """

    values: Values

    def __init__(
        self, options: PairOptions, bound: Bound, teacher: str, locate: Locate, mask: FeatureMask | None = None
    ) -> None:
        self.options, self.bound, self.name, self.locate, self.mask = options, bound, teacher, locate, mask
        self.taps: Any = bound.teachers[teacher].tap()
        self.pairs = [
            with_taps(pair, self._found(pair.students, bound.student), self._found(pair.teachers, self.taps))
            for pair in options.pairs
        ]
        self.modules: dict[int, Any] = {}
        self._scheduled = [
            {name: self.scheduled(schedule) for name, schedule in changing.items()} for changing in options.scheduled
        ]
        self._watch = self.monitor()
        self._noted = _Noted()

    # ---- what a backend knows ----------------------------------------------------------------------

    @abstractmethod
    def monitor(self) -> Any:
        """An empty monitor, for what is noted about the teacher's features."""

    @abstractmethod
    def make(self, index: int, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Any:
        """A pair's modules for features of these shapes; MatcherError or ModelError where there are none."""

    @abstractmethod
    def trainable(self, modules: Any) -> Sequence[Any]:
        """The parameters of a pair's modules that learn."""

    @abstractmethod
    def admit(self, index: int, parameters: Sequence[Any]) -> None:
        """Train the parameters of a pair from now on."""

    @abstractmethod
    def leave(self) -> None:
        """Train nothing any more."""

    @abstractmethod
    def integer_kind(self, tensor: Tensor) -> str | None:
        """The dtype of a tensor whose values are no floats."""

    @abstractmethod
    def shape(self, tensor: Tensor) -> list[Any]:
        """A tensor's shape."""

    @abstractmethod
    def constants(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's features of one call without a graph, where the student's are."""

    @abstractmethod
    def added_up(self, features: Sequence[Tensor]) -> Tensor | None:
        """A scalar that is finite where features are; None where they are no floats."""

    @abstractmethod
    def mean(self, losses: Sequence[Tensor]) -> Tensor:
        """The mean of several scalars."""

    @abstractmethod
    def gradient_ratio(self, student_loss: Tensor, value: Tensor, keys: Sequence[Any], what: str) -> Tensor:
        """How much harder one loss pulls on the student's layers than another."""

    @abstractmethod
    def run_student(self, given: Any) -> None:
        """A forward of the student that counts as one before a loss."""

    def scheduled(self, schedule: Schedule) -> Callable[[Any], Any]:
        """A schedule that takes the steps of this backend."""
        return schedule

    # ---- on the models -----------------------------------------------------------------------------

    def attach(self) -> None:
        """Tap the layers of both models."""
        live = [self.pairs[index] for index in self.options.live()]
        self.bound.student.attach([tap.key for pair in live for tap in pair.students])
        self.taps.attach([tap.key for pair in live for tap in pair.teachers])

    def detach(self) -> None:
        """Take everything off both models and out of the optimizer."""
        self.leave()
        self.bound.student.detach()
        self.bound.teachers[self.name].untap()

    def release(self) -> None:
        """Let go of a step's features, and note which of the teacher's were finite."""
        sums, self._noted.sums = self._noted.sums, []
        if sums:
            self._watch.record(self._noted.index, tuple(name for name, _ in sums), [value for _, value in sums])
        self.bound.student.release()
        self.bound.teachers[self.name].release()

    def explain(self) -> str | None:
        """Which of the teacher's layers was not finite first, if one was; waits for the device."""
        bad = self._watch.first_bad()
        if bad is None:
            return None
        index, level = map(int, bad[1].split(":"))
        pair, tap = self.pairs[index], self.pairs[index].teachers[level]
        message = f"pair {pair}: teacher {self.taps.kind}: layer {tap} returned NaN or infinite values"
        advice = "Look at the teacher's inputs, weights and precision."
        return str(self.locate(tap.path, f"{message} at step {bad[0]}", advice))

    # ---- a step ------------------------------------------------------------------------------------

    def loss(self, index: int, step: Step) -> Tensor:
        """The unweighted loss of a pair."""
        features = self.seen(index, step)
        if index not in self.modules:
            self.build(index, *features[0])
            self.admit(index, self.trainable(self.modules[index]) if self.bound.trains else ())
        modules, given = self.modules[index], self.given(index, step)
        try:
            values = [modules(mine, theirs, step, given) for mine, theirs in features]
        except ModelError as error:
            raise self._fault(index, error) from None
        return values[0] if len(values) == 1 else self.mean(values)

    def probed(self, index: int, step: Step) -> Tensor:
        """The unweighted loss of a pair once more, by a copy of its modules and without a note of it."""
        modules, given = copy.deepcopy(self.modules[index]), self.given(index, step)
        features = self.features(index, step.features(self.name))
        return self.mean([modules(mine, theirs, step, given) for mine, theirs in features])

    def seen(self, index: int, step: Step) -> list[Sides]:
        """Both sides' features at a step; nobody looks whether they are finite before it is asked for."""
        features = self.features(index, step.features(self.name))
        self._noted.index = step.index
        for level, calls in enumerate(zip(*(theirs for _, theirs in features), strict=True)):
            value = self.added_up(calls)
            if value is not None:
                self._noted.sums.append((f"{index}:{level}", value))
        return features

    def features(self, index: int, taps: Any) -> list[Sides]:
        """Both sides' features for each call that counts, one for each layer."""
        pair, student = self.pairs[index], self.bound.student

        def read(tap: LayerTap, where: Any) -> list[Tensor]:
            found: list[Tensor] = self._located(tap, tensors_of, tap, where, pair.calls, self.values, pair=pair)
            return found

        mine, theirs = [read(tap, student) for tap in pair.students], [read(tap, taps) for tap in pair.teachers]
        if any(len(feature) != len(mine[0]) for feature in (*mine, *theirs)):
            raise self.locate(pair.path, self._uneven(pair, mine, theirs), "Write calls: last, first or mean.")
        calls = [([one[call] for one in mine], [one[call] for one in theirs]) for call in range(len(mine[0]))]
        return [(one, self.constants(one, other)) for one, other in calls]

    def given(self, index: int, step: Step) -> Given:
        """What the loss of a pair gets at this step besides features."""
        options = {name: schedule(step.index) for name, schedule in self._scheduled[index].items()}
        temperature = options.get("temperature", 1.0)
        if isinstance(temperature, (int, float)) and temperature <= 0:
            raise UsageError(f"the temperature must be above 0, and is {temperature} at step {step.index}")
        asked = self.mask is not None
        handed = step.mask if step.feature_mask is None else step.feature_mask
        mask = self.values.as_tensor(handed) if self.mask is None else mask_of(self.mask, step.input, self.values)
        for tap in self.pairs[index].teachers:
            mask = step.counted(mask, self.name, tap.key)
        return Given(mask, asked, options)

    def ratio(self, index: int, student_loss: Tensor, value: Tensor) -> Tensor:
        """How much harder the loop's own loss pulls on a pair's layer of the student than the pair does."""
        pair, student = self.pairs[index], self.bound.student
        what = f"student {student.kind}: layer {', '.join(map(str, pair.students))}"
        keys = list(dict.fromkeys(tap.key for tap in pair.students))
        try:
            return self.gradient_ratio(student_loss, value, keys, what)
        except ModelError as error:
            raise self._fault(index, error, "Leave balance out, or map another layer.") from None

    # ---- modules -----------------------------------------------------------------------------------

    def build(self, index: int, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        """Make a pair's modules for the features that are there."""
        pair = self.pairs[index]
        for tensors, layers, taps in (
            (student, pair.students, self.bound.student),
            (teacher, pair.teachers, self.taps),
        ):
            for tensor, tap in zip(tensors, layers, strict=True):
                kind = self.integer_kind(tensor)
                if kind is not None:
                    message = f"pair {pair}: {taps.role} {taps.kind}: layer {tap} gives {kind}, which can't be followed"
                    raise self.locate(tap.path, message, "Map a layer whose values are floats.")
        try:
            self.modules[index] = self.make(index, student, teacher)
        except MatcherError as error:
            name, given = self.options.matchers[index], self.options.matchers_given
            mine, theirs = (", ".join(str(self.shape(tensor)) for tensor in side) for side in (student, teacher))
            sides = f"student {self.bound.student.kind} {mine} and teacher {self.taps.kind} {theirs}"
            raise self.locate(
                pair.path,
                f"pair {pair}: no feature matcher {name!r} for {sides}: {error}",
                "Write auto in feature_matchers." if given and name != "auto" else "Map layers with other shapes.",
            ) from None
        except ModelError as error:
            raise self._fault(index, error) from None

    def parameters(self, terms: Sequence[Term]) -> Iterator[Any]:
        """The trainable parameters; their shapes are looked up with a first batch where no loss was computed yet."""
        if not self.modules and self.options.live():
            self.look(terms)
        for modules in self.modules.values():  # in the order in which they were made
            yield from self.trainable(modules)

    def look(self, terms: Sequence[Term]) -> None:
        """Make the modules of all pairs for the first batch of the training data, where there is one."""
        with self.bound.first_input() as given:
            if given is None:
                say_made_later("feature matchers")
                return
            self.run_student(given)
            step = Step(0, given, None, teachers=self.bound.teachers)
            step.demand(terms)
            taps = step.features(self.name)
            for index in self.options.live():
                self.build(index, *self.features(index, taps)[0])
                self.admit(index, self.trainable(self.modules[index]))
        self.release()

    # ---- state and errors --------------------------------------------------------------------------

    def check_state(self, state: Mapping[str, Any]) -> None:
        """CheckpointError where a state is of another number of pairs."""
        if state.get("pairs") != len(self.pairs):
            raise CheckpointError(
                f"the state holds {state.get('pairs')} pairs of layers, and this criterion has {len(self.pairs)}"
            )

    def _uneven(self, pair: LayerPair, mine: Sequence[Sequence[Tensor]], theirs: Sequence[Sequence[Tensor]]) -> str:
        layers = "layers" if pair.several else "layer"
        counts = [" and ".join(str(len(features)) for features in side) for side in (mine, theirs)]
        return (
            f"pair {pair}: student {self.bound.student.kind} called its {layers} {counts[0]} times and teacher "
            f"{self.taps.kind} {counts[1]} times"
        )

    def _found(self, layers: Sequence[LayerTap], taps: Any) -> list[LayerTap]:
        return [self._located(tap, found, tap, taps) for tap in layers]

    def _located(self, tap: LayerTap, look: Callable[..., Any], *args: Any, pair: LayerPair | None = None) -> Any:
        try:
            return look(*args)
        except LayerError as error:
            about = f"pair {pair}: " if pair is not None else ""
            raise self.locate(tap.path, about + error.message, error.advice) from None

    def _fault(self, index: int, error: ModelError, advice: str = "") -> Exception:
        pair = self.pairs[index]
        return self.locate(pair.path, f"pair {pair}: {error}", advice)


def with_taps(pair: LayerPair, students: Sequence[LayerTap], teachers: Sequence[LayerTap]) -> LayerPair:
    """The same pair with other taps."""
    return replace(
        pair,
        student=students[0],
        teacher=teachers[0],
        more_students=tuple(students[1:]),
        more_teachers=tuple(teachers[1:]),
    )
