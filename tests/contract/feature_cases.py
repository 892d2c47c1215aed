"""Which shapes and options every loss is tried with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.contract import feature_oracle as oracle
from tests.contract.oracle import Array

Shapes = Any
MAPS, TOKENS, ROWS = (3, 4, 2, 4), (2, 3, 4), (5, 6)
HEADS, PAIR = (2, 2, 3, 3), [(2, 3, 4, 2), (2, 2, 2, 4)]

CASES: dict[str, list[tuple[Shapes, Shapes, dict[str, Any]]]] = {
    "MSE": [(MAPS, MAPS, {}), (TOKENS, TOKENS, {}), (ROWS, ROWS, {})],
    "L1": [(MAPS, MAPS, {}), (TOKENS, TOKENS, {}), (ROWS, ROWS, {})],
    "KL": [(MAPS, MAPS, {}), (TOKENS, TOKENS, {"temperature": 3.0}), (ROWS, ROWS, {})],
    "CE": [(MAPS, MAPS, {}), (TOKENS, TOKENS, {"temperature": 3.0}), (ROWS, ROWS, {})],
    "hint": [(MAPS, MAPS, {}), (TOKENS, TOKENS, {"convention": "common"}), (ROWS, ROWS, {})],
    "L2": [(MAPS, MAPS, {}), (TOKENS, TOKENS, {"convention": "common"}), (ROWS, ROWS, {})],
    "cosine": [(MAPS, MAPS, {}), (TOKENS, TOKENS, {}), (ROWS, ROWS, {})],
    "pkd": [
        (TOKENS, TOKENS, {}),
        (TOKENS, TOKENS, {"token": None}),
        (TOKENS, TOKENS, {"token": 2, "convention": "common"}),
        (ROWS, ROWS, {}),
    ],
    "attention_transfer": [
        (MAPS, (3, 6, 2, 4), {}),
        (MAPS, MAPS, {"convention": "common"}),
        (TOKENS, (2, 3, 6), {"p": 1.0}),
    ],
    "nst": [
        (MAPS, (3, 2, 2, 4), {}),
        (MAPS, MAPS, {"kernel": "linear"}),
        (TOKENS, TOKENS, {"kernel": "polynomial", "degree": 3, "offset": 0.5}),
        (MAPS, (3, 2, 2, 4), {"kernel": "gaussian", "sigma": 0.7}),
        (MAPS, (3, 2, 2, 4), {"kernel": "gaussian"}),
    ],
    "fsp": [(PAIR, PAIR, {}), (PAIR, [(2, 3, 2, 2), (2, 2, 2, 2)], {"convention": "common"})],
    "ickd": [(MAPS, (3, 4, 3, 3), {}), (MAPS, MAPS, {"convention": "common"}), (TOKENS, (2, 5, 4), {})],
    "similarity_preserving": [(ROWS, (5, 3), {}), (MAPS, MAPS, {})],
    "rkd": [
        (ROWS, (5, 3), {}),
        (ROWS, (5, 3), {"convention": "common"}),
        ((4, 2, 2, 1), (4, 3), {"distance_weight": 1.0, "angle_weight": 0.0}),
        ((4, 3), (4, 2), {"distance_weight": 0.0, "angle_weight": 2.0}),
    ],
    "correlation_congruence": [
        (ROWS, (5, 3), {}),
        (ROWS, ROWS, {"gamma": 0.9, "order": 4}),
        (ROWS, ROWS, {"order": None}),
    ],
    "pkt": [(ROWS, (5, 3), {}), (ROWS, (5, 3), {"convention": "common"}), (MAPS, MAPS, {})],
    "attention_kl": [(HEADS, HEADS, {}), (HEADS, HEADS, {"scores": True})],
    "value_relation": [
        ((2, 2, 3, 2), (2, 2, 3, 4), {}),
        (TOKENS, (2, 3, 6), {"heads": 2}),
        (TOKENS, TOKENS, {}),
    ],
}
MODULES: dict[str, list[tuple[Shapes, Shapes, dict[str, Any]]]] = {
    "vid": [(MAPS, (3, 3, 2, 4), {}), (TOKENS, (2, 3, 2), {"convention": "common", "hidden": 5}), (ROWS, ROWS, {})],
    "mgd": [
        (MAPS, (3, 3, 2, 4), {}),
        (MAPS, MAPS, {"masked": "channels", "convention": "common", "ratio": 0.3}),
    ],
    "review": [
        ([(2, 2, 4, 4), (2, 3, 2, 2)], [(2, 3, 8, 8), (2, 2, 4, 4)], {"width": 2}),
        ((2, 2, 4, 4), (2, 3, 4, 4), {}),
    ],
    "crd": [
        (ROWS, (5, 3), {"samples": 12, "negatives": 4, "width": 3}),
        (MAPS, (3, 4, 3), {"samples": 5, "negatives": 9, "width": 3, "convention": "common"}),
    ],
}
LOGITS: dict[str, list[dict[str, Any]]] = {
    "dkd": [{}, {"alpha": 0.3, "beta": 2.0}],
    "dist": [{}, {"beta": 2.0, "gamma": 0.5}],
    "logit_standardization": [{}, {"convention": "common"}],
    "skewed_kl": [{}, {"alpha": 0.4, "reverse": True}, {"alpha": 0.0}],
    "teacher_free": [{}, {"a": 0.7, "convention": "common"}],
    "mft": [{}, {"tau": 0.6}, {"correct_all": False}],
}
NEEDS_TARGET = ("dkd", "mft", "teacher_free")

of_features = pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in CASES.items() for case in range(len(cases))]
)
of_modules = pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in MODULES.items() for case in range(len(cases))]
)


def drawn(shapes: Shapes, seed: int, name: str = "") -> Any:
    """Features in float64; attention is a distribution over keys."""
    generator = np.random.default_rng(seed)
    if isinstance(shapes, list):
        return [generator.normal(size=shape) for shape in shapes]
    found = generator.normal(size=shapes)
    return oracle.softmax(found) if name == "attention_kl" else found


def labelled(shape: tuple[int, ...], classes: int) -> Array:
    labels = np.random.default_rng(7).integers(classes, size=shape)
    labels.flat[1] = -100
    return labels
