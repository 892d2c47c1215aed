"""Distillation as a Lightning callback: the trainer alone, the bare hooks, and every way in which a trainer steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from kdhooks import Distillation
from kdhooks.integrations.lightning import DistillationCallback
from tests.torch.hidden_models import weights
from tests.torch.integrations.lightning_parts import (
    Hidden,
    Manual,
    Module,
    fitted,
    layers,
    loader,
    logits,
    quiet,
    trainer,
)
from tests.torch.small_models import Classifier, made, same_weights

pytestmark = quiet


def bare(module: Any, distiller: Distillation, *, every: int = 1, clip: float = 0.0, dtype: Any = None) -> list[float]:
    """The same run in a loop written by hand, with the bare hooks; the losses of its backwards."""
    torch.manual_seed(5)
    optimizer = module.configure_optimizers()
    distiller.student_model = module.model
    seen = []
    distiller.on_train_begin(optimizer=optimizer)
    for _ in range(2):
        for index, (x, y) in enumerate(loader()):
            with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False):
                output = module.model(x)
                total = distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y), target=y)
            seen.append(total / every)
            if index % every == 0:
                optimizer.zero_grad()
            seen[-1].backward()
            if (index + 1) % every == 0 or index == 4:
                if clip:
                    nn.utils.clip_grad_norm_(module.parameters(), clip)
                optimizer.step()
        distiller.on_epoch_end()
    distiller.on_train_end()
    return [one.item() for one in seen]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
        {"plugins": "scaler"},
        {"precision": "64-true"},
        {"max_steps": 7},
        {"limit_train_batches": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Module, Manual])
def test_with_weights_of_zero_the_trainer_does_bit_for_bit_what_it_does_alone(kind: Any, options: Any) -> None:
    if kind is Manual and {"gradient_clip_val", "accumulate_grad_batches"} & set(options):
        options = {}  # Lightning refuses these under manual optimization
    found = []
    for distiller in (None, logits([1, 0])):
        if options.get("plugins"):
            scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
            options = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
        found.append(fitted(kind(), distiller, data=loader(shuffle=True), **options))
    alone, with_hooks = found
    assert same_weights(alone, with_hooks)
    assert alone.seen and all(map(torch.equal, alone.seen, with_hooks.seen))


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "accumulation": ({"accumulate_grad_batches": 2}, {"every": 2}),
    "clipping": ({"gradient_clip_val": 0.05}, {"clip": 0.05}),
    "bf16": ({"precision": "bf16-mixed"}, {"dtype": torch.bfloat16}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("make", [logits, layers])
def test_the_losses_and_weights_are_those_of_the_bare_hooks(case: str, make: Any) -> None:
    options, by_hand = CASES[case]
    kind = Module if make is logits else Hidden
    distiller, twin, module, other = make(), make(), kind(), kind()
    expected = bare(other, twin, **by_hand)
    fitted(module, distiller, **options)
    assert [loss.item() for loss in module.seen] == expected
    assert same_weights(module, other)
    ours, theirs = [record["losses"] for record in distiller.history], [record["losses"] for record in twin.history]
    assert len(ours) == 2 and ours == theirs
    assert [record["learning_rate"] for record in distiller.history] == [0.1, 0.1]
    assert [record["epoch"] for record in distiller.history] == [0, 1]


def test_matchers_train_as_in_the_bare_loop_and_leave_the_users_optimizer_clean() -> None:
    states = []
    for run in (bare, lambda module, distiller: fitted(module, distiller)):
        distiller, module = layers(), Hidden()
        distiller.register_hook("on_train_end", lambda ended: states.append((weights(ended), ended.state_dict())))
        run(module, distiller)
    assert len(states[0][0]) == 2 and all(map(torch.equal, states[0][0], states[1][0]))


def test_manual_optimization_gets_the_totals_of_the_bare_hooks() -> None:
    distiller, twin, module, other = logits(), logits(), Manual(), Manual()
    expected = bare(other, twin)
    fitted(module, distiller)
    assert [loss.item() for loss in module.seen] == expected
    assert same_weights(module, other)


def test_manual_optimization_that_divides_its_loss_says_by_what() -> None:
    distiller, module = logits(), Manual(every=5)
    expected = bare(Module(), twin := logits(), every=5)
    fitted(module, distiller, given={"divided_by": 5})
    assert [loss.item() for loss in module.seen] == pytest.approx(expected, rel=1e-6)
    for record, expect in zip(distiller.history, twin.history, strict=True):
        assert record["losses"] == pytest.approx(expect["losses"], rel=1e-6)


class Adversarial(Module):
    """Two optimizers by hand: a discriminator of the student's output steps first, then the student."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.judge = made(3, lambda: nn.Linear(4, 1))
        self.first = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        student, judge = self.optimizers()  # type: ignore[misc]
        output = self.model(x)
        judge.zero_grad()  # type: ignore[has-type]
        self.manual_backward(self.judge(output.detach()).mean())
        judge.step()  # type: ignore[has-type]
        student.zero_grad()  # type: ignore[has-type]
        self.manual_backward(F.cross_entropy(output, y))
        student.step()  # type: ignore[has-type]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9), torch.optim.SGD(
            self.judge.parameters(), lr=0.1
        )


def test_of_several_losses_the_first_that_the_students_output_is_in_becomes_the_total() -> None:
    distiller, twin, module, other = logits(), logits(), Adversarial(), Module()
    expected = bare(other, twin)
    fitted(module, distiller, given={"student": "model"})
    assert [loss.item() for loss in module.seen[1::2]] == expected
    assert same_weights(module.model, other.model)
    alone = fitted(Adversarial())
    assert same_weights(alone.judge, module.judge) is False  # it judges another student
    assert torch.equal(alone.seen[0], module.seen[0])


def test_manual_losses_that_never_pass_by_are_reported(caplog: Any) -> None:
    class Bypassing(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            F.cross_entropy(self.model(batch[0]), batch[1]).backward()

    with caplog.at_level("WARNING", "kdhooks"):
        fitted(Bypassing(), logits(), epochs=1)
    assert [record.getMessage() for record in caplog.records] == [
        "nothing was distilled in epoch 0: training_step called the student 'model', and no loss that depends on its "
        "output went through self.manual_backward()"
    ]


class Returning(Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.outputs = form, []  # type: ignore[var-annotated]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if self.form == "none":
            return None if batch_idx % 2 else loss
        return {"loss": loss, "more": batch_idx} if self.form == "dict" else loss.reshape(1)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.outputs.append(outputs)


def test_a_mapping_with_the_loss_keeps_what_else_is_in_it() -> None:
    module, plain = Returning("dict"), Module()
    fitted(module, logits())
    fitted(plain, logits())
    assert all(map(torch.equal, module.seen, plain.seen)) and same_weights(module.model, plain.model)
    assert [one["more"] for one in module.outputs] == [0, 1, 2, 3, 4] * 2
    assert [one["loss"].item() for one in module.outputs] == [one.item() for one in plain.seen]


def test_a_loss_with_one_element_is_a_scalar() -> None:
    module, plain = Returning("element"), Module()
    fitted(module, logits())
    fitted(plain, logits())
    assert [one.item() for one in module.seen] == [one.item() for one in plain.seen]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_that_is_skipped_is_no_loss_of_ours() -> None:
    distiller = logits()
    module = fitted(Returning("none"), distiller)
    assert distiller.step == 6 == len(module.seen)
    assert [record["steps"] for record in distiller.history] == [3, 3]


def test_lbfgs_evaluates_the_total_as_often_as_it_wants() -> None:
    class Closures(Module):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)

    distiller = logits()
    module = fitted(Closures(made(1, lambda: Classifier(dropout=0.0))), distiller, epochs=1)
    assert distiller.step == len(module.seen) > 10
    assert distiller.history[0]["losses"]["total"] == pytest.approx(torch.stack(module.seen).mean().item(), rel=1e-5)


def test_the_scaler_scales_the_total_and_matchers_see_what_it_unscales() -> None:
    def half() -> MixedPrecision:
        return MixedPrecision("bf16-mixed", "cpu")  # a scaler works with any dtype: what it scales is compared

    scaled = half()
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    found = []
    for plugin in (half(), scaled):
        distiller, module = layers(), Hidden()
        distiller.register_hook("on_train_end", lambda ended: found.append(weights(ended)))
        fitted(module, distiller, plugins=[plugin], gradient_clip_val=0.05)
        found.append([parameter.detach() for parameter in module.parameters()])
    assert all(map(torch.equal, found[0], found[2])) and all(map(torch.equal, found[1], found[3]))


def test_clipping_looks_at_the_users_parameters_only() -> None:
    norms = []

    class Watching(Hidden):
        def configure_gradient_clipping(
            self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
        ) -> None:
            held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            clipped = list(self.trainer.precision_plugin.main_params(optimizer))
            norms.append((len(held), len(clipped)))
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    module = fitted(Watching(), layers(), gradient_clip_val=0.05)
    own = len(list(module.parameters()))
    assert norms == [(own + 2, own)] * 10
    assert "main_params" not in vars(module.trainer.precision_plugin)


def test_the_student_runs_once_a_step_and_the_teacher_in_evaluation_without_moving() -> None:
    calls = []
    distiller, module = logits(), Module()
    module.model.register_forward_hook(lambda *_: calls.append("student"))
    distiller.teacher_model.register_forward_hook(lambda one, *_: calls.append(("teacher", one.training)))
    before = {name: value.clone() for name, value in distiller.teacher_model.state_dict().items()}
    fitted(module, distiller)
    assert calls == ["student", ("teacher", False)] * 10
    assert all(torch.equal(value, before[name]) for name, value in distiller.teacher_model.state_dict().items())


def test_hooks_of_the_users_are_called_once_an_event_and_steps_are_the_optimizers() -> None:
    distiller, events = logits(), []
    for event in (
        "on_train_begin",
        "on_epoch_begin",
        "on_step_begin",
        "on_after_compute_loss",
        "on_step_end",
        "on_epoch_end",
        "on_train_end",
    ):
        distiller.register_hook(event, lambda _, event=event: events.append(event))  # type: ignore[misc]
    fitted(Module(), distiller, epochs=1, accumulate_grad_batches=2)
    step = ["on_step_begin", "on_after_compute_loss"]
    stepped = [*step, *step, "on_step_end"]
    begin, end = ["on_train_begin", "on_epoch_begin"], ["on_step_end", "on_epoch_end", "on_train_end"]
    assert events == [*begin, *stepped, *stepped, *step, *end]


def test_an_eval_func_of_the_distillers_runs_once_an_epoch() -> None:
    distiller, calls = logits(), []

    def measure(model: nn.Module) -> float:
        assert not model.training
        calls.append(torch.is_grad_enabled())
        return float(len(calls))

    distiller.eval_func = measure
    module = Module()
    module.validation_step = lambda batch, batch_idx: module.log("val", module.model(batch[0]).mean())  # type: ignore[method-assign, assignment]
    trainer(DistillationCallback(distiller), epochs=3).fit(module, loader(), loader())
    assert len(calls) == 3 and distiller.best_score == 3.0
    assert [record["score"] for record in distiller.history] == [1.0, 2.0, 3.0]
    assert distiller.best_model is not None


def test_schedules_count_losses_also_under_accumulation() -> None:
    distiller = logits([1.0, {"linear": {"from": 0, "to": 1, "steps": 10}}])
    fitted(Module(), distiller, accumulate_grad_batches=5)
    assert distiller.step == 10


def test_a_fast_run_of_one_batch() -> None:
    distiller = logits()
    module = Module()
    trainer(DistillationCallback(distiller), fast_dev_run=True).fit(module, loader())
    assert distiller.step == 1 and len(distiller.history) == 1
