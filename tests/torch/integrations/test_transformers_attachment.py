"""How the callback is on a `Trainer` and off it again, whatever happens in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from kdhooks import Distillation
from kdhooks.errors import UsageError
from kdhooks.integrations.transformers import DistillationCallback
from kdhooks.torch import LargeVocabularyDistillationLoss
from tests.torch.integrations.trainer_parts import callback, conf, llama, losses, rows, same, trainer, weights


def hooks_of(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )


def is_clean(made: Any, back: DistillationCallback) -> None:
    """Nothing of ours is on the models, the optimizer or the trainer, but the guard of `train`."""
    teacher = back.distiller.teacher_model
    assert hooks_of(made.model) == hooks_of(teacher) == 0
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert not {"compute_loss", "get_batch_samples", "log", "_run_epoch"} & set(vars(made))
    own = {id(parameter) for parameter in made.model.parameters()}
    assert all(id(one) in own for group in made.optimizer.param_groups for one in group["params"])
    assert back.distiller.optimizer is None


class Fails(TrainerCallback):  # type: ignore[misc]
    """Raises at one event of the second step."""

    def __init__(self, event: str) -> None:
        self.event, self.calls = event, 0

    def __getattribute__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "event"):
            return self.fail
        return object.__getattribute__(self, name)

    def fail(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt("stopped")


def test_after_the_training_nothing_of_ours_is_left(tmp_path: Path) -> None:
    back = callback("causal", pairs=[["model.norm"]])
    made = trainer(llama(1), tmp_path, "causal", back)
    assert back.trainer is made
    made.train()
    is_clean(made, back)
    assert sorted(back.distiller.losses) == ["CE", "KL", "MSE[model.norm]", "total"]
    torch.save(made.model.state_dict(), tmp_path / "model.pt")


@pytest.mark.parametrize("event", ["on_step_begin", "on_optimizer_step", "on_step_end", "on_log"])
@pytest.mark.parametrize("late", [False, True])
def test_a_training_that_raises_leaves_nothing(event: str, late: bool, tmp_path: Path) -> None:
    back = callback("causal", pairs=[["model.norm"]])
    made = trainer(llama(1), tmp_path, "causal", None if late else back)
    if late:
        made.add_callback(back)
    made.add_callback(Fails(event))
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        made.train()
    is_clean(made, back)
    made.train()  # and works again
    assert len(losses(made, "kd_KL")) == 4
    is_clean(made, back)


def test_a_loss_that_raises_leaves_nothing(tmp_path: Path) -> None:
    def bad(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        raise ArithmeticError("no loss")

    back = callback("causal", pairs=[["model.norm"]])
    made = trainer(llama(1), tmp_path, "causal", back, given={"compute_loss_func": bad})
    with pytest.raises(ArithmeticError, match="no loss"):
        made.train()
    is_clean(made, back)


def test_a_callback_that_was_taken_off_does_nothing(tmp_path: Path) -> None:
    alone, back = trainer(llama(1), tmp_path / "alone", "causal"), callback("causal")
    made = trainer(llama(1), tmp_path / "both", "causal", back)
    made.remove_callback(back)
    alone.train()
    made.train()
    assert same(weights(alone.model), weights(made.model)) and not losses(made, "kd_KL")


def test_one_callback_serves_two_trainers_one_after_the_other(tmp_path: Path) -> None:
    back = callback("causal")
    made = [trainer(llama(seed), tmp_path / str(seed), "causal", back, max_steps=2) for seed in (1, 2)]
    for one in made:
        one.train()
        assert len(losses(one, "kd_KL")) == 2
        is_clean(one, back)
    assert losses(made[0], "kd_KL") != losses(made[1], "kd_KL")


def test_models_that_are_made_for_each_training(tmp_path: Path) -> None:
    back = callback("causal", pairs=[["model.norm"]])
    made = trainer(None, tmp_path, "causal", back, given={"model_init": lambda: llama(1)})  # type: ignore[arg-type]
    made.train()
    first, found = weights(made.model), losses(made, "kd_KL")
    made.train()
    assert same(weights(made.model), first) and losses(made, "kd_KL") == found
    is_clean(made, back)


def test_a_search_over_hyperparameters(tmp_path: Path) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    back = callback("causal")
    given = {"model_init": lambda: llama(1), "eval_dataset": rows("causal", 4, seed=7)}
    made = trainer(None, tmp_path, "causal", back, given=given, max_steps=2, save_strategy="steps", save_steps=2)  # type: ignore[arg-type]
    best = made.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)},
        backend="optuna",
        n_trials=2,
        sampler=optuna.samplers.RandomSampler(seed=1),
    )
    assert best.objective > 0
    assert back.distiller.student_model is not None and hooks_of(back.distiller.student_model) == 0
    assert len(list(tmp_path.glob("run-*/checkpoint-2/kdhooks.pt"))) == 2


class CallsACopy(Trainer):
    """A mistake: the loss comes from another model than the one that is trained."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        outputs = llama(3)(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        DistillationCallback("kd.yaml")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "DistillationCallback takes a kdhooks.Distillation, not str: "
        "DistillationCallback(Distillation('kd.yaml', teacher_model=teacher))"
    )
    with pytest.raises(UsageError, match=r"^teacher_inputs must be a function of a batch, not str$"):
        DistillationCallback(Distillation(), teacher_inputs="input_ids")  # type: ignore[arg-type]

    back = callback("causal")
    back.distiller.student_model = llama(2)
    made = trainer(llama(1), tmp_path / "other", "causal", back)
    with pytest.raises(UsageError) as caught:
        made.train()
    assert str(caught.value) == (
        "the Trainer trains another model than distiller.student_model, a LlamaForCausalLM: leave student_model out, "
        "or give the Trainer this very model"
    )

    made = trainer(llama(1), tmp_path / "copy", "causal", callback("causal"), CallsACopy)
    with pytest.raises(UsageError) as caught:
        made.train()
    assert str(caught.value) == (
        "CallsACopy.compute_loss never called the model that it was given, so there is no output of the student to "
        "distil: call model(...) there, not a copy of it"
    )

    back = callback("causal")
    made = trainer(llama(1), tmp_path / "parallel", "causal", back)
    made.args._n_gpu = 2
    with pytest.raises(UsageError) as caught:
        back.on_train_begin(made.args, made.state, made.control, model=made.model)
    assert str(caught.value) == (
        "the Trainer would copy the student to 2 GPUs with nn.DataParallel, which distillation can't follow: start one "
        "process a GPU with torchrun, or set CUDA_VISIBLE_DEVICES to one of them"
    )
    with pytest.raises(UsageError) as caught:
        callback("causal").on_train_begin(made.args, made.state, made.control, model=made.model)
    assert str(caught.value) == (
        "the Trainer of this callback was not found: call callback.attach(trainer) before train()"
    )


def test_labels_are_shifted_once(tmp_path: Path) -> None:
    distiller = Distillation(teacher_model=llama(9))
    distiller.criterion = LargeVocabularyDistillationLoss("lm_head", add_origin_loss=True, shift=True)
    made = trainer(llama(1), tmp_path / "twice", "causal", DistillationCallback(distiller))
    with pytest.raises(UsageError) as caught:
        made.train()
    assert str(caught.value) == (
        "the labels of a causal model are shifted by DistillationCallback already: leave out shift: true in "
        "LargeVocabularyDistillationLoss"
    )
    found = []
    for chunked in (True, False):
        distiller = Distillation(conf(weights=(0.5, 0.5)), teacher_model=llama(9))
        if chunked:
            distiller.criterion = LargeVocabularyDistillationLoss("lm_head", add_origin_loss=True, temperature=2.0)
        made = trainer(llama(1), tmp_path / str(chunked), "causal", DistillationCallback(distiller))
        made.train()
        found.append(losses(made))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
