"""Whose rows they are: fingerprints, changed weights, precisions, and what auto chose."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.cache import maintenance
from kdhooks.speed import Choice
from kdhooks.torch.fingerprints import options_of, versions_of
from tests.torch.small_models import made
from tests.torch.stored_runs import IMAGES, LABELS, LAYERS, LOGITS, Net, configured, run, student, teacher


class Scaled(nn.Module):
    """A classifier with options that are no tensors."""

    def __init__(self, *, scale: float = 1.0, act: Any = torch.tanh, drop: float = 0.0) -> None:
        super().__init__()
        self.scale, self.act = scale, act
        self.drop, self.head = nn.Dropout(drop), nn.Linear(72, 7)
        self.register_buffer("shift", torch.zeros(7))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.drop(self.act(x.flatten(1) * self.scale))) + self.shift
        return output


class Other(Scaled):
    """The same weights and options, of another class."""


def redefined(factor: float) -> type[Scaled]:
    """A class as a notebook has it: no file has its source, and a second definition has the name of the first."""
    scope: dict[str, Any] = {"Scaled": Scaled, "__name__": "notebook"}
    lines = ["class Cell(Scaled):", "    def forward(self, x):", f"        return super().forward(x) * {factor}"]
    exec("\n".join(lines), scope)
    kind: type[Scaled] = scope["Cell"]
    return kind


def scaled(kind: type[Scaled] = Scaled, **options: Any) -> Scaled:
    return made(3, lambda: kind(**options)).eval()


def forwards(store: Path, taught: Any, criterion: dict[str, Any] = LOGITS, **options: Any) -> list[int]:
    return run(configured(store, criterion, **options), epochs=1, models=(student(), taught)).forwards


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda: scaled(scale=0.5), id="attribute"),
        pytest.param(lambda: scaled(act=torch.relu), id="function"),
        pytest.param(lambda: scaled(act=partial(torch.clamp, min=0.1)), id="partial"),
        pytest.param(lambda: scaled(act=lambda x: x), id="lambda"),
        pytest.param(lambda: scaled(drop=0.1), id="structure"),
        pytest.param(lambda: scaled(Other), id="class"),
        pytest.param(lambda: shifted(scaled()), id="buffer"),
        pytest.param(lambda: hooked(scaled()), id="hook"),
        pytest.param(lambda: scaled().double(), id="dtype"),
    ],
)
def test_a_changed_teacher_finds_nothing(tmp_path: Path, changed: Any) -> None:
    assert forwards(tmp_path, scaled()) == [8, 8, 8]
    assert forwards(tmp_path, scaled()) == []
    other = changed()
    if other.head.weight.dtype == torch.float64:
        assert forwards(tmp_path, other) == [8, 8, 8]
        return
    live = run(configured(None), epochs=1, models=(student(), changed()))
    stored = run(configured(tmp_path), epochs=1, models=(student(), other))
    assert stored.forwards == [8, 8, 8]
    torch.testing.assert_close(stored.weights, live.weights, rtol=1e-5, atol=1e-6)


def shifted(model: Scaled) -> Scaled:
    model.shift += 0.1
    return model


def hooked(model: Scaled) -> Scaled:
    model.head.register_forward_hook(lambda module, args, output: output * 1.5)
    return model


def test_one_weight_in_a_million_is_enough(tmp_path: Path) -> None:
    first, second = scaled(), scaled()
    with torch.no_grad():
        second.head.weight[3, 17] = torch.nextafter(second.head.weight[3, 17], torch.tensor(9.0))
    assert forwards(tmp_path, first) == [8, 8, 8]
    assert forwards(tmp_path, second) == [8, 8, 8]
    assert len(maintenance.info(tmp_path).spaces) == 2


@pytest.mark.parametrize(
    ("options", "criterion"),
    [
        ({"dtype": "float16"}, LOGITS),
        ({"top_k": 2}, LOGITS),
        ({"teacher": {"precision": "bf16"}}, LOGITS),
        ({}, {**LOGITS, **LAYERS}),
        ({}, LAYERS),
    ],
    ids=["codec", "top-k", "precision", "layers too", "layers alone"],
)
def test_other_settings_have_other_rows(tmp_path: Path, options: dict[str, Any], criterion: dict[str, Any]) -> None:
    assert forwards(tmp_path, teacher()) == [8, 8, 8]
    assert len(forwards(tmp_path, teacher(), criterion, **dict(options))) >= 3  # a low precision is compared as well
    assert forwards(tmp_path, teacher(), criterion, **dict(options)) == []


def test_wrappers_of_the_model_do_not_count(tmp_path: Path) -> None:
    compiled: Any = torch.compile(scaled(), backend="eager")
    for number, taught in enumerate((scaled(), compiled, nn.DataParallel(scaled()))):
        seen: list[int] = []
        inner = taught if isinstance(taught, Scaled) else next(iter(taught.children()))
        inner.head.register_forward_pre_hook(Sizes(seen))
        learner = student()
        with Distillation(configured(tmp_path), student_model=learner, teacher_model=taught) as distiller:
            output = learner(IMAGES[:6])
            distiller.on_after_compute_loss(IMAGES[:6], output, output.sum())
        assert seen == ([] if number else [6])


def test_a_compiled_teacher_sees_batches_of_one_size(tmp_path: Path) -> None:
    compiled: Any = torch.compile(scaled(), backend="eager")
    seen: list[int] = []
    compiled._orig_mod.head.register_forward_pre_hook(Sizes(seen))
    conf = configured(tmp_path)

    def some(rows: list[int]) -> Any:
        return lambda epoch: [(IMAGES[rows], LABELS[rows], {})]

    run(conf, epochs=1, models=(student(), compiled), batches=some([0, 1, 2, 3]))
    ran = run(conf, epochs=1, models=(student(), compiled), batches=some([9, 1, 2, 8]))
    assert seen == [4, 4]
    live = run(configured(None), epochs=1, models=(student(), scaled()), batches=some([9, 1, 2, 8]))
    torch.testing.assert_close(ran.weights, live.weights, rtol=1e-5, atol=1e-6)


class Sizes:
    """Notes the sizes of batches."""

    def __init__(self, seen: list[int]) -> None:
        self._note = seen.append

    def __call__(self, module: nn.Module, args: Any) -> None:
        self._note(len(args[0]))


@pytest.mark.parametrize("how", ["in place", "load_state_dict", "replaced"])
def test_weights_that_change_in_the_middle_of_a_run(tmp_path: Path, how: str) -> None:
    def change(distiller: Distillation, epoch: int) -> None:
        if epoch != 2:
            return
        taught: Any = distiller.teacher_model
        other = teacher(3)
        if how == "in place":
            with torch.no_grad():
                taught.head.weight.copy_(other.head.weight)
        elif how == "load_state_dict":
            taught.load_state_dict(other.state_dict())
        else:
            taught.head = other.head

    ran = run(configured(tmp_path), epochs=4, each=change)
    live = run(configured(None), epochs=4, each=change)
    assert ran.forwards == [8] * 6  # the first epoch of each teacher
    torch.testing.assert_close(ran.weights, live.weights, rtol=1e-5, atol=1e-6)
    assert len(maintenance.info(tmp_path).spaces) == 2


def test_versions_tell_a_write_and_a_replacement() -> None:
    model = scaled()
    before = versions_of(model)
    assert versions_of(model) == before
    model.shift.add_(1)
    assert versions_of(model) != before


def test_the_autocast_around_the_loss_is_a_precision(tmp_path: Path) -> None:
    def trained(*, low: bool) -> list[int]:
        seen: list[int] = []
        learner, taught = student(), teacher()
        handle = taught.head.register_forward_pre_hook(Sizes(seen))
        with Distillation(configured(tmp_path), student_model=learner, teacher_model=taught) as distiller:
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16, enabled=low):
                    output = learner(IMAGES[:6])
                    distiller.on_after_compute_loss(IMAGES[:6], output, output.float().sum()).backward()
        handle.remove()
        return seen

    assert trained(low=False) == [6]
    assert trained(low=True) == [6]
    assert trained(low=False) == [] and trained(low=True) == []


# ---- auto ----------------------------------------------------------------------------------------------


def test_what_auto_chose_counts_in_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdhooks.torch import teacher as live

    chosen: list[str] = []

    def choose(precision: str) -> None:
        def quickest(found: Any, ready: Any, kind: str, further: Any, on: str) -> Choice:
            chosen.append(precision)
            return Choice(precision)  # type: ignore[arg-type]

        monkeypatch.setattr(live, "quickest", quickest)

    conf = configured(tmp_path, teacher={"precision": "auto"})
    choose("bf16")
    first = run(conf)
    choose("fp32")
    second = run(conf)
    assert chosen == ["bf16"]
    assert len(first.forwards) >= 3 and second.forwards == []
    assert torch.equal(first.weights, second.weights)
    kinds = [(space.record or {}) for space in maintenance.info(tmp_path).spaces]
    assert [kind["choice"]["precision"] for kind in kinds if "choice" in kind] == ["bf16"]
    run(conf, models=(student(), teacher(7)))
    assert chosen == ["bf16", "fp32"]  # another teacher is timed anew


def test_what_another_part_of_the_configuration_asks_is_timed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdhooks.torch import teacher as live

    chosen: list[Any] = []
    monkeypatch.setattr(live, "quickest", lambda found, *_: chosen.append(found) or Choice("bf16"))
    run(configured(tmp_path, teacher={"precision": "auto"}))
    run(configured(tmp_path, teacher={"precision": "auto", "channels_last": "auto"}))
    assert len(chosen) == 2


def test_options_are_read_without_running_code() -> None:
    class Config:
        def to_json_string(self, *, use_diff: bool) -> str:
            return '{"layers": 2}'

    model = scaled()
    model.config = Config()
    texts = options_of(model)
    assert '{"layers": 2}' in texts
    assert any("scale=1.0" in text for text in texts)
    assert options_of(scaled()) == options_of(scaled())


def test_a_teacher_is_in_training_as_in_its_own_mode(tmp_path: Path) -> None:
    taught = teacher().train()
    run(configured(tmp_path), models=(student(), taught))
    assert taught.training and all(weight.requires_grad for weight in taught.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in taught.modules())
    assert forwards(tmp_path, Net_like(taught)) == []


def Net_like(model: Net) -> Net:
    twin = teacher(9)
    twin.load_state_dict(model.state_dict())
    return twin


def test_a_class_without_source_that_is_defined_anew(tmp_path: Path) -> None:
    assert forwards(tmp_path, scaled(redefined(2.0))) == [8, 8, 8]
    assert forwards(tmp_path, scaled(redefined(2.0))) == []
    assert forwards(tmp_path, scaled(redefined(3.0))) == [8, 8, 8]
    base = type("Derived", (redefined(2.0),), {"__module__": "notebook"})
    other = type("Derived", (redefined(3.0),), {"__module__": "notebook"})
    assert forwards(tmp_path, scaled(base)) == [8, 8, 8]
    assert forwards(tmp_path, scaled(other)) == [8, 8, 8]  # what a base does counts as well


def test_weights_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Packed(Tensor):
        """Weights whose values only its own operations know."""

    taught = scaled()
    taught.shift = torch.zeros(7).as_subclass(Packed)
    for precision in ("fp32", "auto"):
        caplog.clear()
        ran = run(configured(tmp_path, teacher={"precision": precision}), epochs=1, models=(student(), taught))
        assert len(ran.forwards) >= 3
        said = [text for text in caplog.messages if "are not stored" in text]
        assert said == [
            "the outputs of the teacher Scaled are not stored: its weight shift, Packed on cpu, can't be read. It runs "
            "at every step."
        ]
    assert maintenance.info(tmp_path).rows == 0
