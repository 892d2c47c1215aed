"""Every adapter against NumPy oracles: its value, and the gradients of features, logits, discriminators and heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.contract import adaptation_oracle as oracle
from tests.contract.adaptation_backends import AdaptationBackend, Domain
from tests.contract.adaptation_cases import (
    CLASSES,
    LAMBDA,
    SOURCES,
    TARGETS,
    WIDTH,
    both,
    drawn,
    hold,
    hold_layers,
    near,
    slope,
    wide,
)


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), (3, 2)])
@pytest.mark.parametrize("pool", ["flatten", "mean"])
def test_dann(adaptation: AdaptationBackend, shape: tuple[int, ...], pool: str) -> None:
    source, target = both()
    source = Domain((drawn(SOURCES, *shape, seed=3),), source.logits)
    target = Domain((drawn(TARGETS, *shape, seed=4),), target.logits)
    found = adaptation.adapter("dann", source, target, coefficient=LAMBDA, hidden_size=6, pool=pool)
    assert [weight.shape[0] for weight, _ in found.layers] == [6, 6, 1]

    def value(at: Any, layers: Any = None) -> Any:
        sides = (oracle.rows(at[f"{side}.features.0"], pool) for side in ("source", "target"))
        return oracle.domain([(wide(w), wide(b)) for w, b in found.layers] if layers is None else layers, *sides)

    hold(found, value, {"source.features.0": -LAMBDA, "target.features.0": -LAMBDA}, source, target)
    at = {"source.features.0": wide(source.features[0]), "target.features.0": wide(target.features[0])}
    hold_layers(found, lambda layers: value(at, layers))
    sides = (oracle.rows(one.features[0], pool) for one in (source, target))
    assert found.measures == {"domain_accuracy": pytest.approx(oracle.accuracy(found.layers, *sides))}


CDAN: list[dict[str, Any]] = [
    {},
    {"entropy": False},
    {"entropy_weights": "mean"},
    {"randomized": True, "random_size": 7},
    {"detach_predictions": False},
    {"detach_predictions": False, "randomized": True, "random_size": 3, "entropy_weights": "mean"},
]


@pytest.mark.parametrize("options", CDAN)
def test_cdan(adaptation: AdaptationBackend, options: dict[str, Any]) -> None:
    source, target = both(WIDTH)
    found = adaptation.adapter("cdan", source, target, coefficient=LAMBDA, hidden_size=6, **options)
    assert (found.maps is not None) == options.get("randomized", False)
    assert found.layers[0][0].shape[1] == options.get("random_size", WIDTH * CLASSES)
    maps = None if found.maps is None else (wide(found.maps[0]), wide(found.maps[1]))
    kind = options.get("entropy_weights", "sum")

    def value(at: Any, layers: Any = None) -> Any:
        sides = [oracle.joined(at[f"{one}.features.0"], at[f"{one}.logits"], maps) for one in ("source", "target")]
        weights = [oracle.certainty(at[f"{one}.logits"], kind) for one in ("source", "target")]
        layers = [(wide(w), wide(b)) for w, b in found.layers] if layers is None else layers
        return oracle.domain(layers, *sides, weights=(weights[0], weights[1]) if options.get("entropy", True) else None)

    signs = {"source.features.0": -LAMBDA, "target.features.0": -LAMBDA}
    if not options.get("detach_predictions", True):
        signs |= {"source.logits": -LAMBDA, "target.logits": -LAMBDA}
    hold(found, value, signs, source, target)
    at = {
        f"{side}.{key}": wide(one)
        for side, domain in (("source", source), ("target", target))
        for key, one in (("features.0", domain.features[0]), ("logits", domain.logits))
    }
    hold_layers(found, lambda layers: value(at, layers))


def test_adda(adaptation: AdaptationBackend) -> None:
    if "adda" not in adaptation.names:
        return
    inputs = drawn(SOURCES, 2, seed=5), drawn(TARGETS, 2, seed=6)
    encoder = drawn(WIDTH, 2, seed=7), drawn(WIDTH, seed=8)
    source, target = both(WIDTH, encoder_input=inputs)
    found = adaptation.adapter("adda", source, target, coefficient=LAMBDA, encoder=encoder, hidden_size=6)
    frozen = np.tanh(wide(inputs[0]) @ wide(encoder[0]).T + wide(encoder[1]))

    def value(at: Any, layers: Any = None) -> Any:
        layers = [(wide(w), wide(b)) for w, b in found.layers] if layers is None else layers
        return oracle.domain(layers, frozen, at["target.features.0"])

    hold(found, value, {"target.features.0": -LAMBDA}, source, target)
    hold_layers(found, lambda layers: value({"target.features.0": wide(target.features[0])}, layers))


@pytest.mark.parametrize("layers", [(), (4,), (4, 2)])
def test_mk_mmd_and_coral_add_up_over_layers(adaptation: AdaptationBackend, layers: tuple[int, ...]) -> None:
    source, target = both(*layers)
    keys = [f"features.{index}" for index in range(len(layers))] or ["logits"]
    gammas = {
        key: oracle.bandwidth(np.concatenate([wide(s), wide(t)]), "mean")
        for key, s, t in zip(
            keys, source.features or (source.logits,), target.features or (target.logits,), strict=True
        )
    }

    def mk_mmd(at: Any) -> Any:
        five = (0.25, 0.5, 1.0, 2.0, 4.0)
        pairs = {key: np.concatenate([at[f"source.{key}"], at[f"target.{key}"]]) for key in keys}
        return sum(oracle.joint_discrepancy([(rows, five, gammas[key])], SOURCES) for key, rows in pairs.items())

    def coral(at: Any) -> Any:
        return sum(oracle.coral(at[f"source.{key}"], at[f"target.{key}"]) for key in keys)

    signs = {f"{side}.{key}": 1.0 for side in ("source", "target") for key in keys}
    hold(adaptation.adapter("mk_mmd", source, target), mk_mmd, signs, source, target)
    hold(adaptation.adapter("coral", source, target), coral, signs, source, target)


JAN: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((4,), {}),
    ((4, 2), {"softmax_bandwidth": 1.68, "bandwidth": "median", "multipliers": (1.0, 2.0)}),
    ((4, 2), {"estimator": "unbiased", "softmax_multipliers": (0.5, 1.0)}),
    ((4,), {"estimator": "linear"}),
]


@pytest.mark.parametrize(("widths", "options"), JAN)
def test_jan(adaptation: AdaptationBackend, widths: tuple[int, ...], options: dict[str, Any]) -> None:
    if "jan" not in adaptation.names:
        return
    source, target = both(*widths)
    five = (0.25, 0.5, 1.0, 2.0, 4.0)

    def layers(at: Any) -> list[Any]:
        logits = [oracle.softmax(at[f"{side}.logits"]) for side in ("source", "target")]
        features = [
            np.concatenate([at[f"{side}.features.{index}"] for side in ("source", "target")])
            for index in range(len(widths))
        ]
        return [np.concatenate(logits), *features]

    given = {f"{side}.logits": wide(one.logits) for side, one in (("source", source), ("target", target))}
    for side, one in (("source", source), ("target", target)):
        given |= {f"{side}.features.{index}": wide(rows) for index, rows in enumerate(one.features)}
    kinds = [options.get("softmax_bandwidth", "mean"), *[options.get("bandwidth", "mean")] * len(widths)]
    gammas = [oracle.bandwidth(rows, kind) for rows, kind in zip(layers(given), kinds, strict=True)]
    multipliers = [options.get("softmax_multipliers", (1.0,)), *[options.get("multipliers", five)] * len(widths)]

    def value(at: Any) -> Any:
        joint = list(zip(layers(at), multipliers, gammas, strict=True))
        return oracle.joint_discrepancy(joint, SOURCES, options.get("estimator", "quadratic"))

    found = adaptation.adapter("jan", source, target, **options)
    hold(found, value, dict.fromkeys(given, 1.0), source, target)


def test_adapters_of_one_formula(adaptation: AdaptationBackend) -> None:
    source, target = both()
    hold(
        adaptation.adapter("entropy", source, target),
        lambda at: oracle.entropy(at["target.logits"]),
        {"target.logits": 1.0},
        source,
        target,
    )
    weights = oracle.mcc_weights(wide(target.logits), 2.5)
    found = adaptation.adapter("mcc", source, target)
    hold(found, lambda at: oracle.mcc(at["target.logits"], 2.5, weights), {"target.logits": 1.0}, source, target)
    if "afn" in adaptation.names:
        source, target = both(WIDTH)
        goals = oracle.norms(np.concatenate([wide(source.features[0]), wide(target.features[0])])) + 1

        def value(at: Any) -> Any:
            return oracle.afn(np.concatenate([at["source.features.0"], at["target.features.0"]]), goals)

        signs = {"source.features.0": 1.0, "target.features.0": 1.0}
        hold(adaptation.adapter("afn", source, target), value, signs, source, target)
    if "bsp" in adaptation.names:
        found = adaptation.adapter("bsp", source, target, k=2)
        expected, slopes = oracle.bsp(source.features[0], target.features[0], 2)
        assert found.value == pytest.approx(expected, rel=1e-8)
        near(found.slopes["source.features.0"], slopes[0])
        near(found.slopes["target.features.0"], slopes[1])
    if "adabn" in adaptation.names:
        assert adaptation.adapter("adabn", *both()).value == 0


def test_mcd(adaptation: AdaptationBackend) -> None:
    if "mcd" not in adaptation.names:
        return
    labels = np.array([0, 2, -100, 1, 1])
    source, target = both(WIDTH, labels=(labels, None))
    head = drawn(CLASSES, WIDTH, seed=7), drawn(CLASSES, seed=8)
    found = adaptation.adapter("mcd", source, target, coefficient=LAMBDA, head=head, discrepancy_weight=0.7)
    (second,) = [(wide(w), wide(b)) for w, b in found.layers]

    def apart(rows: Any, own: Any = head, second: Any = second) -> Any:
        return oracle.disagreement(rows @ own[0].T + own[1], rows @ second[0].T + second[1])

    def labelled(rows: Any, second: Any = second) -> Any:
        return oracle.cross_entropy(rows @ second[0].T + second[1], labels)

    rows = wide(source.features[0]), wide(target.features[0])
    assert found.value == pytest.approx(float(labelled(rows[0]) - 0.7 * apart(rows[1])), rel=1e-8)
    assert found.measures == {"discrepancy": pytest.approx(float(apart(rows[1])))}
    near(found.slopes["source.features.0"], slope(labelled, rows[0]))
    near(found.slopes["target.features.0"], LAMBDA * 0.7 * slope(apart, rows[1]))  # the encoder makes them agree
    assert not found.slopes["source.logits"].any() and not found.slopes["target.logits"].any()
    hold_layers(found, lambda layers: labelled(rows[0], layers[0]) - 0.7 * apart(rows[1], second=layers[0]))
    own = wide(head[0]), wide(head[1])
    near(found.head_slopes[0], -0.7 * slope(lambda at: apart(rows[1], (at, own[1])), own[0]))
    near(found.head_slopes[1], -0.7 * slope(lambda at: apart(rows[1], (own[0], at)), own[1]))


@pytest.mark.parametrize("with_head", [True, False])
def test_mdd(adaptation: AdaptationBackend, with_head: bool) -> None:
    if "mdd" not in adaptation.names:
        return
    source, target = both(WIDTH)
    head = (drawn(CLASSES, WIDTH, seed=7), drawn(CLASSES, seed=8)) if with_head else None
    found = adaptation.adapter("mdd", source, target, coefficient=LAMBDA, head=head, margin=3.0, hidden_size=6)
    assert len(found.layers) == (1 if with_head else 2)
    chosen = source.logits.argmax(1), target.logits.argmax(1)

    def value(at: Any, layers: Any = None) -> Any:
        layers = [(wide(w), wide(b)) for w, b in found.layers] if layers is None else layers
        sides = (oracle.network(layers, at[f"{side}.features.0"]) for side in ("source", "target"))
        return oracle.disparity(*sides, chosen, 3.0)

    hold(found, value, {"source.features.0": -LAMBDA, "target.features.0": -LAMBDA}, source, target)
    at = {"source.features.0": wide(source.features[0]), "target.features.0": wide(target.features[0])}
    hold_layers(found, lambda layers: value(at, layers))
