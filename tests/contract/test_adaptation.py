"""The public formulas of domain adaptation against NumPy oracles, in value and gradient, with domains of unequal size.

An adapter of a backend's table without a case in `test_adapters` fails `test_every_adapter_has_an_oracle`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.contract import adaptation_oracle as oracle
from tests.contract.adaptation_backends import AdaptationBackend
from tests.contract.adaptation_cases import CLASSES, SOURCES, TARGETS, WIDTH, drawn, near, slope, wide


def test_every_adapter_has_an_oracle(adaptation: AdaptationBackend) -> None:
    held = {"dann", "cdan", "adda", "mk_mmd", "jan", "coral", "mcd", "mdd", "mcc", "bsp", "afn", "entropy", "adabn"}
    assert adaptation.names - {"cac"} <= held  # cac has a page of tests of its own
    assert {"dann", "cdan", "mk_mmd", "coral", "mcc", "entropy"} <= adaptation.names


MMD = [
    {},
    {"bandwidth": "median", "multipliers": (0.5, 1.5)},
    {"bandwidth": 3.0, "estimator": "unbiased"},
    {"estimator": "linear", "multipliers": (1.0,)},
]


@pytest.mark.parametrize("options", MMD)
def test_mk_mmd(adaptation: AdaptationBackend, options: dict[str, Any]) -> None:
    source, target = drawn(SOURCES, WIDTH, seed=1), drawn(TARGETS, WIDTH, seed=2) + 1
    multipliers = options.get("multipliers", (0.25, 0.5, 1.0, 2.0, 4.0))
    gamma = oracle.bandwidth(np.concatenate([wide(source), wide(target)]), options.get("bandwidth", "mean"))

    def value(s: Any, t: Any) -> Any:
        layer = (np.concatenate([s, t]), multipliers, gamma)
        return oracle.joint_discrepancy([layer], SOURCES, options.get("estimator", "quadratic"))

    found, slopes = adaptation.formula("mk_mmd", source, target, **options)
    assert found == pytest.approx(float(value(wide(source), wide(target))), rel=1e-8)
    near(slopes[0], slope(lambda s: value(s, wide(target)), wide(source)))
    near(slopes[1], slope(lambda t: value(wide(source), t), wide(target)))


@pytest.mark.parametrize("width", [WIDTH, 11])
def test_coral(adaptation: AdaptationBackend, width: int) -> None:
    source, target = drawn(SOURCES, width, seed=1) + 3, 2 * drawn(TARGETS, width, seed=2)
    found, slopes = adaptation.formula("coral", source, target)
    assert found == pytest.approx(float(oracle.coral(wide(source), wide(target))), rel=1e-8)
    near(slopes[0], slope(lambda s: oracle.coral(s, wide(target)), wide(source)))
    near(slopes[1], slope(lambda t: oracle.coral(wide(source), t), wide(target)))


def test_entropy(adaptation: AdaptationBackend) -> None:
    logits = 3 * drawn(SOURCES, CLASSES, seed=1)
    found, (moved,) = adaptation.formula("entropy", logits)
    assert found == pytest.approx(float(oracle.entropy(wide(logits))), rel=1e-8)
    near(moved, slope(oracle.entropy, wide(logits)))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_mcc(adaptation: AdaptationBackend, temperature: float) -> None:
    logits = 3 * drawn(SOURCES, CLASSES, seed=1)
    weights = oracle.mcc_weights(wide(logits), temperature)
    found, (moved,) = adaptation.formula("mcc", logits, temperature=temperature)
    assert found == pytest.approx(float(oracle.mcc(wide(logits), temperature, weights)), rel=1e-8)
    near(moved, slope(lambda at: oracle.mcc(at, temperature, weights), wide(logits)))


@pytest.mark.parametrize("k", [1, 2, 9])
def test_bsp(adaptation: AdaptationBackend, k: int) -> None:
    if "bsp" not in adaptation.names:
        return
    source, target = drawn(SOURCES, WIDTH, seed=1), drawn(TARGETS, WIDTH, seed=2)
    found, slopes = adaptation.formula("bsp", source, target, k=k)
    expected, moved = oracle.bsp(source, target, k)
    assert found == pytest.approx(expected, rel=1e-8)
    near(slopes[0], moved[0])
    near(slopes[1], moved[1])


@pytest.mark.parametrize("options", [{}, {"step": 0.3}, {"method": "hard"}, {"method": "hard", "radius": 2.0}])
def test_afn(adaptation: AdaptationBackend, options: dict[str, Any]) -> None:
    if "afn" not in adaptation.names:
        return
    features = drawn(SOURCES, WIDTH, seed=1)
    goals = oracle.norms(wide(features)) + np.longdouble(options.get("step", 1.0))
    if options.get("method") == "hard":
        goals = np.full(SOURCES, np.longdouble(options.get("radius", 25.0)))
    found, (moved,) = adaptation.formula("afn", features, **options)
    assert found == pytest.approx(float(oracle.afn(wide(features), goals)), rel=1e-8)
    near(moved, slope(lambda at: oracle.afn(at, goals), wide(features)))
