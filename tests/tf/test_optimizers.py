"""Optimizers and schedulers by name: the same mathematics as PyTorch's, and whole messages."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from kdhooks import DistillationConf
from kdhooks.errors import CheckpointError, ConfigError, ModelError, UsageError
from kdhooks_tf import optimizer_classes
from kdhooks_tf.optimizers import OPTIMIZERS, PlateauRate, ScheduledRate, build_optimizer, build_rate_schedule

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
            {"lr": 0.1, "momentum": 0.8, "nesterov": True}, {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}],
    "Adam": [{}, {"lr": 0.1, "weight_decay": 0.1, "eps": 1e-3}, {"lr": 0.1, "amsgrad": True, "betas": (0.5, 0.6)}],
    "AdamW": [{}, {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}],
    "RMSprop": [{}, {"alpha": 0.5, "momentum": 0.9, "weight_decay": 0.1}, {"centered": True, "momentum": 0.2}],
}  # fmt: skip


@pytest.mark.parametrize(("name", "options"), [(name, one) for name, several in OPTIONS.items() for one in several])
def test_steps_are_those_of_torch(name: str, options: dict[str, Any]) -> None:
    draws = np.random.default_rng(1)
    start, gradients = draws.normal(size=(3, 4)), draws.normal(size=(6, 3, 4))
    parameter = torch.nn.Parameter(torch.tensor(start))
    theirs = getattr(torch.optim, name)([parameter], **options)
    variable = keras.Variable(start, dtype="float64")
    spelled = {"learning_rate" if key == "lr" else key: value for key, value in options.items()}
    ours = getattr(optimizer_classes, name)(**spelled)
    for number, gradient in enumerate(gradients):
        if number == 3 and "lr" in options:  # a schedule's
            theirs.param_groups[0]["lr"] = ours.learning_rate = options["lr"] / 4
        parameter.grad = torch.tensor(gradient)
        theirs.step()
        ours.apply([tf.constant(gradient)], [variable])
    np.testing.assert_allclose(variable.numpy(), parameter.detach().numpy(), rtol=0, atol=1e-7)  # the rate is float32


@pytest.mark.parametrize("name", OPTIONS)
def test_another_of_the_same_configuration_can_be_made(name: str) -> None:
    options = {"learning_rate" if key == "lr" else key: value for key, value in OPTIONS[name][-1].items()}
    made = getattr(optimizer_classes, name)(**options)
    again = type(made).from_config(made.get_config())
    assert again.get_config() == made.get_config()
    assert keras.optimizers.deserialize(keras.optimizers.serialize(made)).get_config() == made.get_config()


def test_a_sparse_gradient_counts_as_the_dense_one() -> None:
    one, other = keras.Variable(np.ones((4, 2))), keras.Variable(np.ones((4, 2)))
    sparse = tf.IndexedSlices(tf.ones((2, 2)), tf.constant([1, 3]), tf.constant([4, 2]))
    for variable, gradient in ((one, sparse), (other, tf.convert_to_tensor(sparse))):
        optimizer_classes.SGD(0.1, momentum=0.9, weight_decay=0.1).apply([gradient], [variable])
    np.testing.assert_array_equal(one.numpy(), other.numpy())


def conf(**train: Any) -> DistillationConf:
    return DistillationConf({"distillation": {"train": train}})


def variables() -> list[Any]:
    return [keras.Variable(np.ones(3, np.float32))]


def test_every_other_optimizer_is_keras_own() -> None:
    made = build_optimizer(conf(optimizer={"nadam": {"learning_rate": 0.5, "beta_1": 0.7}}), variables())
    assert type(made) is keras.optimizers.Nadam
    assert (float(made.learning_rate), made.beta_1, made.built) == (0.5, 0.7, True)
    assert {"SGD", "Adam", "Lion", "Ftrl"} <= set(OPTIMIZERS)
    assert {"Optimizer", "LossScaleOptimizer"} & set(OPTIMIZERS) == set()


def test_fp16_scales_the_loss() -> None:
    made = build_optimizer(conf(optimizer={"SGD": {"lr": 0.5}}, precision="fp16"), variables())
    assert type(made) is keras.optimizers.LossScaleOptimizer
    assert type(made.inner_optimizer) is optimizer_classes.SGD


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        ({"SDG": {}}, "<dict>: distillation.train.optimizer.SDG: unknown optimizer 'SDG'\n  Did you mean 'SGD'?"),
        ({"LBFGS": {}},
         "<dict>: distillation.train.optimizer.LBFGS: unknown optimizer 'LBFGS'\n  Optimizers: Adadelta, Adafactor, "
         "Adagrad, Adam, Adamax, AdamW, Ftrl, Lamb, Lion, Muon, Nadam, RMSprop, ScheduleFreeAdamW, SGD"),
        ({"SGD": {"moment": 0.9}},
         "<dict>: distillation.train.optimizer.SGD.moment: SGD has no option 'moment'\n  Did you mean 'momentum'?"),
        ({"SGD": {"lr": 1, "learning_rate": 1}},
         "<dict>: distillation.train.optimizer.SGD.learning_rate: is given twice, as lr and as learning_rate\n"
         "  Keep one of them."),
        ({"SGD": 0.1}, "<dict>: distillation.train.optimizer.SGD: SGD needs its options by name\n  Its options: "
         "dampening, lr, momentum, nesterov, weight_decay"),
        ({"SGD": {"nesterov": True}},
         "<dict>: distillation.train.optimizer.SGD: SGD: Nesterov momentum requires a momentum and zero dampening"),
        ({"Adam": {"betas": [0.9, 1.0]}},
         "<dict>: distillation.train.optimizer.Adam: Adam: betas must be two numbers from 0 to below 1, not "
         "[0.9, 1.0]"),
        ({"RMSprop": {"weight_decay": -1}},
         "<dict>: distillation.train.optimizer.RMSprop: RMSprop: weight_decay must be a number of at least 0, not -1"),
    ],
)  # fmt: skip
def test_what_an_optimizer_cannot_be(optimizer: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_optimizer(conf(optimizer=optimizer), variables())
    assert str(caught.value) == text


def test_nothing_to_train() -> None:
    with pytest.raises(ModelError) as caught:
        build_optimizer(conf(), [])
    assert str(caught.value) == "the student has no weight to train: it has none, or each has trainable=False"


def schedule(optimizer: Any = None, steps: int | None = 10, higher: bool | None = True, **train: Any) -> Any:
    optimizer = build_optimizer(conf(optimizer={"SGD": {"lr": 0.1}}), variables()) if optimizer is None else optimizer
    made = build_rate_schedule(conf(**train), optimizer, epochs=2, steps_per_epoch=steps, higher_is_better=higher)
    return made, optimizer


def test_a_schedule_counts_steps_and_writes_the_rate() -> None:
    rate, optimizer = schedule(scheduler={"Step": {"step_epochs": 1, "gamma": 0.5}})
    assert type(rate) is ScheduledRate
    seen = []
    for _ in range(12):
        rate.apply()
        seen.append(round(float(optimizer.learning_rate), 6))
        rate.step()
    assert seen == [0.1] * 10 + [0.05] * 2
    again, other = schedule(scheduler={"Step": {"step_epochs": 1, "gamma": 0.5}})
    again.load_state_dict(rate.state_dict())
    again.apply()
    assert round(float(other.learning_rate), 6) == 0.05
    with pytest.raises(CheckpointError) as caught:
        again.load_state_dict({})
    assert str(caught.value) == "the checkpoint belongs to a run with another learning-rate scheduler"


def test_a_second_run_begins_at_the_optimizers_own_rate() -> None:
    rate, optimizer = schedule(scheduler={"Linear": {}})
    for _ in range(20):
        rate.apply()
        rate.step()
    assert float(optimizer.learning_rate) == pytest.approx(0.005)
    schedule(optimizer, scheduler={"Linear": {}})
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "options",
    [{"patience": 0, "factor": 0.5}, {"patience": 1, "cooldown": 1}, {"threshold": 0.2, "patience": 0, "min_lr": 0.02},
     {"patience": 0, "threshold": 0.05, "threshold_mode": "abs"}],
)  # fmt: skip
@pytest.mark.parametrize("higher", [True, False])
def test_a_plateau_is_torchs(options: dict[str, Any], higher: bool) -> None:
    scores = [0.5, 0.6, 0.6, 0.58, 0.7, 0.7, 0.71, 0.71, 0.3, 0.2, 0.2, 0.2]
    rate, optimizer = schedule(higher=higher, scheduler={"Plateau": options})
    assert type(rate) is PlateauRate
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    watcher = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, mode="max" if higher else "min", **options)
    for number, score in enumerate(scores):
        if number == 6:  # a resumed run
            state = rate.state_dict()
            rate = schedule(optimizer, higher=higher, scheduler={"Plateau": options})[0]
            rate.load_state_dict(state)
        watcher.step(score)
        rate.judge(score)
        rate.judge(None)
        assert float(optimizer.learning_rate) == pytest.approx(theirs.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("train", "how", "text"),
    [
        ({"Cosin": {}}, {}, "<dict>: distillation.train.scheduler.Cosin: unknown scheduler 'Cosin'\n"
         "  Did you mean 'CosineAnnealing'?"),
        ({"Linear": {}}, {"steps": None},
         "<dict>: distillation.train.scheduler.Linear: the scheduler Linear needs the length of an epoch, and the "
         "train_dataloader has none\n  Set distillation.train.iteration, the steps of an epoch."),
        ({"Plateau": {}}, {"higher": None},
         "<dict>: distillation.train.scheduler.Plateau: the scheduler Plateau watches the evaluation's score, and "
         "nothing is evaluated\n  Add evaluation.accuracy with a dataloader, or set eval_dataloader."),
        ({"Plateau": {"factor": 2.0}}, {},
         "<dict>: distillation.train.scheduler.Plateau: Plateau: Factor should be < 1.0."),
    ],
)  # fmt: skip
def test_what_a_scheduler_cannot_be(train: dict[str, Any], how: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        schedule(scheduler=train, **how)
    assert str(caught.value) == text


def test_an_optimizer_with_a_schedule_of_its_own() -> None:
    own = keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5))
    with pytest.raises(UsageError) as caught:
        schedule(own, scheduler={"Linear": {}})
    assert str(caught.value) == (
        "distiller.optimizer has the schedule ExponentialDecay of its own, and distillation.train.scheduler names "
        "Linear. Keep one of them."
    )
