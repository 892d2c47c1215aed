"""The adapters of domain adaptation by name: what each looks at, and its options with the defaults of the papers.

Both backends and the configuration read this table, so one wording and one range holds for all. A backend's own
table of the same names holds the formulas; it may lack some.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdhooks.adaptation.options import Option
from kdhooks.errors import UsageError
from kdhooks.names import Table, did_you_mean
from kdhooks.schedules import Finding


@dataclass(frozen=True)
class AdapterRules:
    """What is known of an adapter without a framework.

    Attributes:
        name: in the tables, lower case.
        title: as papers write it.
        layers: fewest and most layers that it looks at; 0 where logits are enough, None where any number goes.
        options: by name.
        weight: of the term, where none is given.
        adversarial: whether it has a gradient reversal, whose coefficient matters.
        modules: of the student's own that it needs ("encoder", "head").
        optional_modules: those that it can do without.
        labelled: whether it needs the source's labels.
    """

    name: str
    title: str
    layers: tuple[int, int | None]
    options: Mapping[str, Option] = field(default_factory=dict)
    weight: float = 1.0
    adversarial: bool = False
    modules: tuple[str, ...] = ()
    optional_modules: tuple[str, ...] = ()
    labelled: bool = False

    def problems(self, given: Mapping[str, Any]) -> list[Finding]:
        """What is wrong with options that a user wrote, each with the path inside of them."""
        found = []
        for key, value in given.items():
            if key not in self.options:
                hint = did_you_mean(str(key), self.options, what="Its options") or "It has no options"
                found.append(Finding(str(key), f"the adapter {self.name!r} has no option {key!r}", hint, of_key=True))
                continue
            try:
                self.options[key].read(value)
            except ValueError as wrong:
                found.append(Finding(key, str(wrong)))
        return found

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options as the adapter holds them, with the defaults of those that are not given.

        Raises:
            UsageError: unknown options and values out of their range, all of them.

        >>> ADAPTER_RULES["coral"].read({})
        {'pool': 'flatten'}
        """
        problems = self.problems(given)
        if problems:
            raise UsageError("\n".join(self._in_words(problem) for problem in problems))
        return {
            key: option.read(given[key]) if key in given else option.default for key, option in self.options.items()
        }

    def _in_words(self, problem: Finding) -> str:
        if problem.of_key:
            return f"{problem.message}. {problem.suggestion}"
        return f"the adapter {self.name!r}: {problem.path}: {problem.message}"


ADAPTER_RULES: Table[AdapterRules] = Table("adapter")
"""Every adapter by name; names are compared without case, ``_`` and ``-``."""

_SEED = {"seed": Option("whole", 0, at_least=0)}
_POOL = {"pool": Option("choice", "flatten", choices=("flatten", "mean"))}


def _network(hidden_size: int) -> dict[str, Option]:
    return {
        "hidden_size": Option("whole", hidden_size, at_least=1),
        "hidden_layers": Option("whole", 2, at_least=0),
    }


FIVE_KERNELS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Multiples of the bandwidth in the code of MK-MMD's and JAN's authors."""

_KERNELS = {
    "multipliers": Option("numbers", FIVE_KERNELS, above=0),
    "bandwidth": Option("number", "mean", above=0, choices=("mean", "median")),
}
_ESTIMATOR = {"estimator": Option("choice", "quadratic", choices=("quadratic", "unbiased", "linear"))}

_CDAN = {
    "entropy": Option("flag", True),
    "entropy_weights": Option("choice", "sum", choices=("sum", "mean")),
    "randomized": Option("flag", "auto", choices=("auto",)),
    "random_size": Option("whole", 1024, at_least=1),
    "detach_predictions": Option("flag", True),
}
_JAN = {
    "softmax_multipliers": Option("numbers", (1.0,), above=0),
    "softmax_bandwidth": Option("number", "mean", above=0, choices=("mean", "median")),
}
_AFN = {
    "method": Option("choice", "stepwise", choices=("stepwise", "hard")),
    "radius": Option("number", 25.0, above=0),
    "step": Option("number", 1.0, above=0),
}
_MCD = {"discrepancy_weight": Option("number", 1.0, at_least=0)}
_MDD = {"margin": Option("number", 4.0, above=0), "hidden_size": Option("whole", 1024, at_least=1)}
_CAC = {
    "encoder_levels": Option("whole", "auto", at_least=0, choices=("auto",)),
    "weights": Option("numbers", (1.0, 1.0, 1.0), at_least=0),
    "hidden_size": Option("whole", 32, at_least=1),
    "class_aware": Option("flag", True),
    "mask_prior": Option("flag", False),
}
_ONE, _LOGITS, _SEVERAL = (1, 1), (0, 0), (0, None)

for _rules in (
    AdapterRules("dann", "DANN", _ONE, {**_network(1024), **_POOL, **_SEED}, adversarial=True),
    AdapterRules("cdan", "CDAN", _ONE, {**_network(1024), **_CDAN, **_POOL, **_SEED}, adversarial=True),
    AdapterRules("cac", "CAC", _SEVERAL, {**_CAC, **_SEED}, adversarial=True),
    AdapterRules("adda", "ADDA", _ONE, {**_network(500), **_POOL, **_SEED}, adversarial=True, modules=("encoder",)),
    AdapterRules("mk_mmd", "MK-MMD", _SEVERAL, {**_KERNELS, **_ESTIMATOR, **_POOL}),
    AdapterRules("jan", "JAN", (1, None), {**_KERNELS, **_JAN, **_ESTIMATOR, **_POOL}),
    AdapterRules("coral", "Deep CORAL", _SEVERAL, _POOL),
    AdapterRules("mcd", "MCD", (0, 1), {**_MCD, **_SEED}, adversarial=True, modules=("head",), labelled=True),
    AdapterRules("mdd", "MDD", (0, 1), {**_MDD, **_POOL, **_SEED}, adversarial=True, optional_modules=("head",)),
    AdapterRules("mcc", "MCC", _LOGITS, {"temperature": Option("number", 2.5, above=0)}),
    AdapterRules("bsp", "BSP", _ONE, {"k": Option("whole", 1, at_least=1), **_POOL}, weight=1e-4),
    AdapterRules("afn", "AFN", _ONE, {**_AFN, **_POOL}, weight=0.05),
    AdapterRules("entropy", "entropy minimisation", _LOGITS),
    AdapterRules("adabn", "AdaBN", _LOGITS),
):
    ADAPTER_RULES.add(_rules.name, _rules)
