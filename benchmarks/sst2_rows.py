"""The rows of the SST-2 table as recipes, the differences that it shows, and what was tried on dev before.

Rules: a row differs from the one it is compared with only in what the page says; each choice stands in `SEARCH`
with its alternatives and was made on dev, with a seed that no row has.
"""

from __future__ import annotations

from typing import Any

from examples.sentiment.training import Recipe

STUDENTS = ("BiLSTM", "BlendCNN", "Transformer")

ALONE = {
    "BiLSTM": Recipe("BiLSTM", epochs=6, rate=2e-3),
    "BlendCNN": Recipe("BlendCNN", epochs=6, rate=2e-3),
    "Transformer": Recipe("Transformer", epochs=6, rate=1e-3, dropout=0.2),
}
LOGITS: dict[str, Any] = {"loss": "MSE", "weights": (0.1, 0.9)}
AUGMENTED: dict[str, Any] = {"augment": True, "epochs": 1.5}
FEATURES: dict[str, Any] = {"features": (30.0, 30.0, 30.0)}
FEATURES_AUGMENTED: dict[str, Any] = {"features": (10.0, 10.0, 10.0), "rate": 2e-3}

ROWS: dict[str, Recipe] = {}
for _name, _alone in ALONE.items():
    ROWS[f"{_name} alone"] = _alone
    ROWS[f"{_name} logits"] = _alone.but(**LOGITS)
    if _name == "Transformer":
        ROWS[f"{_name} logits + features"] = _alone.but(**LOGITS, **FEATURES)
    ROWS[f"{_name} hard labels, augmented"] = _alone.but(hard=True, **AUGMENTED)
    ROWS[f"{_name} logits, augmented"] = _alone.but(**AUGMENTED, **LOGITS)
    if _name == "Transformer":
        ROWS[f"{_name} logits at rate 0.002, augmented"] = _alone.but(**AUGMENTED, **LOGITS, rate=2e-3)
        ROWS[f"{_name} logits + features, augmented"] = _alone.but(**AUGMENTED, **LOGITS, **FEATURES_AUGMENTED)

SEEDS = {name: 10 if name.startswith("Transformer logits") else 5 for name in ROWS}
"""How many seeds a row has; more where features are compared with logits, a difference that is small."""

PAIRS = [
    *((f"{name} logits", f"{name} alone") for name in STUDENTS),
    *((f"{name} logits, augmented", f"{name} alone") for name in STUDENTS),
    *((f"{name} logits, augmented", f"{name} logits") for name in STUDENTS),
    *((f"{name} logits, augmented", f"{name} hard labels, augmented") for name in STUDENTS),
    ("Transformer logits + features", "Transformer logits"),
    ("Transformer logits + features, augmented", "Transformer logits, augmented"),
    ("Transformer logits + features, augmented", "Transformer logits at rate 0.002, augmented"),
    ("Transformer logits + features, augmented", "Transformer alone"),
]

SEARCH: dict[str, Recipe] = {}


def tried(row: str, base: Recipe, **changes: Any) -> None:
    """One recipe that was tried for a row, under a name that tells it."""
    recipe = base.but(**changes)
    told = [f"rate {recipe.rate:g}", f"dropout {recipe.dropout:g}", f"{recipe.epochs:g} epochs"]
    if recipe.loss:
        told.append(f"{recipe.loss}, T = {recipe.temperature:g}, weights {' and '.join(map(str, recipe.weights))}")
    if recipe.features:
        told.append(f"features {', '.join(format(weight, 'g') for weight in recipe.features)}")
    if recipe.at_least > 1:
        told.append(f"words that occur {recipe.at_least} times")
    SEARCH[f"{row}: {'; '.join(told)}"] = recipe


for _name, _alone in ALONE.items():
    for _rate in (1e-3, 2e-3, 4e-3) if _name == "BlendCNN" else (1e-3, 2e-3):
        tried(f"{_name} alone", _alone, rate=_rate)
for _least in (1, 2):
    tried("BiLSTM alone", ALONE["BiLSTM"], at_least=_least)
    tried("BiLSTM logits, augmented", ALONE["BiLSTM"], **LOGITS, **AUGMENTED, at_least=_least)
for _end, _augmented in (("", {}), (", augmented", AUGMENTED)):
    _one = ALONE["Transformer"].but(**LOGITS, **_augmented)
    for _rate in (1e-3, 2e-3):
        tried(f"Transformer logits{_end}", _one, rate=_rate)
        tried(f"Transformer logits + features{_end}", _one, rate=_rate, features=(10.0, 10.0, 10.0))
    for _weights in ((10.0, 0.0, 0.0), (30.0, 30.0, 30.0)):
        _rate = 2e-3 if _augmented else 1e-3
        tried(f"Transformer logits + features{_end}", _one, rate=_rate, features=_weights)
