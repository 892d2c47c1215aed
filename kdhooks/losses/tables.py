"""The two tables of losses that a backend has, and what is asked of them by name.

One name has one entry among all losses. MSE, L1, KL and CE have a meaning on features too, which the
table of losses on features holds. An entry is a function, or a class whose instances own parameters
or memory.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from kdhooks.errors import UsageError
from kdhooks.names import Table, did_you_mean
from kdhooks.registry import REGISTERED_LOSSES

Loss = Callable[..., Any]
Kind = Literal["logits", "feature", "either"]
Entry = TypeVar("Entry", bound=Loss)

_OF_THE_CRITERION = ("temperature", "target", "mask", "axis", "sample_weight")
"""What the criterion hands to a loss on logits, so that it is no option of it."""


class LossTables:
    """The losses of one backend by name.

    Attributes:
        losses: every loss by name; names are compared without case, ``_`` and ``-``.
        feature_losses: those that compare features; a class here is made from two shapes (`build`).

    Example:
        >>> tables = LossTables()
        >>> tables.on_features("nearness")(lambda student_feature, teacher_feature, *, p=2: 0.0)
        <function <lambda> at ...>
        >>> tables.kind("Nearness"), tables.options("nearness")
        ('feature', ['p'])
    """

    def __init__(self) -> None:
        self.losses: Table[Loss] = Table("loss")
        self.feature_losses: Table[Loss] = Table("loss on features")

    def on_features(self, name: str, *aliases: str) -> Callable[[Entry], Entry]:
        """Enter a loss on features in both tables; in that of features only where `losses` has the name for logits."""

        def put(loss: Entry) -> Entry:
            self.feature_losses.add(name, loss, aliases=aliases)
            if name not in self.losses:
                self.losses.add(name, loss, aliases=aliases)
            return loss

        return put

    def kind(self, name: str) -> Kind:
        """What a loss compares; UsageError where there is none of this name."""
        entry = self.losses[name]
        if name not in self.feature_losses:
            return "logits"
        return "feature" if self.feature_losses[name] is entry else "either"

    def logit_loss(self, name: str, /, **options: Any) -> Loss:
        """The loss on logits of a name in the table, or one that was registered, with its options set.

        Raises:
            UsageError: there is none, it compares features, or it has no such option.
        """
        entry = self._logit_entry(name)
        for option in options:
            fault = self.logit_option_fault(name, option)
            if fault is not None:
                raise UsageError(f"{fault[0]}. {fault[1]}")
        return functools.partial(entry, **options) if options else entry

    def logit_option_fault(self, name: str, option: str) -> tuple[str, str] | None:
        """What is wrong with an option of a loss on logits, and what to do about it; None where nothing is.

        Raises:
            UsageError: as `logit_loss` has it.
        """
        parameters = inspect.signature(self._logit_entry(name)).parameters.values()
        if any(one.kind is one.VAR_KEYWORD for one in parameters):
            return None
        known = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in _OF_THE_CRITERION]
        if option in known:
            return None
        hint = did_you_mean(option, known, what="Its options") if known else "It has no options"
        return f"the loss {self.losses.name(name) or name!r} has no option {option!r}", hint

    def feature_option_fault(self, name: str, option: str) -> tuple[str, str] | None:
        """The same of a loss on features."""
        known = self.options(name)
        if option in known or name not in self.losses:
            return None
        hint = did_you_mean(option, known, what="Its options") if known else "It has no options"
        return f"the loss {name!r} has no option {option!r}", hint

    def _logit_entry(self, name: str) -> Loss:
        if name in REGISTERED_LOSSES:
            return REGISTERED_LOSSES[name]
        if self.kind(name) == "feature":
            raise UsageError(
                f"the loss {self.losses.name(name)!r} compares features, not logits; "
                "name it in an IntermediateLayersKnowledgeDistillationLoss"
            )
        return self.losses[name]

    def feature_loss(self, name: str) -> Loss:
        """The loss on features of a name in the table, or one that was registered.

        Returns:
            A function ``f(student_feature, teacher_feature, *, ...)``, or a class that is called with the
            two shapes first.

        Raises:
            UsageError: there is none, or it compares logits.
        """
        if name in REGISTERED_LOSSES:
            return REGISTERED_LOSSES[name]
        if self.kind(name) == "logits":
            raise UsageError(
                f"the loss {self.losses.name(name)!r} compares logits, not features; "
                "name it in a KnowledgeDistillationLoss"
            )
        return self.feature_losses[name]

    def options(self, name: str) -> list[str]:
        """The keywords that a loss on features takes; UsageError as `feature_loss` has it."""
        parameters = inspect.signature(self.feature_loss(name)).parameters.values()
        return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]

    def build(self, name: str, student_shape: Any, teacher_shape: Any, **options: Any) -> Loss:
        """A loss on features with its options set, ready to be called with two features.

        Args:
            name: of a loss on features, or registered.
            student_shape: the shape of the student's feature, batch first; for losses of several layers
                (``fsp``, ``review``) a list of shapes.
            teacher_shape: the same of the teacher.
            options: of the loss, such as ``convention="common"``.

        Returns:
            A function, or an object where the loss owns parameters or memory.

        Raises:
            UsageError: an unknown loss, or an option that it doesn't have.
        """
        entry, known = self.feature_loss(name), self.options(name)
        registered = name not in self.losses
        for option in options:
            if option not in known and not registered:
                hint = did_you_mean(option, known, what="Its options")
                raise UsageError(f"the loss {self.losses.name(name)!r} has no option {option!r}. {hint}".rstrip())
        if isinstance(entry, type):
            built: Loss = entry(student_shape, teacher_shape, **options)
            return built
        return functools.partial(entry, **options) if options else entry
