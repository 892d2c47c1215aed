"""What the callback leaves alone: copies, pickles, validation, exceptions, teachers; and the other package."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelSummary, StochasticWeightAveraging, WeightAveraging
from torch import nn

from kdhooks import Distillation
from kdhooks.errors import UsageError
from kdhooks.integrations.lightning import DistillationCallback
from tests.torch.hidden_models import Net
from tests.torch.integrations.lightning_parts import Hidden, Module, fitted, layers, loader, logits, quiet, trainer
from tests.torch.small_models import Classifier, made, same_weights

pytestmark = quiet


def is_clean(module: Any) -> bool:
    hooks = [
        one for part in module.modules() for one in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    ]
    return not hooks and "training_step" not in vars(module)


def test_after_the_fit_nothing_of_ours_is_anywhere() -> None:
    distiller, module = layers(), Hidden()
    callback = DistillationCallback(distiller)
    fit = trainer(callback)
    fit.fit(module, loader())
    assert is_clean(module) and is_clean(distiller.teacher_model)
    assert "training_step" not in vars(fit.strategy) and "backward" not in vars(fit.strategy)
    assert distiller.optimizer is None
    assert [len(group["params"]) for group in fit.optimizers[0].param_groups] == [6]
    assert list(module.state_dict()) == list(Hidden().state_dict())
    assert same_weights(pickle.loads(pickle.dumps(module.model)), module.model)


class Copying(Callback):
    """Copies and pickles the module at every event of a step, from inside of training_step too."""

    def __init__(self) -> None:
        self.copies: list[Any] = []

    def take(self, module: Any) -> None:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        self.copies += [copy.deepcopy(module), torch.load(file, weights_only=False)]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.take(pl_module)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        self.take(pl_module)


class CopiesItself(Hidden):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.twin = [copy.deepcopy(self.model), "training_step" in vars(self)]
        return super().training_step(batch, batch_idx)


def test_copies_in_the_middle_of_a_fit_are_clean_and_train_by_themselves() -> None:
    copying, distiller, module = Copying(), layers(), CopiesItself()
    trainer(DistillationCallback(distiller), copying, epochs=1, limit_train_batches=2).fit(module, loader())
    assert len(copying.copies) == 8
    assert module.twin[1] is False
    steps = distiller.step
    for one in (*copying.copies, module.twin[0]):
        assert "training_step" not in vars(one)
        network = getattr(one, "model", one)
        x, y = next(iter(loader()))
        F.cross_entropy(network(x), y).backward()  # what is left of hooks takes itself off
        assert is_clean(network)
    assert distiller.step == steps
    fresh = copying.copies[2]
    fresh.twin = None
    trainer(epochs=1).fit(fresh, loader())


@pytest.mark.parametrize(
    "make",
    [lambda: WeightAveraging(avg_fn=lambda a, b, n: a + (b - a) * 0.5), lambda: StochasticWeightAveraging(0.05, 1)],
    ids=["ema", "swa"],
)
@pytest.mark.filterwarnings(
    "ignore:.*lr_scheduler.*", "ignore:Swapping scheduler", "ignore:SWA is currently only supported every epoch"
)
def test_averages_of_weights_are_those_of_the_distilled_student(make: Any) -> None:
    found = []
    for first in (True, False):
        module, distiller = Module(made(1, Net)), layers()
        torch.manual_seed(5)
        callbacks = [DistillationCallback(distiller), make()]
        trainer(*(callbacks if first else callbacks[::-1]), epochs=3).fit(module, loader())
        assert is_clean(module) and distiller.step == 15
        found.append(module)
    assert same_weights(*found)


def test_validation_tests_and_predictions_are_untouched() -> None:
    class Full(Module):
        def __init__(self) -> None:
            super().__init__()
            self.modes: list[Any] = []

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            output = self.model(batch[0])
            self.modes.append(output.requires_grad)
            return F.cross_entropy(output, batch[1])

        test_step = validation_step

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self.model(batch[0])

    distiller, module = logits(), Full()
    calls: list[int] = []
    distiller.teacher_model.register_forward_hook(lambda *_: calls.append(1))
    fit = trainer(DistillationCallback(distiller), epochs=1)
    plain = trainer(epochs=1)
    expected = [torch.cat(plain.predict(Full(), loader())), plain.validate(Full(), loader(), verbose=False)]
    assert torch.equal(torch.cat(fit.predict(module, loader())), expected[0])
    assert fit.validate(module, loader(), verbose=False) == expected[1]
    fit.test(module, loader(), verbose=False)
    assert not calls and distiller.step == 0 and is_clean(module) and fit.callback_metrics == {}
    fit.fit(module, loader(), loader())
    assert len(calls) == 5 == distiller.step
    assert set(module.modes) == {False}
    fit.validate(module, loader(), verbose=False)
    assert len(calls) == 5 and len(distiller.history) == 1


@pytest.mark.parametrize("where", ["on_train_start", "training_step", "on_train_epoch_end"])
def test_an_exception_detaches(where: str) -> None:
    module = Hidden()

    def fail(*_: Any) -> None:
        raise KeyError(where)

    setattr(module, where, fail)
    distiller, ended = layers(), []
    distiller.register_hook("on_train_end", ended.append)
    fit = trainer(DistillationCallback(distiller))
    with pytest.raises(KeyError, match=where):
        fit.fit(module, loader())
    delattr(module, where)
    assert is_clean(module) and is_clean(distiller.teacher_model) and ended == [distiller]
    assert "training_step" not in vars(fit.strategy)
    fitted(module, distiller)  # and the next fit begins anew
    assert distiller.step == 10


def test_an_interrupted_fit_detaches() -> None:
    class Interrupted(Hidden):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            raise KeyboardInterrupt

    module, distiller = Interrupted(), layers()
    with pytest.raises(SystemExit):
        trainer(DistillationCallback(distiller)).fit(module, loader())
    assert is_clean(module) and is_clean(distiller.teacher_model)


def test_the_teacher_is_no_part_of_the_module() -> None:
    seen: dict[str, Any] = {}

    class Looking(Module):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen["names"] = [name for name, _ in self.named_modules()]
            seen["parameters"] = len(list(self.parameters()))
            seen["summary"] = ModelSummary(max_depth=-1)._summary(self.trainer, self).total_parameters

    module, distiller = Looking(), logits()
    own = [len(list(module.parameters())), sum(one.numel() for one in module.parameters())]
    names = [name for name, _ in module.named_modules()]
    fitted(module, distiller)
    assert seen == {"names": names, "parameters": own[0], "summary": own[1]}
    theirs = {id(one) for one in distiller.teacher_model.parameters()}
    optimizers = module.trainer.optimizers
    assert not any(id(one) in theirs for group in optimizers[0].param_groups for one in group["params"])


def test_the_teacher_goes_where_the_trainer_trains_and_back() -> None:
    class Elsewhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.went = nn.Parameter(torch.zeros(1)), []  # type: ignore[var-annotated]

        def to(self, device: Any) -> Any:
            self.went.append(torch.device(device).type)
            return self

    teachers = [Elsewhere(), Elsewhere()]
    teachers[1].weight = nn.Parameter(torch.zeros(1, device="meta"))  # its user's own choice
    callback = DistillationCallback(Distillation(teacher_model=teachers))
    callback._move_teachers(torch.device("cuda", 0))
    callback.teardown(None, None, "fit")
    assert [one.went for one in teachers] == [["cuda", "cpu"], []]
    callback._move_teachers(torch.device("cpu"))
    assert callback._moved == []


def test_a_distiller_that_its_user_ends_in_the_middle_is_an_error() -> None:
    class Ending(Module):
        def on_train_epoch_end(self) -> None:
            distiller.on_train_end()

    distiller = logits()
    with pytest.raises(UsageError) as error:
        fitted(Ending(), distiller)
    assert str(error.value) == "call on_train_begin() before on_epoch_begin()"


def test_a_frozen_layer_is_free_again_afterwards() -> None:
    conf = {
        "finetune": {"freeze": ["body.*"]},
        "distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": {}}}},
    }
    module, distiller = Module(), Distillation(conf, teacher_model=made(2, lambda: Classifier(16)))
    before = module.model.body[0].weight.detach().clone()
    fitted(module, distiller)
    assert torch.equal(before, module.model.body[0].weight)
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.filterwarnings("ignore:.*pkg_resources.*", "ignore:.*LeafSpec.*")
def test_the_package_of_the_other_name_trains_alike() -> None:
    import pytorch_lightning

    from kdhooks.integrations.pytorch_lightning import DistillationCallback as Other

    class Twin(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = made(1, Classifier)

        training_step = Module.training_step
        configure_optimizers = Module.configure_optimizers
        lr = 0.1

    ours, theirs, module = logits(), logits(), Twin()
    plain = fitted(Module(), ours)
    torch.manual_seed(5)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pytorch_lightning.Trainer(callbacks=[Other(theirs)], accelerator="cpu", devices=1, max_epochs=2, **quiet).fit(
        module, loader()
    )  # type: ignore[arg-type]
    assert [one["losses"] for one in ours.history] == [one["losses"] for one in theirs.history]
    assert same_weights(plain.model, module.model)
