"""The section ``finetune`` in a run: what is frozen, until when, and what is left afterwards."""

from __future__ import annotations

import copy
import io
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdhooks import Distillation
from kdhooks.errors import ConfigError, TransferError, UsageError
from kdhooks.torch.transfer import parameter_groups
from tests.torch.transfer.models import batches, net, run, same

KD = {"KnowledgeDistillationLoss": {"temperature": 2.0, "loss_weights": [0.5, 0.5]}}


def tuned(finetune: Any = None, *, classes: int = 3, **sections: Any) -> Distillation:
    conf = {"finetune": finetune, **sections} if finetune is not None else sections
    distiller = Distillation(conf, student_model=net(2))
    distiller.pretrained_model = net(1, classes)
    return distiller


def sgd(distiller: Distillation, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(distiller.student_model.parameters(), **{"lr": 0.1, "momentum": 0.9} | options)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_frozen_layer_has_the_source_s_weights_and_statistics_bit_by_bit_after_training() -> None:
    distiller = tuned({"freeze": ["stem", "body.1"]})
    student, source = distiller.student_model, distiller.pretrained_model
    optimizer = sgd(distiller, weight_decay=0.1)
    run_before = F.cross_entropy(student(batches(1)[0][0]), batches(1)[0][1])
    run_before.backward()  # gradients and momentum from before must not go on
    distiller.on_train_begin(optimizer=optimizer)
    run(distiller, optimizer, range(10))
    assert same(student.stem.state_dict(), source.stem.state_dict())
    assert same(student.body[1].state_dict(), source.body[1].state_dict())
    assert not torch.equal(student.body[0].weight, source.body[0].weight)
    assert student.stem[1].training  # the loop's own mode
    distiller.on_train_end()


def test_afterwards_the_student_is_an_ordinary_model() -> None:
    distiller = tuned({"freeze": ["stem"], "freeze_batch_norm": True})
    student = distiller.student_model
    with distiller:
        run(distiller, sgd(distiller), range(2))
        twin = copy.deepcopy(student)
        again = pickle.loads(pickle.dumps(student))
        for copied in (twin, again):
            copied.train()(batches(1)[0][0])
            assert not torch.equal(copied.stem[1].running_mean, student.stem[1].running_mean)  # no hook of ours works
    assert all(one.requires_grad for one in student.parameters())
    for module in student.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._forward_hooks_always_called


def test_what_the_user_had_frozen_stays_frozen() -> None:
    distiller = tuned({"freeze": ["stem"]})
    distiller.student_model.head.bias.requires_grad_(False)
    with distiller:
        run(distiller, sgd(distiller), range(1))
    frozen = [name for name, one in distiller.student_model.named_parameters() if not one.requires_grad]
    assert frozen == ["head.bias"]


@pytest.mark.parametrize(
    ("setting", "moves"),
    [(None, ["body.1"]), (True, []), (False, ["stem.1", "body.1"])],
)
def test_statistics_stand_still_where_batch_norm_is_frozen(setting: bool | None, moves: list[str]) -> None:
    distiller = tuned({"freeze": ["stem"], "freeze_batch_norm": setting})
    student = distiller.student_model
    with distiller:
        norms = {name: one for name, one in student.named_modules() if isinstance(one, nn.BatchNorm2d)}
        before = {name: one.running_mean.clone() for name, one in norms.items()}
        run(distiller, sgd(distiller), range(2))
        assert [name for name, one in norms.items() if not torch.equal(one.running_mean, before[name])] == moves


def test_layers_are_set_free_in_their_epochs() -> None:
    distiller = tuned({"freeze": ["stem"], "unfreeze": {1: ["body"], 2: ["stem.0"]}})
    student, seen = distiller.student_model, []
    optimizer = sgd(distiller)
    distiller.on_train_begin(optimizer=optimizer)

    def look(step: int) -> None:
        if step % 5 == 3:
            seen.append(
                [name for name in ("stem", "body", "head") if next(getattr(student, name).parameters()).requires_grad]
            )

    before = state(student.body)
    run(distiller, optimizer, range(5), look)
    assert same(student.body.state_dict(), before)
    run(distiller, optimizer, range(5, 15), look)
    assert seen == [["head"], ["body", "head"], ["stem", "body", "head"]]
    assert not same(student.body.state_dict(), before)
    assert not student.stem[1].weight.requires_grad
    distiller.on_epoch_begin(0)  # a loop that says itself which epoch begins
    assert not student.body[0].weight.requires_grad


def test_a_layer_that_no_optimizer_holds_is_not_set_free_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    distiller = tuned({"unfreeze": {1: ["stem"]}})
    distiller.on_train_begin()
    optimizer = torch.optim.SGD([one for one in distiller.student_model.parameters() if one.requires_grad], lr=0.1)
    with caplog.at_level(logging.WARNING, logger="kdhooks"):
        run(distiller, optimizer, range(5))
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "layers were set free in epoch 1 that no optimizer holds, so they are not trained: make the optimizer of all "
        "of the student's parameters"
    ]
    distiller.on_train_end()


def test_without_other_sections_the_loss_is_the_loop_s_own() -> None:
    for distiller in (tuned({"freeze": ["stem"]}), tuned()):
        with distiller:
            student = distiller.student_model
            x, y = batches(1)[0]
            output = student(x)
            loss = F.cross_entropy(output, y)
            assert distiller.on_after_compute_loss(x, output, loss) is loss
            assert sorted(distiller.losses) == ["CE", "total"]
            assert distiller.transfer_report.counts()["transferred"] == 16


def test_finetuning_and_distillation_act_together() -> None:
    distiller = tuned({"freeze": ["stem"], "l2_sp": {}}, distillation={"train": {"criterion": KD}})
    distiller.teacher_model = net(5)
    optimizer = sgd(distiller)
    distiller.on_train_begin(optimizer=optimizer)
    run(distiller, optimizer, range(3))
    assert sorted(distiller.losses) == ["CE", "KL", "L2-SP", "L2-SP.new", "total"]
    assert same(distiller.student_model.stem.state_dict(), distiller.pretrained_model.stem.state_dict())
    distiller.on_train_end()


def test_a_second_run_goes_on_with_what_was_learned() -> None:
    distiller = tuned({})
    optimizer = sgd(distiller)
    for _ in range(2):
        distiller.on_train_begin(optimizer=optimizer)
        run(distiller, optimizer, range(2))
        trained = state(distiller.student_model)
        distiller.on_train_end()
    assert same(distiller.student_model.state_dict(), trained)
    report = distiller.transfer_report
    distiller.student_model = net(3)  # another student begins with the source's weights
    distiller.on_train_begin()
    assert same(distiller.student_model.state_dict(), distiller.pretrained_model.state_dict())
    assert distiller.transfer_report is not report
    distiller.on_train_end()


def saved(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def session(first: int, last: int, state: Any = None) -> Any:
    """A process's part of a run of fifteen steps with everything that has to be resumed."""
    torch.manual_seed(3)
    finetune = {
        "freeze": ["stem"],
        "unfreeze": {1: ["stem.0"], 2: ["body"]},
        "l2_sp": {"weight": {"linear": {"from": 0.5, "to": 0.0, "steps": 15}}},
        "delta": {"layers": ["body"], "weight": 0.3},
    }
    distiller = tuned(finetune, classes=4)
    optimizer = sgd(distiller)
    if state is not None:
        distiller.student_model.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        distiller.load_state_dict(state["distiller"])
    distiller.on_train_begin(optimizer=optimizer)
    run(distiller, optimizer, range(first, last))
    parts = {"student": distiller.student_model, "optimizer": optimizer, "distiller": distiller}
    result = saved({name: part.state_dict() for name, part in parts.items()})
    distiller.on_train_end()
    return result


def test_a_resumed_run_is_bit_identical() -> None:
    whole = session(0, 15)
    for stop in (4, 7, 10):
        assert same(session(stop, 15, session(0, stop))["student"], whole["student"])


def test_weights_that_a_transfer_wrote_over_are_not_gone_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    first = tuned({})
    with first:
        run(first, sgd(first), range(2))
        saved_run = saved(first.state_dict())
    second = tuned({})
    second.on_train_begin()
    second.load_state_dict(saved_run)
    with caplog.at_level(logging.WARNING, logger="kdhooks"):
        run(second, sgd(second), range(2, 3))
    assert caplog.messages == [
        "the saved run goes on with the weights of the transfer: call distiller.load_state_dict() before "
        "on_train_begin(), or load the student's state_dict after it"
    ]
    second.on_train_end()


def test_learning_rate_factors_are_groups_of_the_built_in_loop(tmp_path: Path) -> None:
    loop = {"optimizer": {"SGD": {"learning_rate": 0.5}}, "scheduler": {"CosineAnnealing": {}}, "end_epoch": 2}
    distiller = tuned(
        {"lr_factors": {"stem": 0.0, "body": 0.1}, "unfreeze": {1: ["body"]}},
        distillation={"train": loop},
        tuning={"workspace": {"path": str(tmp_path)}},
    )
    distiller.train_dataloader = batches()
    student = distiller.student_model
    assert distiller.fit() is student
    assert [group["initial_lr"] for group in distiller.optimizer.param_groups] == [0.0, 0.05, 0.5]
    assert same(dict(student.stem.named_parameters()), dict(distiller.pretrained_model.stem.named_parameters()))
    assert not torch.equal(student.body[0].weight, distiller.pretrained_model.body[0].weight)


def test_the_built_in_loop_resumes_bit_by_bit(tmp_path: Path) -> None:
    def fitted(folder: str, epochs: int, **workspace: Any) -> dict[str, torch.Tensor]:
        loop = {"optimizer": {"SGD": {"learning_rate": 0.1, "momentum": 0.9}}, "end_epoch": epochs}
        distiller = tuned(
            {"freeze": ["stem"], "unfreeze": {1: ["stem.0"]}, "l2_sp": {"weight": 0.3}},
            classes=4,
            distillation={"train": loop},
            tuning={"workspace": {"path": str(tmp_path / folder), **workspace}},
        )
        distiller.train_dataloader = batches()
        return state(distiller.fit())

    whole = fitted("whole", 2)
    fitted("parts", 1)
    assert same(fitted("parts", 2, resume=True), whole)


def test_a_loop_whose_optimizer_has_no_such_groups_is_told(caplog: pytest.LogCaptureFixture) -> None:
    factors = {"stem": 0.1}
    with caplog.at_level(logging.WARNING, logger="kdhooks"):
        distiller = tuned({"lr_factors": factors})
        distiller.on_train_begin(optimizer=sgd(distiller))
        assert caplog.messages == [
            "finetune.lr_factors is not in force: in a loop of your own make the optimizer from "
            "kdhooks.torch.transfer.parameter_groups(student, factors, lr=...)"
        ]
        caplog.clear()
        groups = parameter_groups(distiller.student_model, factors, lr=0.2, weight_decay=0.01)
        assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups] == [
            (pytest.approx(0.02), 0.01, 4),
            (0.2, 0.01, 6),
        ]
        distiller.on_train_begin(optimizer=torch.optim.SGD(groups))
        assert caplog.messages == []
    distiller.on_train_end()


@pytest.mark.parametrize(
    ("finetune", "text"),
    [
        ({"freeze": ["stm"]}, "finetune.freeze: freeze: Net has nothing that 'stm' fits\n  Did you mean 'stem'?"),
        (
            {"unfreeze": {1: ["bdy"]}},
            "finetune.unfreeze: unfreeze: Net has nothing that 'bdy' fits\n  Did you mean 'body'?",
        ),
        (
            {"rename": {"^body": "stem"}},
            "finetune.rename: the rules map two tensors of the source to 'stem.0.weight': 'stem.0.weight' and "
            "'body.0.weight'\n  Map one of them to null, which leaves it out.",
        ),
        (
            {"delta": {"layers": ["bdy"]}},
            "finetune.delta.layers[0]: student Net has no layer 'bdy'\n"
            "  Did you mean 'body'? All layers: kdhooks layers MODEL",
        ),
    ],
)
def test_wrong_names_are_told_where_they_stand(finetune: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tuned(finetune).on_train_begin()
    assert str(caught.value) == f"<dict>: {text}"


def test_nothing_matching_is_told() -> None:
    distiller = tuned({})
    distiller.pretrained_model = nn.Sequential(nn.Linear(2, 2))
    told = (
        "nothing of Sequential fits Net: the source has '0.weight', '0.bias', and the student 'stem.0.weight', "
        "'stem.0.bias', 'stem.1.weight' and 13 more"
    )
    with pytest.raises(ConfigError) as caught:
        distiller.on_train_begin()
    assert str(caught.value) == f"<dict>: finetune: {told}\n  Write rename rules, or by_order: true."
    bare = tuned()
    bare.pretrained_model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(TransferError) as caught_bare:
        bare.on_train_begin()
    assert str(caught_bare.value) == f"{told}. Write rename rules, or by_order: true"


def test_freezing_inside_of_ddp_is_refused(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        distiller = tuned({"freeze": ["stem"]})
        wrapped = nn.parallel.DistributedDataParallel(distiller.student_model)
        told = (
            r"^the student is inside of DistributedDataParallel already, which would wait for the gradients of frozen"
        )
        with pytest.raises(UsageError, match=told):
            distiller.on_train_begin()
        assert all(one.requires_grad for one in wrapped.parameters())
    finally:
        torch.distributed.destroy_process_group()
