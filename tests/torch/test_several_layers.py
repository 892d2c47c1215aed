"""Pairs of several layers a side: how they are written, what the loss gets, and what doesn't fit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import ConfigError, Distillation, register_loss
from kdhooks.config.known import FEATURE_LOSSES, TEACHER_LOSSES
from kdhooks.config.mappings import layer_pairs
from kdhooks.errors import KDHooksError, UsageError
from kdhooks.registry import REGISTERED_LOSSES
from kdhooks.torch import IntermediateLayersKnowledgeDistillationLoss, SelfKnowledgeDistillationLoss
from kdhooks.torch.layers import list_tapped
from kdhooks.torch.losses import ReviewKD, fsp
from tests.torch.hidden_models import from_yaml
from tests.torch.small_models import made

BOTH = {"student_layers": ["stem", "block1"], "teacher_layers": ["stem", "block2"]}
ALL = {"student_layers": "block{i}", "teacher_layers": "block{i}", "i": "1..2"}


class Maps(nn.Module):
    """Images to logits through a stem and two blocks, the second of half the space."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.block1 = nn.Conv2d(width, width, 3, padding=1)
        self.block2 = nn.Conv2d(width, width, 3, padding=1, stride=2)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.stem(x).tanh()).tanh())
        output: Tensor = self.head(x.tanh().mean((2, 3)))
        return output


def features(model: Maps, x: Tensor, *names: str) -> list[Tensor]:
    """What a plain loop of one's own captures."""
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda module, args, out, name=name: found.update({name: out}))
        for name in names
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return [found[name] for name in names]


def distillation(student: nn.Module, teacher: nn.Module, mappings: Any, **options: Any) -> Distillation:
    distiller = Distillation(student_model=student, teacher_model=teacher)
    distiller.criterion = IntermediateLayersKnowledgeDistillationLoss(
        mappings, **{"loss_types": "fsp", "loss_weights": 1.0, **options}
    )
    return distiller


def step(distiller: Distillation, student: nn.Module, x: Tensor) -> Tensor:
    output = student(x)
    loss: Tensor = distiller.on_after_compute_loss(x, output, F.cross_entropy(output, torch.arange(len(x)) % 5))
    return loss


X = torch.linspace(-1, 1, 2 * 3 * 6 * 6).reshape(2, 3, 6, 6).sin()


def test_fsp_and_review_equal_the_losses_themselves_in_value_and_gradient() -> None:
    student, teacher = made(1, Maps), made(2, Maps)
    twin = copy.deepcopy(student)
    with distillation(student, teacher, [BOTH]) as distiller:
        step(distiller, student, X).backward()
        assert sorted(distiller.losses) == ["CE", "fsp[stem..block1]", "total"]
        found = distiller.losses["fsp[stem..block1]"]
        assert distiller.criterion.layer_mappings == [[["stem", "block1"], ["stem", "block2"]]]
        assert distiller.criterion.layer_output_process == [[["", ""], ["", ""]]]
    with torch.no_grad():
        theirs = features(teacher, X, "stem", "block2")
    direct = fsp(features(twin, X, "stem", "block1"), theirs)
    direct.backward()
    assert found == pytest.approx(float(direct.detach()), rel=1e-6)
    torch.testing.assert_close(student.stem.weight.grad, twin.stem.weight.grad, rtol=1e-6, atol=1e-9)

    wide = made(3, lambda: Maps(6))
    with distillation(student, wide, [ALL], loss_types="review") as distiller:
        step(distiller, student, X)
        review = ReviewKD([(2, 4, 6, 6), (2, 4, 3, 3)], [(2, 6, 6, 6), (2, 6, 3, 3)])
        expected = review(features(student, X, "block1", "block2"), features(wide, X, "block1", "block2"))
        assert distiller.losses["review[block1..block2]"] == pytest.approx(float(expected.detach()), rel=1e-6)
        assert len(list(distiller.parameters())) == len(list(review.parameters()))


def test_matchers_of_several_layers_train_and_resume() -> None:
    student, teacher = made(1, Maps), made(2, lambda: Maps(6))
    options = {"feature_matchers": "conv1x1", "add_origin_loss": True}
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    distiller = distillation(student, teacher, [BOTH | {"teacher_layers": ["stem", "block1"]}], **options)
    with distiller:
        losses = []
        for _ in range(3):
            loss = step(distiller, student, X)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(distiller.losses["fsp[stem..block1]"])
        assert losses[2] < losses[0]
        (matchers,) = distiller.criterion.feature_matchers
        weights = [parameter.detach().clone() for parameter in matchers.parameters()]
        assert [list(one.shape)[:2] for one in weights if one.ndim > 1] == [[6, 4], [6, 4]]
        assert not torch.equal(weights[0], weights[2])
        state = distiller.state_dict()
    again = distillation(student, teacher, [BOTH | {"teacher_layers": ["stem", "block1"]}], **options)
    again.load_state_dict(state)
    with again:
        assert all(map(torch.equal, weights, again.parameters()))
        assert state["criteria"][0]["modules"]["0"]["student"] == [[2, 4, 6, 6], [2, 4, 6, 6]]


def test_self_distillation_takes_several_layers_too() -> None:
    student = made(1, Maps)
    distiller = Distillation(student_model=student)
    group = [{"student_layers": ["stem", "stem"], "teacher_layers": ["block1", "block1"]}]
    distiller.criterion = SelfKnowledgeDistillationLoss([group], loss_types="fsp", add_origin_loss=True)
    with distiller:
        step(distiller, student, X).backward()
        stem, block = features(student, X, "stem", "block1")
        expected = float(fsp([stem, stem], [block, block]).detach())
        assert distiller.losses["fsp[stem]"] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UsageError) as caught:
        SelfKnowledgeDistillationLoss([[{**BOTH, "teacher_layers": ["stem", "block1"]}]], loss_types="fsp")
    assert str(caught.value) == "layer_mappings[0][0]: the layers ['stem', 'block1'] would follow themselves"


def test_balance_uses_the_gradients_of_all_layers() -> None:
    student, teacher = made(1, Maps), made(2, Maps)
    with distillation(student, teacher, [BOTH], balance="gradient", add_origin_loss=True) as distiller:
        step(distiller, student, X)
        losses = distiller.losses
    stem, block = features(student, X, "stem", "block1")
    value = fsp([stem, block], [one.detach() for one in features(teacher, X, "stem", "block2")])
    hidden = {"stem": stem, "block1": block}
    own = F.cross_entropy(student.head(student.block2(block.tanh()).tanh().mean((2, 3))), torch.arange(2))
    norms = [
        torch.cat([one.flatten() for one in torch.autograd.grad(of, list(hidden.values()), retain_graph=True)]).norm()
        for of in (own, value)
    ]
    expected = losses["CE"] + float(norms[0] / norms[1]) * losses["fsp[stem..block1]"]
    assert losses["total"] == pytest.approx(expected, rel=1e-5)


def test_patterns() -> None:
    def written(entry: dict[str, Any]) -> list[str]:
        pairs, findings = layer_pairs([entry])
        assert not findings
        return [str(pair) for pair in pairs]

    lists = {"student_layers": ["a{i}", "a{i+1}"], "teacher_layers": [["b{2*i}", "{i}"], "c:input"], "i": "0..1"}
    assert written(lists) == [
        "['a0', 'a1'] -> ['b0'['0'], 'c' (its input)]",
        "['a1', 'a2'] -> ['b2'['1'], 'c' (its input)]",
    ]
    texts = {"student_layers": "a{i}", "teacher_layers": "b{2*i}", "i": [1, 3]}
    assert written(texts) == ["['a1', 'a3'] -> ['b2', 'b6']"]


LISTED = "student_layers: [stem, block1]"
FAULTS = {
    "one for two": (
        "layer_mappings:\n- [stem, stem]\nloss_types: fsp",
        """\
kd.yaml:6:11: PATH.layer_mappings[0]: the loss 'fsp' compares two layers a side, \
and the pair 'stem' -> 'stem' has 1 and 1
  6 |         - [stem, stem]
    |           ^^^^^^^^^^^^
  Write both, as in {student_layers: [layer1, layer2], teacher_layers: [layer1, layer3]}""",
    ),
    "several for one": (
        f"layer_mappings:\n- [head]\n- {{{LISTED}, teacher_layers: [stem, block2]}}\n"
        "loss_types: [MSE, {cosine: {}}]",
        """\
kd.yaml:7:11: PATH.layer_mappings[1]: the loss 'cosine' compares one layer a side, and the pair ['stem', 'block1'] -> \
['stem', 'block2'] has 2 and 2
  7 |         - {student_layers: [stem, block1], teacher_layers: [stem, block2]}
    |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  Write a pair for each layer, or use fsp or review.""",
    ),
    "unequal": (
        f"layer_mappings:\n- {{{LISTED}, teacher_layers: [stem]}}\nloss_types: review",
        """\
kd.yaml:6:11: PATH.layer_mappings[0]: the loss 'review' compares as many layers of the student as of the teacher, and \
the pair ['stem', 'block1'] -> 'stem' has 2 and 1
  6 |         - {student_layers: [stem, block1], teacher_layers: [stem]}
    |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  Write one layer of the teacher for each of the student.""",
    ),
    "no teacher": (
        f"layer_mappings:\n- {{{LISTED}}}\nloss_types: fsp",
        """\
kd.yaml:6:11: PATH.layer_mappings[0]: has no teacher_layers
  6 |         - {student_layers: [stem, block1]}
    |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  Write student_layers and teacher_layers, as in {student_layers: [a, b], teacher_layers: [c, d]}""",
    ),
    "two kinds": (
        f"layer_mappings:\n- {{{LISTED}, teacher: stem}}\nloss_types: fsp",
        """\
kd.yaml:6:44: PATH.layer_mappings[0].teacher: stands beside a list of layers, and only one of them can be meant
  6 |         - {student_layers: [stem, block1], teacher: stem}
    |                                            ^^^^^^^
  Write teacher_layers, or student and teacher.""",
    ),
    "list and text": (
        "layer_mappings:\n- {student_layers: 'block{i}', teacher_layers: ['block{i}'], i: 1..2}\nloss_types: review",
        """\
kd.yaml:6:11: PATH.layer_mappings[0]: one side is a list and the other a text, so the variables could mean one pair or \
several
  6 |         - {student_layers: 'block{i}', teacher_layers: ['block{i}'], i: 1..2}
    |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  Write both as lists (a pair for each value), or both as texts (one pair).""",
    ),
    "empty": (
        f"layer_mappings:\n- {{{LISTED}, teacher_layers: []}}\nloss_types: fsp",
        """\
kd.yaml:6:60: PATH.layer_mappings[0].teacher_layers: expected a list of layers, each a name or \
[layer, selector], got none
  6 |         - {student_layers: [stem, block1], teacher_layers: []}
    |                                                            ^^
""".rstrip(),
    ),
}
PATH = "distillation.train.criterion.IntermediateLayersKnowledgeDistillationLoss"


@pytest.mark.parametrize("case", FAULTS)
def test_what_does_not_fit_in_a_file(case: str, tmp_path: Path) -> None:
    options, message = FAULTS[case]
    with pytest.raises(ConfigError) as caught:
        from_yaml(tmp_path, options, made(1, Maps), made(2, Maps)).conf.settings  # noqa: B018
    assert str(caught.value).replace(f"{tmp_path}/", "") == message.replace("PATH", PATH)


def test_what_does_not_fit_in_python_and_on_models(tmp_path: Path) -> None:
    for mappings, options, message in (
        (
            [["stem"]],
            {},
            "layer_mappings[0]: the loss 'fsp' compares two layers a side, and the pair 'stem' -> 'stem' has 1 and 1. "
            "Write both, as in {student_layers: [layer1, layer2], teacher_layers: [layer1, layer3]}",
        ),
        (
            [BOTH],
            {"loss_types": "MSE"},
            "layer_mappings[0]: the loss 'MSE' compares one layer a side, and the pair ['stem', 'block1'] -> "
            "['stem', 'block2'] has 2 and 2. Write a pair for each layer, or use fsp or review",
        ),
    ):
        with pytest.raises(UsageError) as caught:
            distillation(made(1, Maps), made(2, Maps), mappings, **options)
        assert str(caught.value) == message
    distiller = from_yaml(
        tmp_path,
        "layer_mappings: [{student_layers: [stem, block1], teacher_layers: [stem, blok2]}]\nloss_types: fsp",
        made(1, Maps),
        made(2, Maps),
    )
    with pytest.raises(KDHooksError) as missing:
        distiller.on_train_begin()
    assert str(missing.value).replace(f"{tmp_path}/", "") == (
        f"kd.yaml:5:82: {PATH}.layer_mappings[0].teacher_layers[1]: teacher Maps has no layer 'blok2'\n"
        "  5 |         layer_mappings: [{student_layers: [stem, block1], teacher_layers: [stem, blok2]}]\n"
        "    |                                                                                  ^^^^^\n"
        "  Did you mean 'block2'? All layers: kdhooks layers MODEL"
    )


def test_the_teacher_ends_at_the_deepest_of_several_layers_and_a_bad_one_is_named() -> None:
    student, teacher = made(1, Maps), made(2, Maps)
    with distillation(student, teacher, [BOTH | {"teacher_layers": ["stem", "block1"]}]) as distiller:
        step(distiller, student, X)
        calls: list[str] = []
        teacher.block2.register_forward_hook(lambda *_: calls.append("block2"))
        step(distiller, student, X)
        assert calls == []
        with torch.no_grad():
            teacher.block1.weight.fill_(float("nan"))
        step(distiller, student, X)
        assert distiller.explain_bad("fsp[stem..block1]") == (
            "layer_mappings[0].teacher_layers[1]: pair ['stem', 'block1'] -> ['stem', 'block1']: teacher Maps: layer "
            "'block1' returned NaN or infinite values at step 2. Look at the teacher's inputs, weights and precision."
        )


def test_a_registered_loss_may_take_other_numbers_of_layers() -> None:
    def levels(student: list[Tensor], teacher: Tensor) -> Tensor:
        return sum((one - teacher[0]).square().mean() for one in student)  # type: ignore[return-value]

    register_loss("levels", levels)
    try:
        mappings = [{"student_layers": ["stem", "block1"], "teacher_layers": ["stem"]}]
        student, teacher = made(1, Maps), made(2, Maps)
        with distillation(student, teacher, mappings, loss_types="levels") as distiller:
            step(distiller, student, X)
            expected = levels(features(student, X, "stem", "block1"), features(teacher, X, "stem"))
            assert distiller.losses["levels[stem..block1]"] == pytest.approx(float(expected.detach()), rel=1e-6)
        with pytest.raises(UsageError) as caught:
            distillation(student, teacher, mappings, loss_types="levels", feature_matchers="auto")
        assert str(caught.value) == (
            "layer_mappings[0]: the feature matcher 'auto' joins one layer with one, and the pair "
            "['stem', 'block1'] -> 'stem' has other numbers"
        )
    finally:
        for table in (REGISTERED_LOSSES, FEATURE_LOSSES, TEACHER_LOSSES):
            table._entries.pop("levels")
            table._spelling.pop("levels")


def test_tapped_shapes() -> None:
    from kdhooks.config.mappings import taps_of

    taps = taps_of("IntermediateLayersKnowledgeDistillationLoss", {"layer_mappings": [BOTH]}, "teacher")
    assert list_tapped(made(1, Maps), taps, [X], "teacher") == [
        {"mapping": "layer_mappings[0]", "layer": "'stem'", "type": "Conv2d", "shape": "[2, 4, 6, 6]"},
        {"mapping": "layer_mappings[0]", "layer": "'block2'", "type": "Conv2d", "shape": "[2, 4, 3, 3]"},
    ]
