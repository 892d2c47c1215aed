"""The rows of docs/results_domains.md, and what was tried before they were fixed."""

from __future__ import annotations

from typing import Any

from benchmarks import domain_digits, domain_scanners, domain_transfer

SEEDS, SEARCH_SEED = (0, 1, 2, 3, 4), 100


def _digits(criterion: Any = None, **changes: Any) -> domain_digits.Recipe:
    return domain_digits.Recipe(criterion or {}).but(**changes)


def _cac(**options: Any) -> domain_scanners.Recipe:
    return domain_scanners.Recipe({"hidden_size": 8, "weight": 0.05, **options})


_FEATURES = {"layer": "features"}
_ADVERSARY = {**_FEATURES, "hidden_size": 64}

ROWS: dict[str, dict[str, Any]] = {
    "digits": {
        "source only": _digits(),
        "DANN": _digits({"DANN": _ADVERSARY}),
        "CDAN": _digits({"CDAN": _ADVERSARY}),
        "ADDA": _digits({"ADDA": {**_ADVERSARY, "encoder": "features"}}, alone=240),
        "MK-MMD": _digits({"MK_MMD": _FEATURES}),
        "JAN": _digits({"JAN": _FEATURES}),
        "Deep CORAL": _digits({"coral": {**_FEATURES, "weight": 10.0}}),
        "MCD": _digits({"MCD": {**_FEATURES, "head": "head"}}),
        "MDD": _digits({"MDD": {**_ADVERSARY, "head": "head"}}),
        "MCC": _digits({"MCC": {"temperature": 2.5}}),
        "DANN + BSP": _digits({"DANN": _ADVERSARY, "BSP": _FEATURES}),
        "AFN": _digits({"AFN": _FEATURES}),
        "entropy": _digits({"entropy": {"weight": 0.1}}),
        "AdaBN": _digits(statistics=True),
        "target-trained": _digits(source="digits"),
    },
    "scanners": {
        "source only": domain_scanners.Recipe(),
        "CAC": _cac(weights=[0.1, 0.1, 1.0]),
        "CAC, masks alone": _cac(weights=[0.0, 0.0, 1.0]),
        "target-trained": domain_scanners.Recipe(source="b"),
    },
    "transfer": {
        "from scratch": domain_transfer.Recipe(),
        "from MNIST": domain_transfer.Recipe(pretrained=True),
        "from MNIST, first convolution frozen": domain_transfer.Recipe(
            pretrained=True, freeze=("features.0", "features.1")
        ),
    },
}
"""For every comparison its rows by name."""

SEARCH: dict[str, dict[str, Any]] = {"digits": {}, "scanners": {}, "transfer": {}}
"""What was tried, on a seed that no row has."""

DRAWN = {"digits": ["source only", "DANN", "CDAN", "MK-MMD", "MCC", "target-trained"]}
"""The rows that stand in the picture."""

DESCRIPTIONS = {"digits": "", "scanners": "", "transfer": ""}
"""What every comparison is."""
