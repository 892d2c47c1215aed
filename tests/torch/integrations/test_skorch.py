"""`DistillationCallback` in skorch nets."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, Checkpoint, LoadInitState
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.errors import CheckpointError, ConfigError, UsageError
from kdhooks.integrations.skorch import DistillationCallback
from kdhooks.torch import KnowledgeDistillationLoss
from tests.torch.hidden_models import Net, criterion
from tests.torch.small_models import kd_conf, made, same_weights

X = np.random.default_rng(3).normal(size=(40, 6)).astype("float32")
Y = (X[:, :4].argmax(1)).astype("int64")


class Student(Net):
    """With dropout, which draws from the generator."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = F.dropout(super().forward(x), 0.1, self.training)
        return output


class Probabilities(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


def teacher(kind: type[Net] = Net) -> Any:
    return made(2, lambda: kind(12))


def criteria(zero: bool = False) -> list[Any]:
    found: list[Any] = [KnowledgeDistillationLoss(2.0, ["CE", "KL"], [1.0, 0.0] if zero else [0.5, 0.5])]
    return found if zero else [*found, criterion(add_origin_loss=False)]


def no_criteria() -> list[Any]:
    return criteria(zero=True)


def net(*callbacks: Any, module: Any = Student, loss: Any = nn.CrossEntropyLoss, **options: Any) -> NeuralNetClassifier:
    given = {"max_epochs": 3, "lr": 0.1, "batch_size": 8, "optimizer__momentum": 0.9, "verbose": 0} | options
    return NeuralNetClassifier(module, criterion=loss, callbacks=list(callbacks), iterator_train__shuffle=True, **given)


def fitted(*callbacks: Any, **options: Any) -> NeuralNetClassifier:
    torch.manual_seed(5)
    return net(*callbacks, **options).fit(X, Y)


class Forbidden(nn.Module):
    """A teacher that must not be asked."""

    def forward(self, *args: Any) -> Any:
        raise AssertionError("the teacher ran")


def rows(history: Any) -> list[dict[str, Any]]:
    """What a history says of losses, without durations."""
    left = ("dur", "batches", "kd_", "valid_acc_best")  # a resumed `EpochScoring` has forgotten its best
    return [{key: value for key, value in row.items() if not key.startswith(left)} for row in history]


def test_with_zero_weights_the_net_does_bit_for_bit_what_it_did() -> None:
    expected = fitted()
    found = fitted(DistillationCallback(Forbidden(), criterion=no_criteria))
    assert same_weights(found.module_, expected.module_)
    assert rows(found.history) == rows(expected.history)
    assert found.history[:, "kd_CE"] == found.history[:, "kd_total"]


def test_losses_and_weights_are_those_of_the_bare_hooks() -> None:
    class ByHand(NeuralNetClassifier):
        """Calls the hooks in `train_step_single`, as a loop of one's own does."""

        distiller: Any = None
        seen: Any = None

        def train_step_single(self, batch: Any, **fit_params: Any) -> Any:
            self._set_training(True)
            x, y = batch
            output = self.infer(x)
            loss = self.get_loss(output, y, X=x, training=True)
            loss = self.distiller.on_after_compute_loss(x, output, loss, target=y)
            loss.backward()
            self.seen.append(self.distiller.losses)
            return {"loss": loss, "y_pred": output}

    torch.manual_seed(5)
    bare = ByHand(
        Student, criterion=nn.CrossEntropyLoss, max_epochs=3, lr=0.1, batch_size=8, optimizer__momentum=0.9, verbose=0,
        iterator_train__shuffle=True,
    ).initialize()  # fmt: skip
    ByHand.seen, ByHand.distiller = [], Distillation(student_model=bare.module_, teacher_model=teacher())
    ByHand.distiller.criterion = criteria()
    with ByHand.distiller:
        bare.partial_fit(X, Y)
    losses, names = ByHand.seen, ["CE", "KL", "MSE[first]", "MSE[head]", "total"]

    found = fitted(DistillationCallback(teacher(), criterion=criteria))
    assert same_weights(found.module_, bare.module_)
    batches = [batch for epoch in found.history for batch in epoch["batches"] if "kd_CE" in batch]
    assert [{name: batch[f"kd_{name}"] for name in names} for batch in batches] == losses and len(losses) == 12
    assert [batch["train_loss"] for batch in batches] == [batch["kd_total"] for batch in batches]
    for epoch in range(3):
        for name in names:
            mean = np.mean([one[name] for one in losses[epoch * 4 : epoch * 4 + 4]])
            assert found.history[epoch, f"kd_{name}"] == pytest.approx(mean, rel=1e-6)
    assert found.history[:, "valid_loss"] == bare.history[:, "valid_loss"]


@pytest.mark.parametrize("taught", [Net, Probabilities])
def test_probabilities_are_as_good_as_logits(taught: Any) -> None:
    """A net with the `NLLLoss` of `NeuralNetClassifier` and one with cross-entropy learn the same."""

    def run(module: Any, loss: Any) -> NeuralNetClassifier:
        callback = DistillationCallback(teacher(taught), kd_conf([0.3, 0.7]))
        torch.manual_seed(5)
        return net(callback, module=made(1, module), loss=loss).fit(X, Y)

    logits, probabilities = run(Net, nn.CrossEntropyLoss), run(Probabilities, nn.NLLLoss)
    for name in ("kd_CE", "kd_KL", "train_loss", "valid_loss"):
        assert probabilities.history[:, name] == pytest.approx(logits.history[:, name], rel=1e-3)
    np.testing.assert_allclose(probabilities.predict_proba(X).sum(1), 1, rtol=1e-5)


def test_a_fitted_net_is_a_teacher() -> None:
    taught = made(2, lambda: Probabilities(12))
    one = fitted(DistillationCallback(teacher(Probabilities), kd_conf()))
    other_teacher = NeuralNetClassifier(taught, verbose=0).initialize()
    other = fitted(DistillationCallback(other_teacher, kd_conf()))
    assert same_weights(one.module_, other.module_)


class Looking(Callback):
    """Pickles and copies the net while it trains, and remembers its parameters' names."""

    def on_batch_end(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        if training and not hasattr(self, "copies_"):
            self.copies_ = [pickle.loads(pickle.dumps(net)), copy.deepcopy(net)]
            self.names_ = sorted(net.get_params(deep=False))


def hooks_of(*modules: nn.Module) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for part in modules for one in part.modules())


def test_nothing_stays_on_the_net_and_copies_made_on_the_way_work() -> None:
    looking, taught, plain = Looking(), teacher(), net()
    found = fitted(DistillationCallback(taught, criterion=criteria), looking)
    assert hooks_of(found.module_, found.criterion_, taught) == 0
    assert taught.training and all(parameter.requires_grad for parameter in taught.parameters())
    assert set(vars(found)) - set(vars(plain.initialize())) == {"classes_inferred_", "distillation_"}
    assert looking.names_ == sorted(plain.get_params(deep=False)) == sorted(found.get_params(deep=False))
    assert len(found.optimizer_.param_groups[0]["params"]) == 6
    assert [name for name, _ in found.callbacks_ if "kdhooks" in name] == []
    for one in (*looking.copies_, pickle.loads(pickle.dumps(found))):
        assert one.predict(X).shape == (40,)
        one.module_(torch.zeros(2, 6)).sum().backward()
        one.criterion_(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
        assert hooks_of(one.module_, one.criterion_) == 0
        assert "kd_KL" in one.partial_fit(X, Y, epochs=1).history[-1]
    assert list(found.module_.state_dict()) == list(Student().state_dict())


class Breaking(Callback):
    def __init__(self, event: str, error: type[BaseException]) -> None:
        self.event, self.error = event, error

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self._break("begin")

    def on_batch_end(self, net: Any, **kwargs: Any) -> None:
        self._break("batch")

    def _break(self, event: str) -> None:
        if event == self.event:
            raise self.error


@pytest.mark.parametrize(
    ("event", "error"), [("begin", ZeroDivisionError), ("batch", ZeroDivisionError), ("batch", KeyboardInterrupt)]
)
def test_an_error_leaves_nothing_either(event: str, error: type[BaseException]) -> None:
    taught = teacher()
    one = net(DistillationCallback(taught, criterion=criteria), Breaking(event, error))
    if error is KeyboardInterrupt:  # skorch takes that for a wish to stop
        one.fit(X, Y)
    else:
        with pytest.raises(error):
            one.fit(X, Y)
    assert hooks_of(one.module_, one.criterion_, taught) == 0
    assert "fit_loop" not in vars(one) and "get_loss" not in vars(one)
    again = clone(one)
    again.set_params(callbacks__Breaking=None)
    assert "kd_KL" in again.fit(X, Y).history[-1]


def test_clones_share_the_teacher_and_nothing_else() -> None:
    one = fitted(DistillationCallback(teacher(), criterion=criteria))
    other = clone(one)
    mine, theirs = one.callbacks[0], other.callbacks[0]
    assert theirs is not mine and theirs.teacher_model is mine.teacher_model
    assert theirs.distiller_ is None and theirs.state_ is None
    torch.manual_seed(5)
    assert same_weights(other.fit(X, Y).module_, one.module_)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_search_over_a_grid_distils_in_every_fit() -> None:
    confs = [kd_conf([1.0, 0.0]), kd_conf([0.0, 1.0])]
    grid = {"callbacks__DistillationCallback__conf": confs, "lr": [0.1]}
    search = GridSearchCV(net(DistillationCallback(teacher()), train_split=None), grid, cv=2, refit=True)
    torch.manual_seed(5)
    search.fit(X, Y)
    assert search.best_estimator_.callbacks[0].conf in confs
    assert "kd_total" in search.best_estimator_.history[-1]
    assert len(search.cv_results_["params"]) == 2


def test_going_on_with_partial_fit_keeps_matchers_and_steps() -> None:
    torch.manual_seed(5)
    one = net(DistillationCallback(teacher(), criterion=criteria)).initialize()
    one.partial_fit(X, Y, epochs=2)
    callback = one.callbacks_[[name for name, _ in one.callbacks_].index("DistillationCallback")][1]
    before = callback.state_dict()["distillation"]
    assert before["step"] == 8 and "rng" not in before
    one.partial_fit(X, Y, epochs=1)
    assert callback.state_dict()["distillation"]["step"] == 12
    assert [record["epoch"] for record in callback.distiller_.history] == [0, 1, 2]
    assert same_weights(one.module_, fitted(DistillationCallback(teacher(), criterion=criteria)).module_)
    one.fit(X, Y)  # begins anew
    assert callback.state_dict()["distillation"]["step"] == 12


# ---- checkpoints -----------------------------------------------------------------------------------


def kept(folder: Path, *, epochs: int, seed: int, **options: Any) -> NeuralNetClassifier:
    """A net that writes a checkpoint at every epoch and begins with what is there."""
    checkpoint = Checkpoint(monitor=None, dirname=str(folder), f_distillation="distillation.pt", sink=refuse)
    callback = DistillationCallback(teacher(), **({"criterion": criteria} | options))
    torch.manual_seed(seed)
    return net(callback, checkpoint, LoadInitState(checkpoint), max_epochs=epochs).fit(X, Y)


def refuse(text: str) -> None:
    if text.startswith("Unable"):
        raise AssertionError(text)


def test_a_resumed_fit_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = kept(tmp_path / "whole", epochs=5, seed=5)
    kept(tmp_path / "part", epochs=2, seed=5)
    resumed = kept(tmp_path / "part", epochs=3, seed=99)  # whose generators come from the checkpoint
    assert same_weights(resumed.module_, whole.module_)
    assert rows(resumed.history) == rows(whole.history)
    for name in ("kd_KL", "kd_MSE[first]"):
        assert resumed.history[:, name] == whole.history[:, name]
    assert resumed.callbacks[0].distiller_.step == 20
    state = torch.load(tmp_path / "part" / "distillation.pt", weights_only=True)
    assert sorted(state) == ["distillation", "format", "version"]
    plain = net().initialize()
    plain.load_params(f_params=tmp_path / "part" / "params.pt", f_optimizer=tmp_path / "part" / "optimizer.pt")
    assert same_weights(plain.module_, whole.module_)
    json.loads((tmp_path / "part" / "history.json").read_text())


def test_a_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    kept(tmp_path, epochs=1, seed=5)

    def error(**options: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            kept(tmp_path, epochs=1, seed=5, **options)
        return str(caught.value)

    assert error(criterion=no_criteria) == (
        "this state holds 1 criteria with parameters, and this run has 0: it belongs to another configuration"
    )
    file = tmp_path / "distillation.pt"
    state = torch.load(file, weights_only=True)
    torch.save(state | {"version": 2}, file)
    assert error() == "this is of version 2, and this kdhooks reads up to version 1: update kdhooks"
    torch.save(state["distillation"], file)
    assert error() == "this is not a state of kdhooks with skorch"


# ---- errors ----------------------------------------------------------------------------------------


def test_errors_say_what_to_do() -> None:
    def error(*callbacks: Any, kind: Any = UsageError, **options: Any) -> str:
        with pytest.raises(kind) as caught:
            fitted(*callbacks, **options)
        return str(caught.value)

    assert error(DistillationCallback(Net)) == "the teacher is a class, Net: give a trained instance of it"
    assert error(DistillationCallback(NeuralNetClassifier(Net))) == (
        "the teacher NeuralNetClassifier is neither an nn.Module nor a fitted net: call its fit(...), or initialize() "
        "and load_params(...), first"
    )
    assert error(DistillationCallback(teacher()), DistillationCallback(teacher())) == (
        "a net has one DistillationCallback: give one the criteria and the teachers of both"
    )
    assert error(DistillationCallback(teacher(), criterion=criteria()[0])) == (
        "criterion is a KnowledgeDistillationLoss: give a function that makes it, since nets are cloned and pickled"
    )
    assert "unknown key" in error(DistillationCallback(teacher(), {"distilation": {}}), kind=ConfigError)
    with pytest.raises(UsageError, match=r"^there is no state of a distillation yet: net.fit\(...\) comes first$"):
        DistillationCallback(teacher()).state_dict()


def test_a_net_that_never_asks_its_criterion_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Own(NeuralNetClassifier):
        def get_loss(self, y_pred: Tensor, y_true: Any, *args: Any, **kwargs: Any) -> Tensor:
            return F.cross_entropy(y_pred, y_true)

    with caplog.at_level(logging.WARNING, "kdhooks"):
        Own(
            Net, criterion=nn.CrossEntropyLoss, max_epochs=1, verbose=0, callbacks=[DistillationCallback(teacher())]
        ).fit(X, Y)
    assert caplog.messages == [
        "nothing was distilled: the net's criterion was not called with what its module returned"
    ]
