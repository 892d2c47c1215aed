"""The section ``domain_adaptation``: what it holds, and every mistake at its line."""

from __future__ import annotations

import pytest

from kdhooks.adaptation import WarmStart
from kdhooks.config import DistillationConf, load
from kdhooks.config.model import AdaptationSettings, AdversarySettings, Named
from kdhooks.errors import ConfigError


def section(**values):
    return load({"domain_adaptation": {"criterion": {"MCC": {}}, **values}}).domain_adaptation


def refused(text, tmp_path):
    path = tmp_path / "kd.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        DistillationConf(path)
    return [str(problem).replace(str(path), "kd.yaml") for problem in caught.value.problems]


def test_the_defaults():
    found = section()
    assert found == AdaptationSettings(criterion=found.criterion)
    assert (found.reversal, found.adversary) == (WarmStart(1000, 0.0, 1.0, 10.0), AdversarySettings())
    assert found.adversary.optimizer == Named("Adam", {"learning_rate": 0.001})
    assert load({}).domain_adaptation is None


def test_an_adapter_is_named_as_the_user_spells_it():
    kernels = {"layers": ["a:input", ["b", 1]], "weight": {"warmup": {"to": 1, "steps": 9}}}
    found = section(criterion=[{"mk-mmd": kernels}, {"BSP": {"layer": "a"}}])
    one, two = found.criterion
    assert (one.name, one.options["rules"].name) == ("mk-mmd", "mk_mmd")
    assert [str(tap) for tap in one.options["layers"]] == ["'a' (its input)", "'b'['1']"]
    assert one.options["weight"] == {"warmup": {"to": 1, "steps": 9}}
    assert (two.name, two.options["weight"]) == ("BSP", 1e-4)  # the paper's


def test_an_adapter_that_looks_at_a_layer_needs_one(tmp_path):
    assert refused("domain_adaptation:\n  criterion: {DANN: }\n", tmp_path) == [
        "kd.yaml:2:15: domain_adaptation.criterion.DANN: names no layer, and DANN compares a layer\n"
        "  2 |   criterion: {DANN: }\n"
        "    |               ^^^^\n"
        "  Write the layer's name, as in layer: avgpool"
    ]


def test_all_mistakes_are_told_at_their_lines(tmp_path):
    text = """\
domain_adaptation:
  criterion:
    DANN: {layr: avgpool, hidden_size: 0}
    CDANN: {layer: avgpool}
    MCC: {layer: avgpool}
    MCD: {}
    AFN: {layer: a, layers: [b]}
    MK_MMD: {layer: 3, weight: -1}
  joint_forwards: true
  validator: [snd, sndd]
  reversal: {low: 2, alpha: 0}
  adversary: {steps: 0}
"""
    told = [problem.splitlines() for problem in refused(text, tmp_path)]
    assert [(lines[0], lines[-1].strip()) for lines in told] == [
        (
            "kd.yaml:3:5: domain_adaptation.criterion.DANN: names no layer, and DANN compares a layer",
            "Write the layer's name, as in layer: avgpool",
        ),
        (
            "kd.yaml:3:12: domain_adaptation.criterion.DANN.layr: the adapter 'dann' has no option 'layr'",
            "Its options: hidden_layers, hidden_size, pool, seed",
        ),
        (
            "kd.yaml:3:40: domain_adaptation.criterion.DANN.hidden_size: expected a whole number of at least 1, got 0",
            "|                                        ^",
        ),
        ("kd.yaml:4:5: domain_adaptation.criterion.CDANN: unknown adapter 'CDANN'", "Did you mean 'dann'?"),
        (
            "kd.yaml:5:11: domain_adaptation.criterion.MCC.layer: names 1, and MCC looks at only the logits",
            "Remove it.",
        ),
        (
            "kd.yaml:6:5: domain_adaptation.criterion.MCD: has no head, and MCD needs the student's head",
            "Write the name of its layer, as in head: fc",
        ),
        (
            "kd.yaml:7:21: domain_adaptation.criterion.AFN.layers: stands beside layer, and only one of them can be "
            "meant",
            "Keep one of them.",
        ),
        (
            "kd.yaml:8:21: domain_adaptation.criterion.MK_MMD.layer: expected the name of a layer, got 3",
            "Put it in quotes: '3'",
        ),
        (
            "kd.yaml:8:32: domain_adaptation.criterion.MK_MMD.weight: expected a number of at least 0 or a schedule, "
            "got -1",
            "|                                ^^",
        ),
        ("kd.yaml:9:3: domain_adaptation.joint_forwards: unknown key", "Did you mean 'joint_forward'?"),
        ("kd.yaml:10:20: domain_adaptation.validator[1]: unknown validator 'sndd'", "Did you mean 'SND'?"),
        (
            "kd.yaml:11:19: domain_adaptation.reversal.low: is 2, which is above high, 1",
            "Write a low of at most high.",
        ),
        (
            "kd.yaml:11:29: domain_adaptation.reversal.alpha: expected a number above 0, got 0",
            "|                             ^",
        ),
        (
            "kd.yaml:12:22: domain_adaptation.adversary.steps: expected a whole number of at least 1, got 0",
            "|                      ^",
        ),
    ]


def test_a_section_without_adapters(tmp_path):
    (told,) = refused("domain_adaptation: {joint_forward: true}\n", tmp_path)
    assert told.splitlines()[0] == ("kd.yaml:1:1: domain_adaptation: has no criterion, so no domain is adapted to")
    assert told.splitlines()[-1] == "  Write adapters, as in criterion: {DANN: {layer: avgpool}}"


def test_a_program_changes_it_by_path():
    conf = DistillationConf({"domain_adaptation": {"criterion": {"DANN": {"layer": "fc"}}}})
    conf["domain_adaptation.criterion.DANN.weight"] = 0.25
    conf.domain_adaptation.joint_forward = True
    found = conf.settings.domain_adaptation
    assert (found.criterion[0].options["weight"], found.joint_forward) == (0.25, True)
    assert conf.domain_adaptation.reversal.alpha == 10.0
