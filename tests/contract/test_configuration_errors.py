"""Every configuration error is the same in every framework, word for word."""

from __future__ import annotations

from typing import Any

import pytest

from kdhooks import Distillation
from kdhooks.errors import ConfigError
from tests.contract.frameworks import Framework, kd_conf

FAULTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown loss": (
        "KnowledgeDistillationLoss",
        {"loss_types": ["CE", "KLL"]},
        ".loss_types[1]: unknown loss against the teacher 'KLL'\n  Did you mean 'KL'?",
    ),
    "a feature loss on logits": (
        "KnowledgeDistillationLoss",
        {"loss_types": ["CE", "hint"]},
        ".loss_types[1]: unknown loss against the teacher 'hint'\n"
        "  Known: CE, dist, dkd, hard_label, JSD, "
        "KL, L1, logit_standardization, mft, MSE, reverse_KL, skewed_kl, teacher_free",
    ),
    "an option that a loss has not": (
        "KnowledgeDistillationLoss",
        {"loss_types": ["CE", {"dkd": {"gamma": 1}}]},
        ".loss_types[1].dkd.gamma: the loss 'dkd' has no option 'gamma'\n  Its options: alpha, beta",
    ),
    "lengths": (
        "KnowledgeDistillationLoss",
        {"loss_types": ["CE", "KL", "MSE"], "loss_weights": [1, 2]},
        ".loss_weights: expected one weight for each of loss_types (CE, KL, MSE), got 2",
    ),
    "temperature": (
        "KnowledgeDistillationLoss",
        {"temperature": 0},
        ".temperature: expected a number above 0 or a schedule, got 0",
    ),
    "weights of several teachers": (
        "KnowledgeDistillationLoss",
        {"teacher_weights": [-1]},
        ".teacher_weights[0]: expected a number of at least 0 or a schedule, got -1",
    ),
    "combine": (
        "KnowledgeDistillationLoss",
        {"combine": "mean"},
        ".combine: expected one of 'losses', 'logits', 'probabilities', got 'mean'",
    ),
    "balance": (
        "KnowledgeDistillationLoss",
        {"balance": "loss"},
        ".balance: expected one of 'gradient', got 'loss'",
    ),
    "an unknown key": (
        "KnowledgeDistillationLoss",
        {"temprature": 4},
        ".temprature: unknown key\n  Did you mean 'temperature'?",
    ),
    "no mappings": (
        "IntermediateLayersKnowledgeDistillationLoss",
        {"loss_types": ["MSE"]},
        ": has no layer_mappings, so no layer is compared\n"
        "  Write pairs of layers, as in layer_mappings: [[layer2, layer3]]",
    ),
    "a logit loss on layers": (
        "IntermediateLayersKnowledgeDistillationLoss",
        {"layer_mappings": [["body", "body"]], "loss_types": ["dkd"]},
        ".loss_types[0]: the loss 'dkd' compares logits, not features\n  Name it in a KnowledgeDistillationLoss.",
    ),
    "unknown layer": (
        "IntermediateLayersKnowledgeDistillationLoss",
        {"layer_mappings": [["boddy", "body"]]},
        ".layer_mappings[0][0]: student Sequential has no layer 'boddy'\n"
        "  Did you mean 'body'? All layers: kdhooks layers MODEL",
    ),
    "unknown layer of the teacher": (
        "IntermediateLayersKnowledgeDistillationLoss",
        {"layer_mappings": [["body", "haed"]]},
        ".layer_mappings[0][1]: teacher Sequential has no layer 'haed'\n"
        "  Did you mean 'head'? All layers: kdhooks layers MODEL",
    ),
    "counts": (
        "IntermediateLayersKnowledgeDistillationLoss",
        {"layer_mappings": [["body", "body"], ["head", "head"]], "loss_weights": [1, 2, 3]},
        ".loss_weights: expected one for each of the 2 layer mappings, got 3",
    ),
    "unknown matcher": (
        "IntermediateLayersKnowledgeDistillationLoss",
        {"layer_mappings": [["body", "body"]], "feature_matchers": ["liner"]},
        ".feature_matchers[0]: unknown feature matcher 'liner'\n  Did you mean 'linear'?",
    ),
    "empty": (
        "IntermediateLayersKnowledgeDistillationLoss",
        {"layer_mappings": []},
        ".layer_mappings: expected a list of layer mappings, each as in [student layer, teacher layer], got none",
    ),
    "no such criterion": (
        "KnowledgeDistilationLoss",
        {},
        ": unknown criterion 'KnowledgeDistilationLoss'\n  Did you mean 'KnowledgeDistillationLoss'?",
    ),
}
"""The criterion, its options, and what the error says behind the criterion's name."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_criterion(framework: Framework, fault: str) -> None:
    name, options, text = FAULTS[fault]
    conf = {"model": {"framework": framework.name}, "distillation": {"train": {"criterion": {name: options}}}}
    with pytest.raises(ConfigError) as caught:
        models = {"student_model": framework.classifier(1), "teacher_model": framework.classifier(2)}
        Distillation(conf, **models).on_train_begin()
    assert str(caught.value) == f"<dict>: distillation.train.criterion.{name}{text}"


def test_the_models_must_be_of_the_framework_that_is_named(framework: Framework) -> None:
    other = "tensorflow" if framework.name == "pytorch" else "pytorch"
    with pytest.raises(ConfigError) as caught:
        Distillation({"model": {"framework": other}, **kd_conf()}, student_model=framework.classifier(1))
    assert str(caught.value) == (
        f"<dict>: model.framework: the student is a {framework.name} model, Sequential\n"
        f"  Write framework: {framework.name}, or leave it out."
    )
