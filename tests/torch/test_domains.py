"""Domain adaptation in the user's loop: what it computes, what it leaves alone, and what trains."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.adaptation import WarmStart
from kdhooks.torch import DomainAdaptationLoss
from kdhooks.torch.adaptation import DANN as Dann
from kdhooks.torch.adaptation import DomainBatch
from tests.torch.domain_runs import DANN, MORE, ROWS, conf, data, equal, one, student, train


def by_hand(model: Any, batches: Any, *, joint: bool = False) -> None:
    """The loop that people write for DANN, with a discriminator in their own optimizer."""
    adapter, warm = Dann(hidden_size=12), WarmStart(steps=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step, (x, y, t) in enumerate(batches):
        if joint:
            both = model.body[2](model.body[:2](torch.cat([x, t])))
            output, other = model.head(both).split([ROWS, MORE])
            mine, theirs = both.split([ROWS, MORE])
        else:
            mine, theirs = (model.body[:3](one) for one in (x, t))
            output, other = model.head(mine), model.head(theirs)
        sides = DomainBatch((mine,), output), DomainBatch((theirs,), other)
        loss = F.cross_entropy(output, y) + adapter(*sides, coefficient=warm(step))
        if not step:
            optimizer.add_param_group({"params": list(adapter.parameters())})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("joint", [False, True])
def test_the_hooks_compute_what_a_loop_written_by_hand_does(joint: bool) -> None:
    mine, theirs = student(), student()
    by_hand(theirs, data(), joint=joint)
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.1, momentum=0.9)
    with Distillation(conf(joint_forward=joint), student_model=mine) as distiller:
        for x, y, t in data():
            output = mine(torch.cat([x, t]))[:ROWS] if joint else mine(x)
            loss = F.cross_entropy(output, y)
            loss = distiller.on_after_compute_loss(x, output, loss, target_input=t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert mine.calls == (5 if joint else 10)
    torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=1e-6, atol=1e-7)


def test_with_every_weight_0_nothing_happens() -> None:
    mine, theirs = student(dropout=0.3), student(dropout=0.3)
    torch.manual_seed(4)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for x, y, _ in data():
        loss = F.cross_entropy(theirs(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.manual_seed(4)
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.1)
    zero = {"DANN": {"layer": "body.2", "weight": 0}, "MCC": {"weight": 0.0}}
    with Distillation(conf(zero), student_model=mine) as distiller:
        for x, y, t in data():
            output = mine(x)
            loss = F.cross_entropy(output, y)
            assert distiller.on_after_compute_loss(x, output, loss, target_input=t) is loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert distiller.losses == {"CE": pytest.approx(loss.item()), "total": pytest.approx(loss.item())}
    assert mine.calls == 5 and equal(mine, theirs)


def test_the_joint_forward_of_the_hook_is_one_batch_of_both_domains() -> None:
    model = student()
    twin = copy.deepcopy(model)
    (x, _, t) = data(1)[0]
    with Distillation(conf({"MK_MMD": {"layer": "body.1"}}, joint_forward=True), student_model=model) as distiller:
        one(distiller, model, data(1)[0])
        found = distiller.losses["MK_MMD"]
    twin(x)  # the loop's own forward moves BatchNorm's statistics as well
    mine, theirs = twin.body[:2](torch.cat([x, t])).split([ROWS, MORE])
    from kdhooks.torch.adaptation import mk_mmd

    assert found == pytest.approx(mk_mmd(mine, theirs).item(), rel=1e-5)
    assert model.calls == 2 and torch.equal(model.body[1].running_mean, twin.body[1].running_mean)


def test_components_and_measures_are_named_as_in_the_configuration() -> None:
    model = student()
    criterion = {"dann": {"layer": "body.2"}, "MCC": {"weight": 0.5}, "coral": {"layers": ["body.0", "head"]}}
    with Distillation(conf(criterion, a_distance=True), student_model=model) as distiller:
        one(distiller, model, data(1)[0])
        found = distiller.losses
    names = ["CE", "dann", "dann.domain_accuracy", "dann.a_distance", "MCC", "coral", "total"]
    assert list(found) == names
    assert found["total"] == pytest.approx(found["CE"] + found["dann"] + 0.5 * found["MCC"] + found["coral"])
    assert found["dann.a_distance"] == pytest.approx(4 * found["dann.domain_accuracy"] - 2)


def test_labelled_rows_of_the_target_train_the_student() -> None:
    model = student()
    batch = data(1)[0]
    labels = torch.tensor([0, -100, 2, -100, -100, 1])
    with Distillation(conf({"MCC": {}}, target_label_weight=0.5), student_model=model) as distiller:
        total = one(distiller, model, batch, target_labels=labels)
        some = distiller.losses
        one(distiller, model, batch, target_labels=torch.full((MORE,), -100))
        none = distiller.losses
        one(distiller, model, batch)
        without = distiller.losses
    twin = student()
    twin(batch[0])
    expected = F.cross_entropy(twin(batch[2]), labels)
    assert some["target_CE"] == pytest.approx(expected.item(), rel=1e-5)
    assert total.item() == pytest.approx(some["CE"] + some["MCC"] + 0.5 * some["target_CE"], rel=1e-6)
    assert none["target_CE"] == 0.0 and "target_CE" not in without


def test_the_reversal_warms_up_in_training_only() -> None:
    model = student()
    distiller = Distillation(conf(), student_model=model)
    distiller.on_train_begin()
    criterion = distiller.criterion[1]
    for _ in range(3):
        one(distiller, model, data(1)[0])
    model.eval()
    for _ in range(5):
        one(distiller, model, data(1)[0])
    assert criterion.steps == 3
    model.train()
    gradients = []
    for step in (3, 4):
        model.zero_grad()
        one(distiller, model, data(1)[0]).backward()
        assert criterion.steps == step + 1
        gradients.append(model.body[0].weight.grad.clone())
    assert not torch.equal(*gradients)
    distiller.on_train_end()


def test_distillation_and_adaptation_stand_side_by_side() -> None:
    model, teacher = student(), student(2)
    both = conf() | {"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": {"temperature": 2.0}}}}}
    with Distillation(both, student_model=model, teacher_model=teacher) as distiller:
        one(distiller, model, data(1)[0])
        found = distiller.losses
    assert found["total"] == pytest.approx(0.5 * found["CE"] + 0.5 * found["KL"] + found["DANN"], rel=1e-6)
    pairs = {"IntermediateLayersKnowledgeDistillationLoss": {"layer_mappings": [["body.2"]], "add_origin_loss": True}}
    values = []
    for criterion in ([DomainAdaptationLoss(DANN)], []):  # the target's forward first, or none
        model = student()
        distiller = Distillation({"distillation": {"train": {"criterion": pairs}}}, student_model=model)
        distiller.teacher_model = teacher
        distiller.criterion = [*criterion, *distiller.backend.criteria(distiller.conf)]
        with distiller:
            given = {} if criterion else {"target_input": None}
            one(distiller, model, data(1)[0], **given)
            values.append(distiller.losses["MSE[body.2]"])
    assert values[0] == values[1] > 0


@pytest.mark.parametrize("teacher", [None, student(2)])
def test_without_a_section_distillation_the_loop_s_loss_weighs_1(teacher: Any) -> None:
    model = student()
    with Distillation(conf({"MCC": {}}), student_model=model, teacher_model=teacher) as distiller:
        one(distiller, model, data(1)[0])
        found = distiller.losses
    assert list(found) == ["CE", "MCC", "total"] and found["total"] == pytest.approx(found["CE"] + found["MCC"])


def test_nothing_of_ours_is_left() -> None:
    model = student()
    optimizer = torch.optim.Adam(model.parameters())
    surface = {name: dict(vars(module)) for name, module in model.named_modules()}
    before = {name: {key for key in one if "hook" in key and one[key]} for name, one in surface.items()}
    distiller = Distillation(conf({**DANN, "MCD": {"head": "head"}}), student_model=model)
    distiller.on_train_begin()
    train(distiller, model, optimizer, data(3))
    assert len(optimizer.param_groups[0]["params"]) == 6 + 6 + 2
    twin = copy.deepcopy(model)
    twin(data(1)[0][0])
    distiller.on_train_end()
    assert len(optimizer.param_groups[0]["params"]) == 6 and len(optimizer.state_dict()["state"]) == 6
    for name, module in model.named_modules():
        assert {key for key, value in vars(module).items() if "hook" in key and value} == before[name]
    assert equal(pickle.loads(pickle.dumps(model)), model)


OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "AdamW groups": lambda p: torch.optim.AdamW([{"params": [one]} for one in p], lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("told", [True, False])
def test_discriminators_train_without_a_line(name: str, told: bool) -> None:
    model = student()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    distiller = Distillation(conf(), student_model=model)
    distiller.on_train_begin(optimizer=optimizer if told else None)
    one(distiller, model, data(1)[0])
    begun = [parameter.detach().clone() for parameter in distiller.parameters()]
    train(distiller, model, optimizer, data(6))
    assert len(begun) == 6 and not any(map(torch.equal, begun, distiller.parameters()))
    state = optimizer.state_dict()
    OPTIMIZERS[name](list(student().parameters())).load_state_dict(state)
    distiller.on_train_end()


def test_lbfgs_trains_them_too() -> None:
    model = student()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    with Distillation(conf(), student_model=model) as distiller:
        one(distiller, model, data(1)[0])
        begun = [parameter.detach().clone() for parameter in distiller.parameters()]

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = one(distiller, model, data(1)[0])
            total.backward()
            return total

        optimizer.step(closure)
        assert not any(map(torch.equal, begun, distiller.parameters()))


def test_parameters_are_there_before_the_first_loss_where_the_data_are() -> None:
    model = student()
    state = torch.get_rng_state()
    distiller = Distillation(conf({**DANN, "MDD": {"layer": "body.2"}}), student_model=model)
    distiller.on_train_begin([(x, y) for x, y, _ in data()])
    assert len(list(distiller.parameters())) == 6 + 4
    assert torch.equal(state, torch.get_rng_state()) and equal(model, student())
    one(distiller, model, data(1)[0])
    assert len(list(distiller.parameters())) == 6 + 4
    distiller.on_train_end()


def test_under_autocast_discriminators_compute_in_full_precision() -> None:
    model = student()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = {**DANN, "CDAN": {"layer": "body.2"}, "MK_MMD": {"layer": "body.2"}, "MCC": {}, "MCD": {"head": "head"}}
    with Distillation(conf(criterion), student_model=model) as distiller:
        for batch in data(3):
            with torch.autocast("cpu", torch.bfloat16):
                total = one(distiller, model, batch)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        assert total.dtype == torch.float32 and all(p.dtype == torch.float32 for p in distiller.parameters())
        assert all(map(torch.isfinite, map(torch.tensor, distiller.losses.values())))


def test_a_compiled_student_and_a_checkpointed_one() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = student()

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.utils.checkpoint.checkpoint(self.inner.body, x, use_reentrant=False)
            output: Tensor = self.inner.head(hidden)
            return output

    model = Checkpointed()
    with Distillation(conf({"DANN": {"layer": "inner.body.2", "hidden_size": 12}}), student_model=model) as distiller:
        one(distiller, model, data(1)[0]).backward()
        first = model.inner.body[0].weight.grad
        found = distiller.losses
    plain = student()
    with Distillation(conf(), student_model=plain) as distiller:
        one(distiller, plain, data(1)[0]).backward()
        assert found == pytest.approx(distiller.losses)
    torch.testing.assert_close(first, plain.body[0].weight.grad)


def test_check_looks_at_a_run_with_adaptation() -> None:
    model = student()
    distiller = Distillation(conf(), student_model=model)
    report = distiller.check([(x, y) for x, y, _ in data()])
    assert report.ok, str(report)
