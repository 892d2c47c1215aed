"""What a configuration may not say: keys of the old tool, wrong values, and keys that contradict each other."""

from __future__ import annotations

import pytest

from kdhooks.config import DistillationConf
from kdhooks.config.refused import OLD
from kdhooks.errors import ConfigError

KD = "distillation.train.criterion.KnowledgeDistillationLoss"


def at(path, value):
    """A dict with one value at a path."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def refused(source):
    with pytest.raises(ConfigError) as caught:
        DistillationConf(source)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", sorted(OLD))
def test_every_key_of_the_old_tool_without_meaning_is_refused_by_name(path):
    message, suggestion = OLD[path]
    assert refused(at(path, {"some": "thing"})) == [f"<dict>: {path}: {message}\n  {suggestion}"]


def test_refused_criteria_are_refused_in_a_list_too():
    (told,) = refused({"distillation": {"train": {"criterion": ["CrossEntropyLoss"]}}})
    assert told == (
        "<dict>: distillation.train.criterion[0]: the student's own loss is not a criterion here\n"
        "  Name it first in the loss_types of KnowledgeDistillationLoss."
    )


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (
            "model.framework",
            "pytorch_ipex",
            "Intel's extension is chosen for teacher and student apart\n"
            "  Write framework: pytorch, and ipex: true or auto in distillation.teacher and distillation.train.",
        ),
        ("model.framework", "onnxrt", "expected one of 'pytorch', 'tensorflow', got 'onnxrt'"),
        ("model.name", "../elsewhere", "expected text without slashes, got '../elsewhere'"),
        ("model.inputs", [1], None),
        ("distillation", 3, "expected a mapping, got 3\n  Keys here: train, teacher, cache"),
        ("distillation.train.iteration", 0, "expected a whole number of at least 1, or -1 for all, got 0"),
        ("distillation.train.iteration", 1.5, "expected a whole number of at least 1, or -1 for all, got 1.5"),
        ("distillation.train.start_epoch", None, "expected a whole number of at least 0, got nothing"),
        (
            "distillation.train.execution_mode",
            "grph",
            "expected one of 'eager', 'graph', got 'grph'\n  Did you mean 'graph'?",
        ),
        ("distillation.train.gradient_clipping", 0, "expected a number above 0, got 0"),
        ("distillation.train.gradient_clipping", float("inf"), "expected a number above 0, got inf"),
        ("distillation.train.optimizer", None, "expected the name of an optimizer, got nothing"),
        ("distillation.train.optimizer", {}, "expected one optimizer, got none"),
        (
            "distillation.train.optimizer",
            {"SGD": {}, "Adam": {}},
            "expected one optimizer, got 2: SGD, Adam\n  Keep one of them.",
        ),
        ("distillation.train.optimizer.SGD", {1: 2}, None),
        ("distillation.train.criterion", [], "expected one criterion, got none"),
        ("distillation.train.criterion", None, "expected the name of a criterion, got nothing"),
        (
            "distillation.train.dataloader.last_batch",
            "drop",
            "expected one of 'keep', 'discard', 'rollover', got 'drop'",
        ),
        (
            "distillation.train.dataloader.input_columns",
            [0, "x"],
            "expected a list of column numbers, or a list of names, each once, got a list",
        ),
        (
            f"{KD}.loss_types",
            ["CE"],
            "expected the student's loss and at least one teacher's term, got 1\n  Write both, as in [CE, KL]",
        ),
        (
            f"{KD}.loss_types",
            "KL",
            "expected a list of the student's loss and the teacher's terms, as in [CE, KL], got 'KL'",
        ),
        (
            f"{KD}.loss_types",
            ["CE", "KL", "MSE"],
            "3 losses need 3 loss_weights\n  Write loss_weights, one for each loss.",
        ),
        (f"{KD}.loss_weights", [1.0], "expected one weight for each of loss_types (CE, KL), got 1"),
        (f"{KD}.loss_weights", [], "expected a list of weights, got none"),
        (f"{KD}.temperature", 0.0, "expected a number above 0 or a schedule, got 0.0"),
        (
            f"{KD}.temperature",
            {"warmup": {"to": 4, "steps": 10}},
            None,
        ),
        (f"{KD}.teacher_weights", 3, "expected weights in a list, or by the teachers' names, got 3"),
        (f"{KD}.axis", 0.5, "expected a whole number, got 0.5"),
        (
            "evaluation.accuracy.metric",
            {"topk": 1, "F1": {}},
            "expected one metric, got 2: topk, F1\n  Write several below multi_metrics.",
        ),
        ("evaluation.accuracy.multi_metrics", {"weight": [1.0]}, None),
        ("tuning.random_seed", 2**32, "expected a whole number from 0 to 4294967295, got 4294967296"),
        ("tuning.workspace.resume", 3, "expected true, false or the path of a checkpoint, got 3"),
        ("tuning.tensorboard", "true", "expected true, false or auto, got 'true'\n  Write it without quotes: true"),
    ],
)
def test_wrong_values_say_what_was_expected(path, value, text):
    special = {
        "model.inputs": "model.inputs[0]: expected text, got 1",
        "distillation.train.optimizer.SGD": (
            "distillation.train.optimizer.SGD.1: the name of an option must be text\n  Put it in quotes: '1'"
        ),
        f"{KD}.temperature": (
            f"{KD}.temperature.warmup: begins at 0, expected a number above 0\n"
            "  Use linear: {from: ..., to: ..., steps: ...}."
        ),
        "evaluation.accuracy.multi_metrics": "evaluation.accuracy.multi_metrics: expected one metric, got none",
    }
    assert refused(at(path, value)) == [f"<dict>: {special[path] if text is None else f'{path}: {text}'}"]


@pytest.mark.parametrize(
    ("section", "values", "text"),
    [
        (
            "distillation.train",
            {"epoch": 3, "end_epoch": 10},
            "epoch: 3 epochs from epoch 0 end at 3, but end_epoch is 10\n  Keep one of epoch and end_epoch.",
        ),
        (
            "distillation.train",
            {"steps": 300, "end_epoch": 10},
            "steps: stands beside end_epoch, and only one of them can say how long the run is\n"
            "  Keep one of steps and end_epoch.",
        ),
        (
            "distillation.train",
            {"start_epoch": 5, "end_epoch": 5},
            "end_epoch: the run ends at epoch 5, but starts at epoch 5\n  Write an end_epoch above start_epoch.",
        ),
        (
            "distillation.train.dataloader",
            {"drop_last": True, "last_batch": "keep"},
            "drop_last: true contradicts last_batch: keep\n  Keep one of drop_last and last_batch.",
        ),
        (
            "distillation.train.dataloader",
            {"drop_last": False, "last_batch": "discard"},
            "drop_last: false contradicts last_batch: discard\n  Keep one of drop_last and last_batch.",
        ),
        (
            "evaluation.accuracy",
            {"metric": {"topk": 1}, "multi_metrics": {"F1": None}},
            "multi_metrics: stands beside metric, and only one of them can be meant\n"
            "  Move the metric into multi_metrics.",
        ),
        (
            "evaluation.accuracy.multi_metrics",
            {"topk": 1, "F1": None, "weight": [1.0]},
            "weight: expected one weight for each metric (topk, F1), got 1",
        ),
        (
            "evaluation.accuracy.multi_metrics",
            {"topk": 1, "weight": 0},
            "weight: every weight is 0, so nothing would be measured\n  Write one above 0.",
        ),
        (
            "evaluation.accuracy.multi_metrics",
            {"topk": 1, "higher_is_better": [True, False]},
            "higher_is_better: expected one boolean for each metric (topk), got 2",
        ),
        (
            "evaluation.accuracy.configs",
            {"cores_per_instance": 2, "intra_num_of_threads": 4},
            "cores_per_instance: 2 contradicts intra_num_of_threads: 4\n"
            "  Keep one of them; both mean the threads of an operation.",
        ),
    ],
)
def test_keys_that_contradict_each_other(section, values, text):
    assert refused(at(section, values)) == [f"<dict>: {section}.{text}"]


def test_a_law_is_checked_beside_other_problems():
    assert refused({"distillation": {"train": {"epoch": 3, "end_epoch": 10, "frequency": 0}}}) == [
        "<dict>: distillation.train.frequency: expected a whole number of at least 1, got 0",
        "<dict>: distillation.train.epoch: 3 epochs from epoch 0 end at 3, but end_epoch is 10\n"
        "  Keep one of epoch and end_epoch.",
    ]


def test_options_are_plain_data():
    assert refused({"distillation": {"train": {"optimizer": {"SGD": {"params": [len, object()]}}}}}) == [
        "<dict>: distillation.train.optimizer.SGD.params[0]: "
        "expected text, a number, a boolean, a list or a mapping, got a function",
        "<dict>: distillation.train.optimizer.SGD.params[1]: "
        "expected text, a number, a boolean, a list or a mapping, got an object of type object",
    ]
