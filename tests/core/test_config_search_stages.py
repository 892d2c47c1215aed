"""Every mistake in the stages of ``auto_distillation`` is told at its line, all at once."""

from __future__ import annotations

import pytest

from tests.core.search.mistakes import refused, told

FLASH = "auto_distillation.flash_distillation"
REGULAR = "auto_distillation.regular_distillation"


STAGES = """\
auto_distillation:
  flash_distillation:
    block_names: [a, b, c]
    layer_mappings_for_knowledge_transfer:
    - [[a1, t1], [a2, t2]]
    - [[b1, t3]]
    loss_types: [[KL, MSE], [MSE], [MSE]]
    loss_weights: [[1, 1]]
    train_steps: [5, 0, 5]
    add_origin_loss: [true, false]
  regular_distillation:
    layer_mappings_for_knowledge_transfer: [[a, b], [c, d]]
    block_names: [x, y]
    train_steps: [1, 2]
"""


def test_lists_of_different_length_under_flash_distillation(tmp_path):
    like = "and block_names has 3, one for each stage"
    entry = "Write one entry for each stage."
    one = "Write one entry for each stage, or one value without a list for all of them."
    assert told(STAGES, tmp_path) == [
        (f"auto.yaml:4:5: {FLASH}.layer_mappings_for_knowledge_transfer: has 2 entries, {like}", entry),
        (f"auto.yaml:8:19: {FLASH}.loss_weights: has 1 entry, {like}", one),
        (
            f"auto.yaml:9:22: {FLASH}.train_steps[1]: expected a whole number of at least 1, got 0",
            "|                      ^",
        ),
        (f"auto.yaml:10:22: {FLASH}.add_origin_loss: has 2 entries, {like}", one),
        (
            f"auto.yaml:12:44: {REGULAR}.layer_mappings_for_knowledge_transfer: is one stage, and block_names has 2, "
            "one for each stage",
            "Write one list of pairs for each stage, as in [[[a, b]], [[c, d]]]",
        ),
    ]


def test_the_values_of_a_stage_are_those_of_the_criterion(tmp_path):
    text = """\
auto_distillation:
  flash_distillation:
    knowledge_transfer:
      block_names: [a, b]
      layer_mappings_for_knowledge_transfer:
      - [[a1, t1], [a2, t2], [a3, t3]]
      - [[b1, 1, t3], [b1, {x: 1}], {student: 'b.{i}', teacher: 't.{2*i', i: 0..3}]
      loss_types: [[KL, MSE], [MSEE]]
      loss_weights: [[1, 1, 1, 1], [-1]]
      feature_matchers: linaer
  regular_distillation:
    layer_mappings: [[a, b], {student_layers: [c, d], teacher_layers: [e, f]}]
    loss_types: [fsp, {hint: {x: 1}}]
    feature_matchers: [auto, linear, auto]
"""
    where = f"{FLASH}.knowledge_transfer"
    mappings = f"{where}.layer_mappings_for_knowledge_transfer"
    pairs = "expected one for each of the 3 layer mappings, got"
    assert told(text, tmp_path) == [
        (
            f"auto.yaml:7:10: {mappings}[1][0]: a mapping has 1, 2 or 4 parts, not 3",
            "Write [student layer, selector, teacher layer, selector]; '' selects the whole output.",
        ),
        (
            f"auto.yaml:7:28: {mappings}[1][1][1]: expected the name of a layer, got a mapping",
            "|                            ^^^^^^",
        ),
        (
            f"auto.yaml:7:65: {mappings}[1][2].teacher: a brace in 't.{{2*i' has no partner",
            "|                                                                 ^^^^^^^^",
        ),
        (f"auto.yaml:8:20: {where}.loss_types[0]: {pairs} 2", "|                    ^^^^^^^^^"),
        (f"auto.yaml:8:32: {where}.loss_types[1][0]: unknown loss between features 'MSEE'", "Did you mean 'MSE'?"),
        (f"auto.yaml:9:22: {where}.loss_weights[0]: {pairs} 4", "|                      ^^^^^^^^^^^^"),
        (
            f"auto.yaml:9:37: {where}.loss_weights[1][0]: expected a number of at least 0 or a schedule, got -1",
            "|                                     ^^",
        ),
        (f"auto.yaml:10:25: {where}.feature_matchers: unknown feature matcher 'linaer'", "Did you mean 'linear'?"),
        (
            f"auto.yaml:14:23: {REGULAR}.feature_matchers: expected one for each of the 2 layer mappings, got 3",
            "|                       ^^^^^^^^^^^^^^^^^^^^",
        ),
    ]


def test_a_loss_compares_as_many_layers_as_its_pair_has(tmp_path):
    text = """\
auto_distillation:
  flash_distillation:
    layer_mappings:
    - [{student_layers: [c, d], teacher_layers: [e, f]}]
    - [[a, b], [c, d]]
    loss_types: [hint, [MSE, fsp]]
"""
    assert told(text, tmp_path) == [
        (
            f"auto.yaml:4:8: {FLASH}.layer_mappings[0][0]: the loss 'hint' compares one layer a side, and the pair "
            "['c', 'd'] -> ['e', 'f'] has 2 and 2",
            "Write a pair for each layer, or use fsp or review.",
        ),
        (
            f"auto.yaml:5:16: {FLASH}.layer_mappings[1][1]: the loss 'fsp' compares two layers a side, and the pair "
            "'c' -> 'd' has 1 and 1",
            "Write both, as in {student_layers: [layer1, layer2], teacher_layers: [layer1, layer3]}",
        ),
    ]


NONE = (
    "has no layer_mappings, so no layer is compared\n  Write pairs of layers, as in layer_mappings: [[layer2, layer3]]"
)
SEVERAL = "Write one list of pairs for each stage, as in [[[a, b]], [[c, d]]]"
KEYS = (
    "block_names, layer_mappings_for_knowledge_transfer, layer_mappings, loss_types, loss_weights, add_origin_loss, "
    "train_steps, feature_matchers, feature_mask"
)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, f": {NONE}"),
        ({"knowledge_transfer": {}}, f": {NONE}"),
        ({"knowledge_transfer": {"train_steps": 3}}, f".knowledge_transfer: {NONE}"),
        ({"block_names": ["a"], "regular_distillation": {"layer_mappings": [["a"]]}}, f": {NONE}"),
        ({"regular_distillation": {"train_steps": 3}}, f".regular_distillation: {NONE}"),
        ({"layer_mappings": [["a"]], "trian_steps": 3}, ".trian_steps: unknown key\n  Did you mean 'train_steps'?"),
        (
            {"knowledge_transfer": {"layer_mappings": [["a"]], "trian_steps": 3}},
            ".knowledge_transfer.trian_steps: unknown key\n  Did you mean 'train_steps'?",
        ),
        ({"knowledge_transfer": 3}, f".knowledge_transfer: expected a mapping, got 3\n  Keys here: {KEYS}"),
        (
            {"train_steps": 3, "knowledge_transfer": {"layer_mappings": [["a"]], "train_steps": 4}},
            ".knowledge_transfer.train_steps: stands above knowledge_transfer as well\n  Keep one of them.",
        ),
        (
            {"knowledge_transfer": {"layer_mappings": [["a"]], "regular_distillation": {"layer_mappings": [["a"]]}}},
            ".knowledge_transfer.regular_distillation: is no key of a stage\n  Move it beside knowledge_transfer.",
        ),
        (
            {"layer_mappings": [["a"]], "layer_mappings_for_knowledge_transfer": [["a"]]},
            ".layer_mappings_for_knowledge_transfer: stands beside layer_mappings, and only one of them can be meant\n"
            "  Keep one of them.",
        ),
        (
            {"layer_mappings": []},
            ".layer_mappings: expected a list of layer mappings, each as in [student layer, teacher layer], got none",
        ),
        (
            {"layer_mappings": [["a", "b"], [["c", "d"]]]},
            f".layer_mappings[1]: is a stage's list of pairs, and the entry before it is a pair\n  {SEVERAL}",
        ),
        (
            {"layer_mappings": [[["a", "b"]], ["c", "d"]]},
            f".layer_mappings[1]: is a pair, and the entry before it is a stage's list of pairs\n  {SEVERAL}",
        ),
        (
            {"layer_mappings": [[["a", "b"]], []]},
            ".layer_mappings[1]: expected a list of layer mappings, each as in [student layer, teacher layer], "
            "got none",
        ),
        (
            {"layer_mappings": [["a", "b"]], "train_steps": [3, 4]},
            ".train_steps: has 2 entries, and layer_mappings is one stage\n"
            "  Write one entry for each stage, or one value without a list for all of them.",
        ),
        (
            {"layer_mappings": [["a", "b"]], "train_steps": []},
            ".train_steps: has no entries, and layer_mappings is one stage\n"
            "  Write one entry for each stage, or one value without a list for all of them.",
        ),
        (
            {"layer_mappings": [[["a"]], [["b"]], [["c"]]], "loss_types": ["MSE", "KL"]},
            ".loss_types: has 2 entries, and layer_mappings has 3, one for each stage\n"
            "  Write one entry for each stage, or one value without a list for all of them.",
        ),
        ({"layer_mappings": [["a"]], "block_names": [3]}, ".block_names[0]: expected the name of a layer, got 3"),
        (
            {"layer_mappings": [["a"]], "add_origin_loss": ["yes"]},
            ".add_origin_loss[0]: expected true or false, got 'yes'\n  Write it without quotes: yes",
        ),
        ({"layer_mappings": [["a"]], "train_steps": 0}, ".train_steps: expected a whole number of at least 1, got 0"),
    ],
)
def test_a_wrong_flash_distillation(values, text):
    assert refused({"auto_distillation": {"flash_distillation": values}}) == [f"<dict>: {FLASH}{text}"]


def test_what_holds_for_all_stages_is_told_once():
    flash = {"layer_mappings": [[["a"]], [["b"]]], "loss_types": "MSEE", "train_steps": 0}
    assert refused({"auto_distillation": {"flash_distillation": flash}}) == [
        f"<dict>: {FLASH}.loss_types: unknown loss between features 'MSEE'\n  Did you mean 'MSE'?",
        f"<dict>: {FLASH}.train_steps: expected a whole number of at least 1, got 0",
    ]


def test_two_regular_distillations():
    one = {"layer_mappings": [["a"]]}
    whole = {"flash_distillation": {"regular_distillation": one}, "regular_distillation": one}
    assert refused({"auto_distillation": whole}) == [
        f"<dict>: {REGULAR}: stands inside of flash_distillation as well, and only one of them can be meant\n"
        "  Keep one of them."
    ]


def test_other_keys_of_the_section():
    assert refused({"auto_distillation": {"serach": {}, "measure": {"repeats": 0}, "evaluation": {"metrics": 1}}}) == [
        "<dict>: auto_distillation.serach: unknown key\n  Did you mean 'search'?",
        "<dict>: auto_distillation.measure.repeats: expected a whole number of at least 1, got 0",
        "<dict>: auto_distillation.evaluation.metrics: unknown key\n  Did you mean 'metric'?",
    ]
    assert refused({"auto_distillation": {"train": {"epoch": 0}}}) == [
        "<dict>: auto_distillation.train.epoch: expected a whole number of at least 1, got 0"
    ]
    assert refused({"search": {"search_space": {"a": [1]}}}) == [
        "<dict>: search: belongs to the section of a search\n  Move it below auto_distillation."
    ]
