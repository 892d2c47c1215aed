"""What is known of adapters without a framework: options, ranges, shapes, and the reversal's warm start."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kdhooks.adaptation import ADAPTER_RULES, WarmStart, a_distance, shapes
from kdhooks.errors import KDHooksError, ModelError, UsageError


def test_every_default_is_in_its_range() -> None:
    for _, rules in ADAPTER_RULES.items():
        defaults = {name: option.default for name, option in rules.options.items()}
        assert rules.read(defaults) == rules.read({}) == defaults
        assert rules.weight > 0


def test_values_are_read_as_the_adapter_holds_them() -> None:
    assert ADAPTER_RULES["MK-MMD"].read({"multipliers": [1, 2], "bandwidth": 3}) == {
        **{"multipliers": (1.0, 2.0), "bandwidth": 3.0, "estimator": "quadratic", "pool": "flatten"},
    }
    assert ADAPTER_RULES["cdan"].read({"hidden_size": 1e3, "randomized": "AUTO"})["hidden_size"] == 1000
    assert ADAPTER_RULES["cdan"].read({"randomized": False})["randomized"] is False


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("dann", {"hidden_size": 0}, "hidden_size: expected a whole number of at least 1, got 0"),
    ("dann", {"hidden_size": 1.5}, "hidden_size: expected a whole number of at least 1, got 1.5"),
    ("dann", {"hidden_size": "wide"}, "hidden_size: expected a whole number of at least 1, got 'wide'"),
    ("adda", {"hidden_layers": -1}, "hidden_layers: expected a whole number of at least 0, got -1"),
    ("cdan", {"entropy": "yes"}, "entropy: expected true or false, got 'yes'"),
    ("cdan", {"entropy_weights": "max"}, "entropy_weights: expected 'sum' or 'mean', got 'max'"),
    ("cdan", {"randomized": 1}, "randomized: expected true, false or 'auto', got 1"),
    ("mk_mmd", {"multipliers": [1, -2]}, "multipliers: expected a list of numbers above 0, got -2 in it"),
    ("mk_mmd", {"multipliers": []}, "multipliers: expected a list of numbers above 0, got an empty list"),
    ("mk_mmd", {"multipliers": 2}, "multipliers: expected a list of numbers above 0, got 2"),
    ("jan", {"bandwidth": -1}, "bandwidth: expected 'mean', 'median' or a number above 0, got -1"),
    ("jan", {"estimator": "fast"}, "estimator: expected 'quadratic', 'unbiased' or 'linear', got 'fast'"),
    ("mcd", {"discrepancy_weight": -0.5}, "discrepancy_weight: expected a number of at least 0, got -0.5"),
    ("mdd", {"margin": 0}, "margin: expected a number above 0, got 0"),
    ("mcc", {"temperature": math.inf}, "temperature: expected a number above 0, got inf"),
    ("bsp", {"k": True}, "k: expected a whole number of at least 1, got true"),
    ("afn", {"method": "soft"}, "method: expected 'stepwise' or 'hard', got 'soft'"),
    ("afn", {"radius": None}, "radius: expected a number above 0, got nothing"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_an_option_out_of_its_range(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ADAPTER_RULES[name].read(options)
    assert str(caught.value) == f"the adapter {name!r}: {message}"


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        ADAPTER_RULES["dann"].read({"hiden_size": 3, "seed": -1})
    assert str(caught.value).splitlines() == [
        "the adapter 'dann' has no option 'hiden_size'. Did you mean 'hidden_size'?",
        "the adapter 'dann': seed: expected a whole number of at least 0, got -1",
    ]
    with pytest.raises(UsageError) as caught:
        ADAPTER_RULES["entropy"].read({"weights": 1})
    assert str(caught.value) == "the adapter 'entropy' has no option 'weights'. It has no options"
    with pytest.raises(UsageError) as caught:
        ADAPTER_RULES["cdann"]
    assert str(caught.value) == "unknown adapter 'cdann'. Did you mean 'dann'?"


MISFITS: list[tuple[Any, type[KDHooksError], str]] = [
    (
        lambda: shapes.check_layers("dann", 2, (1, 1)),
        ModelError,
        "the adapter 'dann' looks at 1 layer, and gets features of 2",
    ),
    (
        lambda: shapes.check_layers("mcc", 1, (0, 0)),
        ModelError,
        "the adapter 'mcc' looks at no layer, only logits, and gets features of 1",
    ),
    (
        lambda: shapes.check_layers("jan", 0, (1, None)),
        ModelError,
        "the adapter 'jan' looks at 1 layer or more, and gets features of 0",
    ),
    (
        lambda: shapes.check_widths("coral", "features", [4, 8], [6, 7]),
        ModelError,
        "the adapter 'coral' needs features of one width in both domains; the source's has shape [4, 8] and the "
        "target's [6, 7]",
    ),
    (
        lambda: shapes.check_widths("dann", "features", [4, 8, 5, 5], [6, 8, 7, 7]),
        ModelError,
        "the adapter 'dann' needs features of one width in both domains; the source's has shape [4, 8, 5, 5] and the "
        "target's [6, 8, 7, 7]; pool: mean takes the mean over space or tokens",
    ),
    (
        lambda: shapes.check_rows("bsp", "target", "features", [4]),
        ModelError,
        "the adapter 'bsp' needs features of shape [N, ...]; the target's has [4]",
    ),
    (
        lambda: shapes.check_rows("bsp", "target", "features", [0, 4]),
        ModelError,
        "the adapter 'bsp': the target's batch has no row, its features is [0, 4]",
    ),
    (
        lambda: shapes.check_classes("mcc", [4, 1], -1),
        ModelError,
        "the adapter 'mcc' needs two classes or more; the logits have shape [4, 1]",
    ),
    (
        lambda: shapes.check_plain_logits("cdan", [2, 3, 8, 8]),
        ModelError,
        "the adapter 'cdan' needs logits [N, C], and they have shape [2, 3, 8, 8]; for segmentation use cac",
    ),
    (
        lambda: shapes.check_made_for("discriminator", "dann", 256, 128),
        ModelError,
        "the discriminator of 'dann' was made for rows of 256 numbers, and gets rows of 128; the first batch decides, "
        "so make a new adapter for another model",
    ),
    (
        lambda: shapes.check_labels("mcd", None, [4, 3], -1),
        UsageError,
        "the adapter 'mcd' needs the source's labels: pass target= to on_after_compute_loss",
    ),
    (
        lambda: shapes.check_labels("mcd", [4, 3], [4, 3], -1),
        ModelError,
        "the adapter 'mcd' needs class numbers of shape [4] for logits of shape [4, 3], and the source's labels have "
        "[4, 3]",
    ),
]


@pytest.mark.parametrize(("check", "kind", "message"), MISFITS)
def test_shapes_that_do_not_fit(check: Any, kind: type[KDHooksError], message: str) -> None:
    with pytest.raises(kind) as caught:
        check()
    assert str(caught.value) == message


def test_a_size_that_is_not_known_yet_fits() -> None:
    shapes.check_widths("coral", "features", [None, 8], [6, None])
    shapes.check_labels("mcd", [None, 8, 8], [None, 3, 8, 8], 1)


def test_the_warm_start_is_the_papers() -> None:
    warm = WarmStart(steps=200, low=0.1, high=0.7, alpha=5.0)
    for step in (0, 1, 77, 200, 900):
        assert warm(step) == pytest.approx(0.1 + 0.6 * (2 / (1 + math.exp(-5.0 * step / 200)) - 1), abs=1e-15)
    assert warm(0) == 0.1 and warm(10**9) == pytest.approx(0.7)
    assert warm(5) == warm(5)  # it holds no count: asking in an evaluation moves nothing


@pytest.mark.parametrize("options", [{"steps": 0}, {"alpha": 0.0}, {"low": -1.0}, {"low": 2.0}, {"high": math.inf}])
def test_a_warm_start_out_of_its_range(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        WarmStart(**options)
    given = {"steps": 1000, "alpha": 10.0, "low": 0.0, "high": 1.0, **options}
    assert str(caught.value) == (
        "the reversal needs steps of 1 or more, an alpha above 0 and 0 <= low <= high, and has "
        f"steps={given['steps']}, alpha={given['alpha']}, low={given['low']}, high={given['high']}"
    )


def test_the_a_distance_of_guessing_and_of_knowing() -> None:
    assert (a_distance(0.5), a_distance(0.75), a_distance(1.0)) == (0.0, 1.0, 2.0)
