"""Self-distillation: values by hand, the deepest side learns from labels only, configuration, errors, resume."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import ConfigError, Distillation, KDHooksError
from kdhooks.torch import SelfKnowledgeDistillationLoss
from tests.torch.small_models import batches, made, same_weights

GROUPS = [[["exit1", "exit2"], ["head"]], [["one", "three"], ["two", "three"]]]


class Exits(nn.Module):
    """Three blocks with a classifier behind each; the first block is narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 5), nn.Linear(5, 8), nn.Linear(8, 8)
        self.exit1, self.exit2, self.head = nn.Linear(5, 4), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one = self.one(x)
        two = self.two(one.relu())
        three = self.three(two.relu())
        return self.head(three), self.exit1(one), self.exit2(two)


def student() -> Exits:
    model: Exits = made(1, Exits)
    return model


def attached(model: nn.Module, *given: Any, **options: Any) -> Distillation:
    distiller = Distillation(student_model=model)
    distiller.criterion = SelfKnowledgeDistillationLoss(*given, **options)
    return distiller


def step(distiller: Distillation, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    output = model(x)
    total: Tensor = distiller.on_after_compute_loss(x, output, F.cross_entropy(output[0], y))
    return total


@pytest.mark.parametrize("kind", ["KL", "CE"])
def test_total_and_gradient_are_those_of_a_loop_by_hand(kind: str) -> None:
    model = student()
    other = copy.deepcopy(model)
    x, y = batches()[0]
    groups = [GROUPS[0], [["two", "three"]]]
    with attached(model, groups, 3.0, [kind, "L2"], [0.3, 0.01], add_origin_loss=True) as distiller:
        total = step(distiller, model, x, y)
        total.backward()
        assert list(distiller.losses) == ["CE", f"{kind}[exit1]", f"{kind}[exit2]", "L2[two]", "total"]
    head, exit1, exit2 = other(x)
    two = other.two(other.one(x).relu())
    three = other.three(two.relu()).detach()
    by_hand = F.cross_entropy(head, y) + 0.01 * (two - three).square().sum() / len(x)
    p = (head.detach() / 3).softmax(-1)
    for logits in (exit1, exit2):
        soft = -(p * (logits / 3).log_softmax(-1)).sum(-1).mean()
        entropy = (p * p.log()).sum(-1).mean() if kind == "KL" else 0.0
        by_hand = by_hand + 0.3 * 9 * (soft + entropy)
    torch.testing.assert_close(total, by_hand)
    by_hand.backward()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_the_deepest_side_learns_from_labels_only() -> None:
    model = student()
    with attached(model, [[["exit1"], ["head"]]], 2.0) as distiller:
        step(distiller, model, *batches()[0]).backward()
        assert model.head.weight.grad is None and model.three.weight.grad is None
        assert model.exit1.weight.grad is not None and model.exit1.weight.grad.abs().sum() > 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_weights_and_types_stand_for_groups_pairs_or_all() -> None:
    def made_of(**options: Any) -> SelfKnowledgeDistillationLoss:
        return SelfKnowledgeDistillationLoss(GROUPS, **options)

    loss = made_of()
    assert loss.loss_types == ("CE",) * 4 and [weight(0) for weight in loss.loss_weights] == [0.5] * 4
    assert loss.layer_mappings == [["exit1", "head"], ["exit2", "head"], ["one", "three"], ["two", "three"]]
    assert loss.student_weight(0) == 0.0
    loss = made_of(loss_types=["KL", "L2"], loss_weights=[1, 2, 3, {"linear": {"from": 0, "to": 4, "steps": 4}}])
    assert loss.loss_types == ("KL", "KL", "L2", "L2") and [weight(1) for weight in loss.loss_weights] == [1, 2, 3, 1]
    assert made_of(loss_types={"L2": {"convention": "common"}}).loss_types == ("L2",) * 4
    options = made_of(temperature=4.0, loss_types=["KL", {"CE": {"temperature": 2.0}}])._options.losses
    assert [one["temperature"] for _, one in options] == [4.0, 4.0, 2.0, 2.0]


def test_a_matcher_of_a_narrow_feature_trains_and_a_resume_is_the_same() -> None:
    def run(model: Exits, optimizer: Any, steps: range, state: Any = None) -> tuple[Any, Any]:
        distiller = attached(model, GROUPS, 2.0, ["KL", "L2"], [0.5, 0.1], add_origin_loss=True)
        if state is not None:
            distiller.load_state_dict(state)
        distiller.optimizer = optimizer
        with distiller:
            for index in steps:
                total = step(distiller, model, *batches()[index % len(batches())])
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
            assert [one is None or one.is_identity for one in distiller.criterion.feature_matchers] == [
                True, True, False, True,
            ]  # fmt: skip
            return distiller.state_dict(), {
                name: value.clone() for name, value in distiller.criterion.feature_matchers[2].state_dict().items()
            }

    whole, halves = student(), student()
    adam = torch.optim.Adam(whole.parameters(), lr=0.01)
    matcher = run(whole, adam, range(6))[1]
    first = torch.optim.Adam(halves.parameters(), lr=0.01)
    state, begun = run(halves, first, range(3))
    second = torch.optim.Adam(halves.parameters(), lr=0.01)
    second.load_state_dict(first.state_dict())
    resumed = run(halves, second, range(3, 6), state)[1]
    assert same_weights(whole, halves) and all(torch.equal(matcher[name], resumed[name]) for name in matcher)
    assert any(not torch.equal(begun[name], resumed[name]) for name in begun)


def test_without_a_run_as_a_program_drives_it() -> None:
    loss = SelfKnowledgeDistillationLoss(GROUPS[:1], 3.0, "KL")
    with pytest.raises(KDHooksError, match=r"^no model is set: student_model comes before on_train_begin\(\)$"):
        loss.on_train_begin()
    loss.student_model = model = student()
    loss.on_train_begin()
    x = batches()[0][0]
    head, exit1, exit2 = model(x)
    features = loss.teacher_model_forward(x)
    assert list(features) == ["head"] and torch.equal(features["head"], head)
    expected = sum(
        9 * F.kl_div((one / 3).log_softmax(-1), (head / 3).log_softmax(-1), reduction="batchmean", log_target=True)
        for one in (exit1, exit2)
    )
    torch.testing.assert_close(loss.loss_cal(), expected)
    loss.on_train_end()
    assert not any(module._forward_hooks for module in model.modules())


def written(folder: Path, options: str) -> Path:
    path = folder / "kd.yaml"
    lines = "".join(f"        {line}\n" for line in options.splitlines())
    path.write_text("distillation:\n  train:\n    criterion:\n      SelfKnowledgeDistillationLoss:\n" + lines)
    return path


CLASSIC = """\
layer_mappings: [
  [['one', 'three'], ['two', 'three']],
  [['exit1', 'head'], ['exit2', 'head']]
]
temperature: 3.0
loss_types: ['L2', 'KL']
loss_weights: [0.5, 0.05]
add_origin_loss: True"""


def test_the_classic_configuration_trains_beside_a_criterion_with_a_teacher(tmp_path: Path) -> None:
    model = student()
    path = written(tmp_path, CLASSIC)
    with Distillation(path, student_model=model) as distiller:
        x, y = batches()[0]
        values = []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(20):
            total = step(distiller, model, x, y)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            values.append(float(total.detach()))
        assert values[-1] < values[0]
        assert list(distiller.losses) == ["CE", "L2[one]", "L2[two]", "KL[exit1]", "KL[exit2]", "total"]
    path.write_text(path.read_text() + "      KnowledgeDistillationLoss: {loss_types: [CE, KL]}\n")
    with Distillation(path, student_model=model, teacher_model=made(2, Exits)) as distiller:
        step(distiller, model, x, y)
        assert list(distiller.losses)[-2:] == ["KL", "total"]


def test_a_teacher_whose_layers_are_followed_beside_it_still_ends_early() -> None:
    from kdhooks.torch import IntermediateLayersKnowledgeDistillationLoss

    model, teacher, calls = student(), made(2, Exits), []
    teacher.head.register_forward_hook(lambda *_: calls.append(1))
    distiller = Distillation(student_model=model, teacher_model=teacher)
    distiller.criterion = [
        SelfKnowledgeDistillationLoss(GROUPS[:1], add_origin_loss=True),
        IntermediateLayersKnowledgeDistillationLoss([["one"]]),
    ]
    with distiller:
        for _ in range(3):
            step(distiller, model, *batches()[0])
    assert len(calls) == 1  # the first forward is whole


def test_check_looks_at_it_without_a_teacher() -> None:
    model = student()
    distiller = attached(model, GROUPS[:1], 3.0, "KL", add_origin_loss=True)
    report = distiller.check(batches())
    rows = {row["loss"]: row for row in report.to_dict()["facts"]["losses"]}
    assert list(rows) == ["CE", "KL[exit1]", "KL[exit2]"] and rows["KL[exit1]"]["value"] not in (None, "-")
    assert not [finding for finding in report.findings if finding.severity != "info"]


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "flat": (
        lambda: SelfKnowledgeDistillationLoss([["exit1", "head"]]),
        "layer_mappings[0]: expected a group of layers as in [[shallow layers], [deepest layer]], got a list. "
        "Write one more pair of brackets: [[exit1, head]]",
    ),
    "itself": (
        lambda: SelfKnowledgeDistillationLoss([[["exit1", "head"], ["head"]]]),
        "layer_mappings[0][0][1]: the layer 'head' would follow itself",
    ),
    "nothing": (
        lambda: SelfKnowledgeDistillationLoss([]),
        "layer_mappings: expected a list of groups of layers, each as in [[shallow layers], [deepest layer]], got none",
    ),
    "no shallow layer": (
        lambda: SelfKnowledgeDistillationLoss([[[], ["head"]]]),
        "layer_mappings[0][0]: expected one shallow layer or more, got none",
    ),
    "temperature": (
        lambda: SelfKnowledgeDistillationLoss(GROUPS, 0.0),
        "the temperature must be above 0, and is 0.0",
    ),
    "unknown layer": (
        lambda: attached(student(), [[["exit9"], ["head"]]]).on_train_begin(),
        "layer_mappings[0][0][0]: student Exits has no layer 'exit9'. Did you mean 'exit2'? All layers: kdhooks layers "
        "MODEL",
    ),
}


@pytest.mark.parametrize(("act", "text"), FAULTS.values(), ids=FAULTS.keys())
def test_faults(act: Callable[[], Any], text: str) -> None:
    with pytest.raises(KDHooksError) as caught:
        act()
    assert str(caught.value) == text


def test_faults_of_a_configuration_have_their_line(tmp_path: Path) -> None:
    options = "layer_mappings: [[[exit1, 3], [head]], [one, two]]\nloss_weights: [1, 2, 3]\nloss_types: [L3]"
    with pytest.raises(ConfigError) as caught:
        Distillation(written(tmp_path, options))
    told = [str(problem).splitlines()[0].split(": ", 1) for problem in caught.value.problems]
    path = "distillation.train.criterion.SelfKnowledgeDistillationLoss"
    assert [text for _, text in told] == [
        f"{path}.layer_mappings[0][0][1]: expected the name of a layer, got 3",
        f"{path}.layer_mappings[1]: expected a group of layers as in [[shallow layers], [deepest layer]], got a list",
        f"{path}.loss_types[0]: unknown loss between features 'L3'",
    ]
    with pytest.raises(ConfigError) as caught:
        Distillation(written(tmp_path, "layer_mappings: [[[exit1, exit2], [head]]]\nloss_weights: [1, 2, 3]"))
    assert [str(problem).splitlines()[0].split(": ", 1)[1] for problem in caught.value.problems] == [
        f"{path}.loss_weights: expected one for each of the 1 group (which stand for 2 pairs), got 3"
    ]
    with pytest.raises(ConfigError) as caught:
        Distillation(written(tmp_path, "temperature: 2.0"))
    assert "has no layer_mappings, so no layer is compared" in str(caught.value)


def test_the_temperature_may_be_a_schedule() -> None:
    schedule = {"linear": {"from": 4.0, "to": 2.0, "steps": 2}}
    groups = [[["exit1", "exit2"], ["head"]], [["two", "three"]]]
    model, (x, y) = student(), batches()[0]
    with attached(model, groups, schedule, [{"KL": {"temperature": 5.0}}, "KL", "L2"]) as distiller:
        for number in (4.0, 3.0, 2.0, 2.0):
            step(distiller, model, x, y)
            head, exit1, exit2 = model(x)
            for name, logits, temperature in (("KL[exit1]", exit1, 5.0), ("KL[exit2]", exit2, number)):
                expected = temperature**2 * F.kl_div(
                    (logits / temperature).log_softmax(-1),
                    (head / temperature).log_softmax(-1),
                    reduction="batchmean",
                    log_target=True,
                )
                assert distiller.losses[name] == pytest.approx(expected.item(), rel=1e-5)
    assert callable(distiller.criterion.temperature)
    with attached(model, groups, lambda step: 1.0 - step, "KL") as distiller:
        step(distiller, model, x, y)
        with pytest.raises(KDHooksError) as caught:
            step(distiller, model, x, y)
        assert str(caught.value) == "the temperature must be above 0, and is 0.0 at step 1"
    with pytest.raises(KDHooksError) as made_once:
        attached(model, [[["one"], ["three"]]], schedule, "crd")
    assert str(made_once.value) == (
        "the loss 'crd' is made with one temperature and can't follow a schedule: give it its own, as in "
        "{crd: {temperature: 0.1}}"
    )


def test_a_schedule_of_the_temperature_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "kd.yaml"
    text = "distillation:\n  train:\n    criterion:\n      SelfKnowledgeDistillationLoss:\n        layer_mappings: {}\n"
    path.write_text(text.format("[[[exit1], [head]]]") + "        temperature: {linear: {from: 4, to: 2, steps: 2}}\n")
    model, (x, y) = student(), batches()[0]
    with Distillation(path, student_model=model) as distiller:
        step(distiller, model, x, y)
        assert distiller.criterion.temperature(1) == 3.0
    path.write_text(text.format("[[[exit1], [head]]]") + "        temperature: {linear: {from: 4, to: 0, steps: 2}}\n")
    with pytest.raises(ConfigError) as caught:
        Distillation(path)
    assert str(caught.value).splitlines()[1] == "  6 |         temperature: {linear: {from: 4, to: 0, steps: 2}}"
