"""Every argument of the older toolkit's table has a test of its name here, which fails when it is ignored."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import KnowledgeDistillationTraining
from tests.torch.training.setups import (
    BATCH,
    ROWS,
    Accuracy,
    Brings,
    Recorder,
    classifier,
    data,
    kd_loss,
    linear,
    loader,
    same,
    trained,
    training,
    weights,
)

# The table of the older toolkit, with its defaults.
TABLE: dict[str, Any] = {
    "teacher_model": None,
    "student_model": None,
    "train_data_loader": None,
    "val_data_loaders": None,
    "inference_pipeline": None,
    "num_gpu_used": 0,
    "max_epoch": 10,
    "optimize_method": "adam",
    "scheduler_method": "",
    "learning_rate": 0.0001,
    "num_lr_warm_up_epoch": 0,
    "final_loss_coeff_dict": {"kd_loss": 1},
    "log_to_comet": False,
    "comet_info_path": "",
    "comet_exp_name": "",
    "temperature": 1,
    "seed": 32,
    "track_grad_norm": 2,
    "accumulate_grad_batches": 1,
    "accelerator": None,
    "num_nodes": 1,
    "precision": 16,
    "deterministic": True,
    "resume_from_checkpoint": "",
    "logging_param": None,
}


def test_the_table_is_there_with_its_defaults_and_a_test_for_each_argument() -> None:
    found = inspect.signature(KnowledgeDistillationTraining).parameters
    assert {name: found[name].default for name in TABLE} == TABLE
    assert list(found)[: len(TABLE)] == list(TABLE)
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    assert [name for name in TABLE if not any(f"def test_{name}_" in text for text in texts)] == []


def batches() -> list[tuple[Tensor, Tensor]]:
    """The batches of an epoch, in the order in which a loader that doesn't shuffle serves them."""
    x, y = data().tensors
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))


def by_hand(student: nn.Module, teacher: nn.Module, rate: float, *, accumulate: int = 1) -> list[float]:
    """SGD on the plain divergence; returns the norms of the gradients, and leaves the student trained."""
    norms = []
    for number, (x, _) in enumerate(batches(), start=1):
        (kd_loss(student(x), teacher(x).detach()) / accumulate).backward()  # type: ignore[no-untyped-call]
        if number % accumulate == 0:
            gradients = torch.cat([one.grad.reshape(-1) for one in student.parameters() if one.grad is not None])
            norms.append(float(gradients.norm()))
            with torch.no_grad():
                for parameter in student.parameters():
                    parameter -= rate * parameter.grad  # type: ignore[operator]
            student.zero_grad()
    return norms


def assert_close(one: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


# ---- models and data -------------------------------------------------------------------------------


def test_teacher_model_is_what_the_student_follows_and_stays_as_it_was(tmp_path: Path) -> None:
    for seed in (2, 3):
        teacher, alone = linear(seed).train(), linear(1)
        before = weights(teacher)
        run = trained(tmp_path, teacher_model=teacher, max_epoch=1)
        by_hand(alone, teacher, 0.1)
        assert_close(run.get_student_model(), alone)
        assert same(before, weights(teacher))
        assert teacher.training and all(one.grad is None and one.requires_grad for one in teacher.parameters())


def test_student_model_is_trained_in_place_and_returned(tmp_path: Path) -> None:
    student = classifier().eval()
    before = weights(student)
    assert training(tmp_path, student_model=student).start_kd_training() is student
    assert not same(before, weights(student))
    assert not any(module.training for module in student.modules())


def test_train_data_loader_serves_the_batches(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    student = linear(1)
    handle = student.register_forward_hook(lambda module, given, output: seen.append(given[0].clone()))
    trained(tmp_path, student_model=student, train_data_loader=loader(5, rows=16), max_epoch=2)
    handle.remove()
    assert torch.equal(torch.cat(seen), data(5, rows=16).tensors[0].repeat(2, 1))


def test_val_data_loaders_are_validated_after_each_epoch_by_name(tmp_path: Path) -> None:
    loaders = {"first": loader(7), "second": loader(8, rows=16)}
    log, pipeline = Recorder(), Accuracy()
    run = trained(
        tmp_path, val_data_loaders=loaders, inference_pipeline=pipeline, max_epoch=2, loggers=[log], learning_rate=1.0
    )
    assert [call[1] for call in pipeline.calls] == [*loaders.values(), *loaders.values()]
    assert [list(record["metrics"]) for record in run.history] == [["first", "second"]] * 2
    for name in loaders:
        assert list(log.of(name).values()) == [record["metrics"][name] for record in run.history]


def test_inference_pipeline_gets_the_student_in_eval_mode_without_a_graph(tmp_path: Path) -> None:
    pipeline = Accuracy()
    student = classifier()
    run = trained(tmp_path, student_model=student, val_data_loaders={"v": loader(7)}, inference_pipeline=pipeline)
    [(model, _, training_mode, with_graph)] = pipeline.calls
    assert model is student and not training_mode and not with_graph
    x, y = data(7).tensors
    right = (student.eval()(x).argmax(-1) == y).float().mean()
    assert run.history[0]["metrics"] == {"v": float(right)}
    assert not hasattr(pipeline, "device")


# ---- the course of the training --------------------------------------------------------------------


def test_max_epoch_is_how_many_epochs_there_are(tmp_path: Path) -> None:
    run = trained(tmp_path, max_epoch=3)
    assert [(record["epoch"], record["steps"]) for record in run.history] == [(0, 4), (1, 4), (2, 4)]


@pytest.mark.parametrize(
    ("name", "kind", "betas", "eps", "decay"),
    [
        ("adam", torch.optim.Adam, (0.9, 0.999), 1e-8, 0),
        ("adam_wav2vec2.0", torch.optim.Adam, (0.9, 0.98), 1e-6, 0),
        ("adam_distilBert", torch.optim.Adam, (0.9, 0.999), 1e-6, 0),
        ("adamW_distilBert", torch.optim.AdamW, (0.9, 0.98), 1e-6, 0.01),
        ("sgd", torch.optim.SGD, None, None, 0),
    ],
)
def test_optimize_method_is_the_optimizer_over_the_students_parameters(
    tmp_path: Path, name: str, kind: type, betas: Any, eps: Any, decay: float
) -> None:
    student = linear(1)
    student.bias.requires_grad_(False)
    bias = student.bias.detach().clone()
    run = trained(tmp_path, student_model=student, optimize_method=name, learning_rate=0.02)
    assert run.distiller is not None
    optimizer = run.distiller.optimizer
    assert type(optimizer) is kind
    [group] = optimizer.param_groups
    found = (group["lr"], group.get("betas"), group.get("eps"), group["weight_decay"])
    assert found == (0.02, betas, eps, decay)
    assert [id(one) for one in group["params"]] == [id(student.weight)]
    assert torch.equal(student.bias, bias)
    if name == "sgd":
        assert group["momentum"] == 0


@pytest.mark.parametrize(
    ("name", "epochs", "rates"),
    [
        ("", 3, [0.1, 0.1, 0.1]),
        ("linear_decay_with_warm_up", 4, [0.1, 0.075, 0.05, 0.025]),
        (
            "cosine_anneal",
            11,
            [0.1, 0.096985, 0.0883024, 0.0750003, 0.0586828, 0.0413182, 0.0250008, 0.0116986, 0.0030163, 0.1, 0.096985],
        ),
    ],
)
def test_scheduler_method_is_the_course_of_the_learning_rate(
    tmp_path: Path, name: str, epochs: int, rates: list[float]
) -> None:
    log = Recorder()
    run = trained(tmp_path, scheduler_method=name, max_epoch=epochs, loggers=[log])
    assert [record["learning_rate"] for record in run.history] == pytest.approx(rates, abs=1e-6)
    assert list(log.of("learning_rate").values()) == pytest.approx([rate for rate in rates for _ in range(4)], abs=1e-6)


def test_learning_rate_is_the_optimizers(tmp_path: Path) -> None:
    for rate in (0.1, 0.5):
        alone = linear(1)
        by_hand(alone, linear(2), rate)
        assert_close(trained(tmp_path, learning_rate=rate).get_student_model(), alone)


def test_num_lr_warm_up_epoch_is_the_length_of_the_linear_warm_up(tmp_path: Path) -> None:
    run = trained(
        tmp_path, scheduler_method="linear_decay_with_warm_up", num_lr_warm_up_epoch=4, max_epoch=6, learning_rate=0.2
    )
    assert [record["learning_rate"] for record in run.history] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2, 0.1])


def test_final_loss_coeff_dict_weighs_the_components(tmp_path: Path) -> None:
    coefficients = {"kd_loss": 0.5, "student_loss": 2.0, "penalty": 0.25, "cos_embed_loss": 0.125}
    student, teacher = Brings(1), linear(2)
    x, y = data(rows=BATCH).tensors
    with torch.no_grad():
        output, other = student(x, y), teacher(x)
        components = {
            "kd_loss": kd_loss(output["logits"], other),
            "student_loss": output["loss"]["student_loss"],
            "penalty": output["penalty"],
            "cos_embed_loss": (1 - F.cosine_similarity(output["logits"], other, dim=-1)).mean(),
        }
    run = trained(
        tmp_path, student_model=student, train_data_loader=loader(rows=BATCH), final_loss_coeff_dict=coefficients
    )
    losses = run.history[0]["losses"]
    assert losses == pytest.approx(
        {
            **{name: float(value) for name, value in components.items()},
            "total": sum(coefficients[name] * float(value) for name, value in components.items()),
        },
        rel=1e-5,
    )


def test_temperature_softens_and_is_squared(tmp_path: Path) -> None:
    x, _ = data(rows=BATCH).tensors
    for temperature in (1, 4):
        with torch.no_grad():
            expected = float(kd_loss(linear(1)(x), linear(2)(x), temperature))
        run = trained(tmp_path, train_data_loader=loader(rows=BATCH), temperature=temperature)
        assert run.history[0]["losses"]["kd_loss"] == pytest.approx(expected, rel=1e-5)


def test_seed_decides_the_order_of_the_data_and_dropout(tmp_path: Path) -> None:
    found = {}
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        torch.manual_seed(len(name))  # whatever ran before
        run = trained(
            tmp_path, student_model=classifier(), train_data_loader=loader(shuffle=True), seed=seed, max_epoch=2
        )
        found[name] = weights(run.get_student_model())
    assert same(found["one"], found["again"])
    assert not same(found["one"], found["other"])
    assert "PL_GLOBAL_SEED" not in os.environ


@pytest.mark.parametrize("order", [2, 1, "inf"])
def test_track_grad_norm_is_the_order_of_the_norm_that_is_logged(tmp_path: Path, order: Any) -> None:
    log = Recorder()
    trained(tmp_path, train_data_loader=loader(rows=BATCH), track_grad_norm=order, loggers=[log])
    student, (x, _) = linear(1), data(rows=BATCH).tensors
    kd_loss(student(x), linear(2)(x).detach()).backward()  # type: ignore[no-untyped-call]
    gradient = torch.cat([one.grad.reshape(-1) for one in student.parameters() if one.grad is not None])
    expected = float(torch.linalg.vector_norm(gradient, float(order)))
    assert log.of(f"grad_{float(order)}_norm_total") == pytest.approx({0: expected}, rel=1e-5)


def test_track_grad_norm_of_minus_one_logs_none(tmp_path: Path) -> None:
    log = Recorder()
    trained(tmp_path, track_grad_norm=-1, loggers=[log])
    assert sorted({name for _, numbers in log.numbers for name in numbers}) == [
        "epoch",
        "kd_loss",
        "learning_rate",
        "train_final_loss",
    ]


def test_accumulate_grad_batches_is_how_many_batches_a_step_takes(tmp_path: Path) -> None:
    log, alone = Recorder(), linear(1)
    run = trained(tmp_path, accumulate_grad_batches=2, loggers=[log])
    norms = by_hand(alone, linear(2), 0.1, accumulate=2)
    assert_close(run.get_student_model(), alone)
    assert list(log.of("grad_2.0_norm_total").values()) == pytest.approx(norms, rel=1e-4)
    assert list(log.of("kd_loss")) == [0, 1]
    assert run.history[0]["steps"] == ROWS // BATCH
