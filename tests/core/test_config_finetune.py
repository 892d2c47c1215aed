"""The section ``finetune``: what it holds, and what it may not say."""

from __future__ import annotations

import pytest

from kdhooks.config import DistillationConf
from kdhooks.config.finetune_settings import BehaviourSettings, FinetuneSettings, StartingPointSettings
from kdhooks.config.loader import parse_yaml
from kdhooks.config.schema import check
from kdhooks.errors import ConfigError
from kdhooks.names import pattern_of


def test_without_the_section_nothing_is_transferred_and_an_empty_one_has_the_defaults():
    assert DistillationConf({}).settings.finetune is None
    assert DistillationConf({"finetune": {}}).settings.finetune == FinetuneSettings()


def test_every_key_has_its_setting():
    source = parse_yaml(
        r"""
finetune:
  pretrained: weights.safetensors
  rename: {'^module\.': '', '^fc': null}
  prefixes: [bert., backbone.]
  by_order: true
  exclude: [head]
  on_mismatch: {pos_embed: interpolate, '*': slice}
  class_map: {fc: [3, null, [1, 2]], head: {4: 0}}
  freeze: [conv1, 'layer1.*']
  freeze_batch_norm: true
  unfreeze: {2: [layer1], 4: [conv1]}
  lr_factors: {layer1: 0.1}
  l2_sp: {weight: 0.1, new_weight: {linear: {from: 1, to: 0, steps: 10}}}
  delta: {layers: [layer4], channel_weights: {layer4: [0.25, 0.75]}}
""",
        "kd.yaml",
    )
    assert check(source).finetune == FinetuneSettings(
        pretrained="weights.safetensors",
        rename={r"^module\.": "", "^fc": None},
        prefixes=("bert.", "backbone."),
        by_order=True,
        exclude=("head",),
        on_mismatch={"pos_embed": "interpolate", "*": "slice"},
        class_map={"fc": {0: (3,), 2: (1, 2)}, "head": {4: (0,)}},
        freeze=("conv1", "layer1.*"),
        freeze_batch_norm=True,
        unfreeze={2: ("layer1",), 4: ("conv1",)},
        lr_factors={"layer1": 0.1},
        l2_sp=StartingPointSettings(0.1, {"linear": {"from": 1, "to": 0, "steps": 10}}),
        delta=BehaviourSettings(("layer4",), channel_weights={"layer4": (0.25, 0.75)}),
    )


ACTIONS = "'skip', 'error', 'slice', 'repeat', 'interpolate', 'linear', 'grid'"


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (
            "rename",
            {"a(": "x"},
            "rename.a(: 'a(' is no regular expression: missing ), unterminated subpattern at position 1\n"
            r"  A point is written '\.', and any text '.*'.",
        ),
        (
            "rename",
            {"a": r"\2"},
            r"rename.a: '\\2' can't replace what 'a' finds: invalid group reference 2 at position 1",
        ),
        ("rename", {"a": 3}, "rename.a: expected text, or null to leave the tensor out, got 3"),
        ("rename", ["a"], "rename: expected regular expressions and what replaces them, got a list"),
        (
            "prefixes",
            "all",
            "prefixes: expected 'auto', 'none' or a list of prefixes, as in ['module.', 'bert.'], got 'all'",
        ),
        ("on_mismatch", "slic", f"on_mismatch: expected one of {ACTIONS}, got 'slic'\n  Did you mean 'slice'?"),
        ("on_mismatch", {"fc": 1}, f"on_mismatch.fc: expected one of {ACTIONS}, got 1"),
        (
            "class_map",
            {"fc": "a"},
            "class_map.fc: expected a list of the source's classes, or a mapping from classes to them, got 'a'",
        ),
        ("class_map", {"fc": ["a"]}, "class_map.fc[0]: expected a class of the source, or a list of some, got 'a'"),
        ("class_map", {"fc": {-1: 2}}, "class_map.fc.-1: expected a class, a whole number from 0, got -1"),
        ("class_map", {"fc": [None]}, "class_map.fc: names no class of the source"),
        ("freeze", [3], "freeze[0]: expected the pattern of a name, got 3"),
        (
            "freeze",
            ["re:("],
            "freeze[0]: 're:(' is no regular expression: missing ), unterminated subpattern at position 0",
        ),
        ("unfreeze", {"x": ["a"]}, "unfreeze.x: expected a whole number of at least 0, got 'x'"),
        ("unfreeze", {1: []}, "unfreeze.1: expected a list of patterns, got none"),
        ("lr_factors", {"a": -1}, "lr_factors.a: expected a number of at least 0, got -1"),
        ("l2_sp", {"weight": -1}, "l2_sp.weight: expected a number of at least 0 or a schedule, got -1"),
        ("delta", {}, "delta: names no layers\n  Write layers whose features are compared, as in layers: [layer4]"),
        ("frezee", [], "frezee: unknown key\n  Did you mean 'freeze'?"),
    ],
)
def test_wrong_values_say_what_was_expected(key, value, text):
    with pytest.raises(ConfigError) as caught:
        DistillationConf({"finetune": {key: value}})
    assert str(caught.value) == f"<dict>: finetune.{text}"


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("conv1", ["conv1", "conv1.weight", "conv1/kernel"], ["conv10.weight", "a.conv1"]),
        ("layer1.*", ["layer1.weight", "layer1.0.bias"], ["layer1", "layer10.weight"]),
        ("*.bias", ["fc.bias", "a.b.bias"], ["bias_term", "fc.weight"]),
        ("encoder.layer.[0-3]", ["encoder.layer.2.weight"], ["encoder.layer.7.weight", "encoder.layer.12.weight"]),
        ("h.[!0]", ["h.1.weight"], ["h.0.weight"]),
        ("re:(fc|head)", ["fc.weight", "head"], ["fcx"]),
    ],
)
def test_a_pattern_means_what_it_fits_and_all_below_it(pattern, fits, fits_not):
    assert [name for name in (*fits, *fits_not) if pattern_of(pattern).fullmatch(name)] == fits
