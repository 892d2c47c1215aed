"""Two domains of unequal size, and how an adapter is held to a formula of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.contract import feature_oracle
from tests.contract.adaptation_backends import Domain, Found
from tests.contract.oracle import Array

SOURCES, TARGETS, WIDTH, CLASSES = 5, 3, 4, 3
LAMBDA = 0.3


def drawn(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def wide(array: Array) -> Any:
    return array.astype(np.longdouble)


def both(*layers: int, logits_scale: float = 2.0, **fields: Any) -> tuple[Domain, Domain]:
    """Two domains with features of these widths."""
    domains = []
    for seed, count in ((1, SOURCES), (2, TARGETS)):
        features = tuple(drawn(count, width, seed=10 * seed + index) + seed for index, width in enumerate(layers))
        logits = drawn(count, CLASSES, seed=seed) * logits_scale
        domains.append(Domain(features, logits, **{key: value[seed - 1] for key, value in fields.items()}))
    return domains[0], domains[1]


def slope(value: Callable[[Any], Any], at: Array) -> Array:
    """By steps so small that none crosses the kink of a ReLU."""
    return feature_oracle.slope(value, at, 1e-6)


def near(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, np.asarray(expected, np.float64), rtol=1e-8, atol=1e-10)


Value = Callable[[dict[str, Any]], Any]


def hold(found: Found, value: Value, signs: dict[str, float], source: Domain, target: Domain) -> None:
    """Value and every gradient: of the formula, times the sign that a reversal gives; 0 where no sign is named."""
    at: dict[str, Any] = {}
    for side, domain in (("source", source), ("target", target)):
        at |= {f"{side}.features.{index}": wide(one) for index, one in enumerate(domain.features)}
        at[f"{side}.logits"] = wide(domain.logits)
    assert found.value == pytest.approx(float(value(at)), rel=1e-8)
    assert set(found.slopes) == set(at)
    for key, moved in found.slopes.items():
        sign = signs.get(key, 0.0)
        if sign == 0:
            assert not moved.any(), key
            continue
        near(moved, sign * slope(lambda one, key=key: value({**at, key: one}), at[key]))  # type: ignore[misc]


def hold_layers(found: Found, value: Callable[[Any], Any]) -> None:
    """The gradients of the discriminator, or of the second head, of a formula of its layers."""
    layers = [(wide(weight), wide(bias)) for weight, bias in found.layers]
    for index, slopes in enumerate(found.layer_slopes):
        for part in (0, 1):

            def moved(one: Array, index: int = index, part: int = part) -> Any:
                changed = [list(pair) for pair in layers]
                changed[index][part] = one
                return value(changed)

            near(slopes[part], slope(moved, layers[index][part]))
