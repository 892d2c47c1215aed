"""What is wrong with a run that adapts to a domain, word for word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdhooks import Distillation
from kdhooks.errors import KDHooksError
from tests.torch.domain_runs import DANN, MORE, conf, data, one, student

AT = "<dict>: domain_adaptation.criterion"


def told(settings: Any, batch: Any = None, *, model: Any = None, **given: Any) -> str:
    model = student() if model is None else model
    distiller = Distillation(settings, student_model=model)
    with pytest.raises(KDHooksError) as caught, distiller:
        one(distiller, model, data(1)[0] if batch is None else batch, **given)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return str(caught.value)


def test_a_target_batch_is_missing() -> None:
    assert told(conf(), target_input=None) == (
        "domain adaptation needs a batch of the target domain at this step: hand it to the hook, as in "
        "distiller.on_after_compute_loss(x, output, loss, target_input=x_target)"
    )


def test_a_target_batch_that_nothing_looks_at() -> None:
    assert told({}) == (
        "target_input is for domain adaptation, and this run has none: write a section domain_adaptation, as in "
        "domain_adaptation: {criterion: {DANN: {layer: avgpool}}}"
    )
    assert told(conf(), target_input=None, target_labels=torch.zeros(3)) == (
        "target_labels are labels of target_input, which is missing: hand in both"
    )


def test_a_layer_that_there_is_not() -> None:
    assert told(conf({"DANN": {"layer": "bodi.2"}})) == (
        f"{AT}.DANN.layer: student Student has no layer 'bodi.2'\n"
        "  Did you mean 'body.2'? All layers: kdhooks layers MODEL"
    )
    assert told(conf({"MCD": {"head": "haed"}})) == (
        f"{AT}.MCD.head: student Student has no layer 'haed'\n  Did you mean 'head'? All layers: kdhooks layers MODEL"
    )


def test_a_layer_that_does_not_run() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.other = student(), nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return self.inner(x)

    assert told(conf({"DANN": {"layer": "other"}}), model=Unused()) == (
        f"{AT}.DANN.layer: student Unused: layer 'other' did not run at this step\n"
        "  Map a layer that every forward calls; the student's forward must come before the loss, with gradients, and "
        "not in a function that torch.compile had traced before."
    )


def test_a_discriminator_of_another_width() -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Identity(), nn.AdaptiveAvgPool1d(3)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(x * torch.ones((), requires_grad=True)))

    model = Growing()
    distiller = Distillation(conf({"DANN": {"layer": "body"}}), student_model=model)
    x, y, t = data(1)[0]
    with distiller:
        one(distiller, model, (x, y, t))
        with pytest.raises(KDHooksError) as caught:
            one(distiller, model, (x[:, :4], y, t[:, :4]))
    assert str(caught.value) == (
        f"{AT}.DANN: the discriminator of 'dann' was made for rows of 5 numbers, and gets rows of 4; the first batch "
        "decides, so make a new adapter for another model"
    )


def test_domains_of_different_widths() -> None:
    class Any_(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Identity(), nn.AdaptiveAvgPool1d(3)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(x * torch.ones((), requires_grad=True)))

    x, y, t = data(1)[0]
    assert told(conf({"CORAL": {"layer": "body"}}), (x, y, t[:, :4]), model=Any_()) == (
        f"{AT}.CORAL: the adapter 'coral' needs features of one width in both domains; the source's has shape [8, 5] "
        "and the target's [6, 4]"
    )


def test_labels_of_the_source_are_missing() -> None:
    assert told(conf({"MCD": {"head": "head"}}), target=None) == (
        "the adapter 'mcd' needs the source's labels: pass target= to on_after_compute_loss"
    )


def test_labels_of_the_target_that_do_not_fit() -> None:
    assert told(conf({"MCC": {}}), target_labels=torch.zeros(4, dtype=torch.long)) == (
        "target_labels must be class numbers for logits of shape [6, 3], and are of shape [4]"
    )


def test_a_joint_forward_of_batches_that_do_not_fit() -> None:
    x, y, t = data(1)[0]
    assert told(conf(joint_forward=True), (x, y, t[:, :4])) == (
        "joint_forward needs batches of one form: input is a tensor of shape [8, 5] and target_input is a tensor of "
        "shape [6, 4]"
    )

    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(5, 7), nn.Linear(7, 3)
            self.turn = nn.Identity()

        def forward(self, x: Any) -> Any:
            return self.head(self.turn(self.body(x).T).T)

    assert told(conf({"MK_MMD": {"layer": "turn"}}, joint_forward=True), model=Swapped()) == (
        "joint_forward: layer 'turn' is a tensor of shape [7, 14], whose first axis does not count the 8 rows of "
        "input and 6 of target_input"
    )


def test_adabn_without_data_or_without_batch_norm() -> None:
    model = student()
    distiller = Distillation(conf({"AdaBN": {}}), student_model=model)
    distiller.on_train_begin()
    with pytest.raises(KDHooksError) as caught:
        distiller.on_epoch_end()
    assert str(caught.value) == (
        f"{AT}.AdaBN: reads the target domain at each epoch's end, and there is nothing to read\n"
        "  Set distiller.target_dataloader, or name a dataset in domain_adaptation.dataloader."
    )
    distiller.on_train_end()
    distiller = Distillation(conf({"AdaBN": {}}), student_model=nn.Linear(5, 3))
    distiller.target_dataloader = [t for _, _, t in data()]
    distiller.on_train_begin()
    with pytest.raises(KDHooksError) as caught:
        distiller.on_epoch_end()
    assert str(caught.value) == (
        f"{AT}.AdaBN: Linear has no BatchNorm that keeps statistics, so AdaBN has nothing to adapt"
    )
    distiller.on_train_end()


def test_an_optimizer_of_the_adversary_that_there_is_not() -> None:
    settings = conf(DANN, alternating=True, adversary={"optimizer": {"Adamm": {}}})
    assert told(settings) == (
        "<dict>: domain_adaptation.adversary.optimizer.Adamm: unknown optimizer 'Adamm'\n  Did you mean 'Adam'?"
    )


def test_fit_without_a_target_domain() -> None:
    distiller = Distillation(conf(), student_model=student())
    distiller.train_dataloader = [(x, y) for x, y, _ in data()]
    with pytest.raises(KDHooksError) as caught:
        distiller.fit()
    assert str(caught.value) == (
        "there is no target domain to adapt to: set distiller.target_dataloader, or name a dataset in "
        "domain_adaptation.dataloader"
    )
    distiller = Distillation(conf(), student_model=student())
    distiller.train_dataloader, distiller.target_dataloader = [(x, y) for x, y, _ in data()], []
    with pytest.raises(KDHooksError) as caught:
        distiller.fit()
    assert str(caught.value) == ("the target_dataloader had no batch; a generator can be iterated over only once")


def test_a_loss_without_gradients_says_what_is_missing() -> None:
    model = student()
    distiller = Distillation(conf(), student_model=model)
    x, y, t = data(1)[0]
    with pytest.raises(KDHooksError) as caught, distiller, torch.no_grad():
        output = model(x)
        distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y), target_input=t[:MORE])
    assert "layer 'body.2' did not run at this step" in str(caught.value)
