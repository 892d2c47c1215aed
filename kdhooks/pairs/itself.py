"""The criterion of self-distillation, as far as no framework matters: groups, temperatures, the student as teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kdhooks.config.model import Schedulable
from kdhooks.criterion import Step, Term, check_balance
from kdhooks.errors import UsageError
from kdhooks.pairs.bound import Bound
from kdhooks.pairs.criterion import PairsCriterion
from kdhooks.pairs.masks import FeatureMask, check_feature_mask
from kdhooks.pairs.options import PairOptions, PairRules, named_loss
from kdhooks.pairs.parsing import parse_layer_groups
from kdhooks.schedules import Schedule, constant_value, parse_schedule

ITSELF = ""
"""The name of the student where a teacher's stands; no teacher has it."""


class SelfPairsCriterion(PairsCriterion):
    """What a backend's criterion of self-distillation builds on; see its own docstring for users."""

    needs_teacher = False

    def __init__(
        self,
        layer_mappings: Any,
        temperature: Schedulable = 1.0,
        loss_types: Any = None,
        loss_weights: Any = None,
        add_origin_loss: bool = False,
        *,
        feature_matchers: Any = None,
        student_label: str = "CE",
        balance: str | None = None,
        feature_mask: FeatureMask | None = None,
    ) -> None:
        if isinstance(temperature, (int, float)) and not temperature > 0:
            raise UsageError(f"the temperature must be above 0, and is {temperature}")
        schedule = parse_schedule(temperature, above=0.0)
        always = constant_value(schedule)
        self.temperature: float | Schedule = schedule if always is None else always
        named = {
            "feature_matchers": feature_matchers,
            "student_label": student_label,
            "balance": check_balance(balance),
            "feature_mask": check_feature_mask(feature_mask),
        }
        options = self._read(layer_mappings, loss_types, loss_weights, feature_matchers)
        if always is None:
            _schedule(options, schedule, self.rules)
        self.begin_options((layer_mappings, temperature, loss_types, loss_weights, add_origin_loss), named, options)

    def _read(self, layer_mappings: Any, loss_types: Any, loss_weights: Any, feature_matchers: Any) -> PairOptions:
        """The options of the pairs, with the temperature in those losses that have one."""
        if loss_weights is None:
            pairs = parse_layer_groups(layer_mappings)
            loss_weights = 1 / (pairs[-1].entry + 1)
        many = isinstance(loss_types, (list, tuple))
        losses = [self._softened(one) for one in (loss_types if many else [loss_types or "CE"])]
        return PairOptions(
            layer_mappings,
            losses,
            loss_weights,
            feature_matchers,
            rules=self.rules,
            key="layer_mappings",
            parse=parse_layer_groups,
        )

    def _softened(self, given: Any) -> Mapping[str, Any]:
        name, options = named_loss(given)
        softens = isinstance(self.temperature, float) and self.rules.has_option(name, "temperature")
        return {name: {"temperature": self.temperature, **options} if softens else options}

    def bind(self, bound: Bound) -> None:
        """Take the models of a run; `on_train_begin` comes next."""
        super().bind(replace(bound, teachers={ITSELF: Itself(bound.student)}))

    def own_models(self) -> Bound:
        """The model that a program has set, where there is no run."""
        if self.student_model is None:
            raise UsageError("no model is set: student_model comes before on_train_begin()")
        taps, optimizer = self.own_student()
        return Bound(taps, {ITSELF: Itself(taps)}, optimizer)

    def teacher_name(self, bound: Bound) -> str:
        """The student itself."""
        return ITSELF

    def _term(self, index: int) -> Term:
        def compute(step: Step) -> Any:
            pairs = self._working()
            step.captured[ITSELF] = pairs.bound.student
            return pairs.loss(index, step)

        return replace(super()._term(index), compute=compute, layer=lambda: None, probe=None)


def _schedule(options: PairOptions, temperature: Schedule, rules: PairRules) -> None:
    """Have the temperature read at every step, by losses that soften and have none of their own."""
    for (name, given), scheduled in zip(options.losses, options.scheduled, strict=True):
        if "temperature" in given or not rules.has_option(name, "temperature"):
            continue
        if isinstance(rules.feature_loss(name), type):
            raise UsageError(
                f"the loss {name!r} is made with one temperature and can't follow a schedule: give it its own, as in "
                f"{{{name}: {{temperature: 0.1}}}}"
            )
        scheduled["temperature"] = temperature


class Itself:
    """The student in a teacher's place: what was captured in its own forward."""

    def __init__(self, taps: Any) -> None:
        self.taps = taps
        self.model: Any = taps.model

    def tap(self) -> Any:
        """What captures the student's layers."""
        return self.taps

    def features(self, value: Any, layers: frozenset[Any], step: Any = None) -> None:
        """The student's own forward has captured them already."""

    def on_train_begin(self) -> None:
        """Nothing stands on it but what captures the student's layers."""

    untap = release = on_train_end = on_train_begin
