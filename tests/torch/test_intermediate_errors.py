"""What is wrong with pairs of layers, word for word: pair, layer, model and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

from kdhooks import ConfigError, Distillation
from kdhooks.errors import ModelError, NonFiniteLossError, UsageError
from tests.torch.hidden_models import Net, criterion, distillation, from_yaml, models, total_of
from tests.torch.small_models import batches, made

PATH = "distillation.train.criterion.IntermediateLayersKnowledgeDistillationLoss"


# ---- errors ----------------------------------------------------------------------------------------


class Whole(Net):
    """Has a layer that never runs."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.spare = nn.Linear(6, width)


class Words(nn.Module):
    """Gives numbers of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.best = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.first(x))
        self.best(output.argmax(-1))
        return output


def failing(folder: Path, options: str, student: nn.Module, teacher: nn.Module, more: str = "") -> str:
    with pytest.raises(ConfigError) as caught, from_yaml(folder, options, student, teacher, more) as distiller:
        total_of(distiller, student, *batches()[0])
    return str(caught.value).replace(str(folder / "kd.yaml"), "kd.yaml")


CASES: dict[str, tuple[str, Callable[[], nn.Module], str]] = {
    "unknown": (
        "layer_mappings: [[first, frist]]",
        Net,
        """\
kd.yaml:5:34: PATH.layer_mappings[0][1]: teacher Net has no layer 'frist'
  5 |         layer_mappings: [[first, frist]]
    |                                  ^^^^^
  Did you mean 'first'? All layers: kdhooks layers MODEL""",
    ),
    "ambiguous": (
        "layer_mappings: [[block.layer, layer]]",
        lambda: nn.Sequential(Net(), Net()),
        """\
kd.yaml:5:40: PATH.layer_mappings[0][1]: teacher Sequential has 2 layers that end in 'layer': \
'0.block.layer', '1.block.layer'
  5 |         layer_mappings: [[block.layer, layer]]
    |                                        ^^^^^
  Write the whole name.""",
    ),
    "silent": (
        "layer_mappings: [[first], [first, spare]]",
        Whole,
        """\
kd.yaml:5:43: PATH.layer_mappings[1][1]: pair 'first' -> 'spare': teacher Whole: layer 'spare' \
did not run at this step
  5 |         layer_mappings: [[first], [first, spare]]
    |                                           ^^^^^
  Map a layer that every forward calls.""",
    ),
    "tuple": (
        "layer_mappings: [[first, block]]",
        Net,
        """\
kd.yaml:5:34: PATH.layer_mappings[0][1]: pair 'first' -> 'block': teacher Net: layer 'block' returned a \
tuple of Tensor, Tensor, and no selector says which is meant
  5 |         layer_mappings: [[first, block]]
    |                                  ^^^^^
  Write the selector behind the layer, as in [block, '0'].""",
    ),
    "shapes": (
        "layer_mappings: [[first, first]]\nfeature_matchers: [identity]",
        lambda: Net(12),
        """\
kd.yaml:5:26: PATH.layer_mappings[0]: pair 'first' -> 'first': no feature matcher 'identity' for student \
Net [8, 8] and teacher Net [8, 12]: identity needs equal shapes
  5 |         layer_mappings: [[first, first]]
    |                          ^^^^^^^^^^^^^^
  Write auto in feature_matchers.""",
    ),
    "integers": (
        "layer_mappings: [[first, best]]",
        Words,
        """\
kd.yaml:5:34: PATH.layer_mappings[0][1]: pair 'first' -> 'best': teacher Words: layer 'best' gives \
int64, which can't be followed
  5 |         layer_mappings: [[first, best]]
    |                                  ^^^^
  Map a layer whose values are floats.""",
    ),
    "unknown loss": (
        "layer_mappings: [[first]]\nloss_types: [MSEE]",
        Net,
        """\
kd.yaml:6:22: PATH.loss_types[0]: unknown loss between features 'MSEE'
  6 |         loss_types: [MSEE]
    |                      ^^^^
  Did you mean 'MSE'?""",
    ),
    "unknown option": (
        "layer_mappings: [[first]]\nloss_types: [{cosine: {axes: 1}}]",
        Net,
        """\
kd.yaml:6:32: PATH.loss_types[0].cosine.axes: the loss 'cosine' has no option 'axes'
  6 |         loss_types: [{cosine: {axes: 1}}]
    |                                ^^^^
  Its options: mask""",
    ),
    "weights": (
        "layer_mappings: [[first], {student: '{i}', teacher: '{i}', i: 0..2}]\nloss_weights: [1, 2, 3]",
        Net,
        """\
kd.yaml:6:23: PATH.loss_weights: expected one for each of the 2 layer mappings (which stand for 4 pairs), got 3
  6 |         loss_weights: [1, 2, 3]
    |                       ^^^^^^^^^""",
    ),
    "no mappings": (
        "loss_types: [MSE]",
        Net,
        """\
kd.yaml:4:7: PATH: has no layer_mappings, so no layer is compared
  4 |       IntermediateLayersKnowledgeDistillationLoss:
    |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  Write pairs of layers, as in layer_mappings: [[layer2, layer3]]""",
    ),
    "twice": (
        "layer_mappings: [[first]]\nlayer_mappings_for_knowledge_transfer: [[first]]",
        Net,
        """\
kd.yaml:6:9: PATH.layer_mappings_for_knowledge_transfer: stands beside layer_mappings, and only one of them \
can be meant
  6 |         layer_mappings_for_knowledge_transfer: [[first]]
    |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  Keep one of them.""",
    ),
    "unknown matcher": (
        "layer_mappings: [[first]]\nfeature_matchers: lin",
        Net,
        """\
kd.yaml:6:27: PATH.feature_matchers: unknown feature matcher 'lin'
  6 |         feature_matchers: lin
    |                           ^^^
  Did you mean 'linear'?""",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_errors_name_pair_layer_model_and_line(case: str, tmp_path: Path) -> None:
    options, teacher, message = CASES[case]
    found = failing(tmp_path, options, made(1, Net), made(2, teacher))
    assert found == message.replace("PATH", PATH)


def test_errors_of_a_criterion_made_in_python() -> None:
    student, teacher = models()
    with pytest.raises(ModelError) as caught:
        distillation(student, teacher, layer_mappings=[["first", "frist"]], loss_weights=[1]).on_train_begin()
    assert str(caught.value) == (
        "layer_mappings[0][1]: teacher Net has no layer 'frist'. Did you mean 'first'? All layers: kdhooks layers MODEL"
    )
    with pytest.raises(UsageError) as wrong:
        criterion(loss_weights=[1, 2, 3])
    assert str(wrong.value) == "loss_weights: expected one for each of the 2 layer mappings, got 3"
    for teachers, message in (
        (
            [teacher, made(3, Net)],
            "features come from one teacher, and there are teacher0, teacher1: say which with teacher",
        ),
    ):
        with pytest.raises(UsageError) as missing:
            distillation(student, teachers).on_train_begin()  # type: ignore[arg-type]
        assert str(missing.value) == message
    distiller = Distillation(student_model=student, teacher_model=[teacher, made(3, Net)])
    distiller.criterion = criterion(teacher="teacher1")
    with distiller:
        total_of(distiller, student, *batches()[0])


class Spoilt(Net):
    """Returns NaN from a hidden layer, from a call on."""

    def __init__(self, good: int = 0) -> None:
        super().__init__()
        self.good, self.calls, self.hidden = good, 0, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.first(x)
        if self.calls > self.good:
            hidden = hidden * float("nan")
        output: Tensor = self.head(self.hidden(hidden))
        return output


NAN = """\
kd.yaml:5:34: PATH.layer_mappings[0][1]: pair 'first' -> 'hidden': teacher Spoilt: layer 'hidden' \
returned NaN or infinite values at step 2
  5 |         layer_mappings: [[first, hidden]]
    |                                  ^^^^^^
  Look at the teacher's inputs, weights and precision.""".replace("PATH", PATH)


def test_a_teacher_that_returned_nan_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = made(1, Net), made(2, lambda: Spoilt(2))
    with from_yaml(tmp_path, "layer_mappings: [[first, hidden]]", student, teacher) as distiller:
        for x, y in batches():
            total_of(distiller, student, x, y)
        distiller.on_epoch_end()
        assert distiller.first_bad() == (2, "MSE[first]")
    told = [record.getMessage() for record in caplog.records if "NaN" in record.getMessage()]
    assert [one.replace(str(tmp_path / "kd.yaml"), "kd.yaml") for one in told] == [
        f"the loss component 'MSE[first]' became NaN or infinite at step 2:\n{NAN}"
    ]


def test_fit_stops_at_a_teacher_that_returned_nan(tmp_path: Path) -> None:
    student, teacher = made(1, Net), made(2, lambda: Spoilt(2))
    more = f"tuning: {{workspace: {{path: '{tmp_path}/run'}}}}\n"
    distiller = from_yaml(tmp_path, "layer_mappings: [[first, hidden]]", student, teacher, more)
    distiller.train_dataloader = batches()
    with pytest.raises(NonFiniteLossError) as caught:
        distiller.fit()
    text = str(caught.value).replace(str(tmp_path / "kd.yaml"), "kd.yaml")
    assert text.startswith("the loss component 'MSE[first]' became NaN or infinite at step 2") and text.endswith(NAN)
