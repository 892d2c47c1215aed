"""The criterion of large vocabularies: equal to the direct computation, and what it needs."""

from __future__ import annotations

import copy
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from kdhooks import ConfigError, Distillation
from kdhooks.errors import KDHooksError, UsageError
from kdhooks.torch import LargeVocabularyDistillationLoss
from kdhooks.torch.layers import list_tapped
from kdhooks.torch.losses import jsd, kd
from tests.torch.small_models import made
from tests.torch.test_sharded import group
from tests.torch.training_runs import process

__all__ = ["group"]

CLASSES, TOKENS = 40, 7
X = torch.arange(3 * TOKENS).reshape(3, TOKENS) * 5 % CLASSES
Y = torch.where(torch.arange(3 * TOKENS).reshape(3, TOKENS) % 4 == 0, -100, (X + 3) % CLASSES)


class Words(nn.Module):
    """Token numbers to logits over the vocabulary; its forward may stop before the head."""

    def __init__(self, width: int = 6, *, skips: bool = False, classes: int = CLASSES) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, width)
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, classes)
        self.skips, self.heads = skips, 0

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.norm(self.embed(x))
        if self.skips:
            return hidden
        output: Tensor = self.lm_head(hidden)
        self.heads += 1
        return output


def models(**options: Any) -> tuple[Words, Words]:
    return made(1, lambda: Words(**options).double()), made(2, lambda: Words(10).double())


def distillation(student: nn.Module, teacher: nn.Module, **options: Any) -> Distillation:
    distiller = Distillation(student_model=student, teacher_model=teacher)
    distiller.criterion = LargeVocabularyDistillationLoss("lm_head", **options)
    return distiller


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def same_gradients(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = gradients(one), gradients(other)
    assert (
        mine.keys() == theirs.keys() == {"embed.weight", "norm.weight", "norm.bias", "lm_head.weight", "lm_head.bias"}
    )
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-6, atol=1e-12)


def direct(student: Words, teacher: Words, loss: Any, temperature: float, weights: tuple[float, float]) -> list[Tensor]:
    logits, theirs = student(X)[Y != -100], teacher(X)[Y != -100].detach()
    own, soft = F.cross_entropy(logits, Y[Y != -100]), loss(logits, theirs, temperature=temperature)
    return [own, soft, weights[0] * own + weights[1] * soft]


@pytest.mark.parametrize(("kind", "loss"), [("KL", kd), ("JSD", jsd)])
def test_values_and_gradients_are_those_of_the_logits(kind: str, loss: Any) -> None:
    student, teacher = models()
    twin = copy.deepcopy(student)
    options = {"loss_types": ["CE", kind], "loss_weights": [0.3, 0.7], "temperature": 2.0, "chunk_size": 4}
    with distillation(student, teacher, **options) as distiller:
        output = student(X)
        total = distiller.on_after_compute_loss(X, output, output.new_zeros(()), target=Y)
        total.backward()
        losses = distiller.losses
    expected = direct(twin, teacher, loss, 2.0, (0.3, 0.7))
    expected[2].backward()
    assert losses == pytest.approx(
        {"none": 0.0, "CE": expected[0].item(), kind: expected[1].item(), "total": expected[2].item()}, rel=1e-6
    )
    same_gradients(student, twin)


def test_weights_of_zero_leave_out_a_term_and_the_teacher() -> None:
    for weights in ((0.0, 1.0), (1.0, 0.0)):
        student, teacher = models()
        twin = copy.deepcopy(student)
        with distillation(student, teacher, loss_weights=weights) as distiller:
            output = student(X)
            distiller.on_after_compute_loss(X, output, output.new_zeros(()), target=Y).backward()
            assert sorted(distiller.losses) == sorted(["none", "total", "CE" if weights[0] else "KL"])
            assert teacher.heads == int(weights[1] != 0)  # the first forward runs whole, and only where it is wanted
        direct(twin, teacher, kd, 1.0, weights)[2].backward()
        same_gradients(student, twin)


def test_the_teacher_ends_before_its_head_and_the_student_may_skip_its_own() -> None:
    student, teacher = models(skips=True)
    twin = copy.deepcopy(student)
    twin.skips = False
    with distillation(student, teacher, student_hidden="norm", loss_weights=[0.3, 0.7]) as distiller:
        for _ in range(3):
            student.zero_grad()
            hidden = student(X)
            distiller.on_after_compute_loss(X, hidden, hidden.new_zeros(()), target=Y).backward()
        assert (student.heads, teacher.heads) == (0, 1)
    assert not student.lm_head._forward_pre_hooks and not teacher.lm_head._forward_pre_hooks
    direct(twin, teacher, kd, 1.0, (0.3, 0.7))[2].backward()
    same_gradients(student, twin)


def test_the_loops_own_loss_may_be_the_labels_part() -> None:
    student, teacher = models()
    twin = copy.deepcopy(student)
    with distillation(student, teacher, add_origin_loss=True, loss_weights=[0.3, 0.7]) as distiller:
        output = student(X)
        own = F.cross_entropy(output.flatten(0, 1), Y.flatten())
        distiller.on_after_compute_loss(X, output, own, target=Y).backward()
        assert sorted(distiller.losses) == ["CE", "KL", "total"]
    direct(twin, teacher, kd, 1.0, (0.3, 0.7))[2].backward()
    same_gradients(student, twin)


def test_shifted_labels_and_a_mask() -> None:
    student, teacher = models()
    twin, mask = copy.deepcopy(student), torch.arange(TOKENS).expand(3, TOKENS) < 5
    with distillation(student, teacher, shift=True) as distiller:
        output = student(X)
        distiller.on_after_compute_loss(X, output, output.new_zeros(()), target=X, mask=mask).backward()
    counted = mask[:, 1:]
    logits, theirs = twin(X)[:, :-1][counted], teacher(X)[:, :-1][counted].detach()
    (0.5 * F.cross_entropy(logits, X[:, 1:][counted]) + 0.5 * kd(logits, theirs, temperature=1.0)).backward()
    same_gradients(student, twin)


def test_schedules_and_the_options_of_the_pass() -> None:
    student, teacher = models(classes=30)
    options = {
        **{"temperature": {"linear": {"from": 4.0, "to": 2.0, "steps": 2}}, "vocabulary": "common"},
        **{"softcap": 5.0, "teacher_softcap": 3.0, "logit_scale": 0.5, "loss_weights": [0.0, lambda step: step + 1.0]},
    }
    with distillation(student, teacher, **options) as distiller:
        for step, temperature in ((0, 4.0), (1, 3.0), (2, 2.0)):
            output = student(X)
            distiller.on_after_compute_loss(X, output, output.new_zeros(()))
            logits, theirs = 5 * (output * 0.5 / 5).tanh(), 3 * (teacher(X)[..., :30] / 3).tanh()
            expected = float(kd(logits, theirs, temperature=temperature).detach())
            assert distiller.losses["KL"] == pytest.approx(expected, rel=1e-6)
            assert distiller.losses["total"] == pytest.approx((step + 1) * expected, rel=1e-6)


PATH = "distillation.train.criterion.LargeVocabularyDistillationLoss"


def from_yaml(folder: Path, options: str, student: nn.Module, teacher: nn.Module | None) -> Distillation:
    path = folder / "kd.yaml"
    lines = "".join(f"        {line}\n" for line in options.splitlines())
    path.write_text(f"distillation:\n  train:\n    criterion:\n      LargeVocabularyDistillationLoss:\n{lines}")
    return Distillation(path, student_model=student, teacher_model=teacher)


def test_a_file_gives_the_same_criterion(tmp_path: Path) -> None:
    student, teacher = models()
    text = (
        "student_head: lm_head\nteacher_hidden: norm\ntemperature: 2\nloss_weights: [0.3, 0.7]\nchunk_size: 4\nsoftcap:"
    )
    with from_yaml(tmp_path, text, student, teacher) as distiller:
        output = student(X)
        distiller.on_after_compute_loss(X, output, output.new_zeros(()), target=Y).backward()
        expected = direct(student, teacher, kd, 2.0, (0.3, 0.7))
        assert distiller.losses["total"] == pytest.approx(expected[2].item(), rel=1e-6)
        named = distiller.conf.settings.distillation.train.criterion[0]
    from kdhooks.config.mappings import taps_of

    rows = list_tapped(teacher, taps_of(named.name, named.options, "teacher"), [X], "teacher")
    rows += list_tapped(student, taps_of(named.name, named.options, "student"), [X], "student")
    assert rows == [
        {"mapping": "teacher_hidden", "layer": "'norm'", "type": "LayerNorm", "shape": "[3, 7, 10]"},
        {"mapping": "student_head", "layer": "'lm_head' (its input)", "type": "Linear", "shape": "[3, 7, 6]"},
    ]


FAULTS = {
    "temperature: 2": """\
kd.yaml:4:7: PATH: has no student_head
  4 |       LargeVocabularyDistillationLoss:
    |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  Write the name of the linear layer over the vocabulary, as in student_head: lm_head""",
    "student_head: lm_head\nloss_types: [CE, MSE]": """\
kd.yaml:6:21: PATH.loss_types: chunks of tokens have CE and one of KL, JSD, reverse_KL, and not CE, MSE
  6 |         loss_types: [CE, MSE]
    |                     ^^^^^^^^^
  Write loss_types: [CE, KL]""",
    "student_head: lm_head\nteacher_hidden: 3": """\
kd.yaml:6:25: PATH.teacher_hidden: expected the name of a layer, got 3
  6 |         teacher_hidden: 3
    |                         ^
  Put it in quotes: '3'""",
    "student_head: lm_head\nsoftcaps: 3": """\
kd.yaml:6:9: PATH.softcaps: unknown key
  6 |         softcaps: 3
    |         ^^^^^^^^
  Did you mean 'softcap'?""",
    "student_head: lm_had": """\
kd.yaml:5:23: PATH.student_head: student Words has no layer 'lm_had'
  5 |         student_head: lm_had
    |                       ^^^^^^
  Did you mean 'lm_head'? All layers: kdhooks layers MODEL""",
    "student_head: norm": """\
kd.yaml:5:23: PATH.student_head: the student's head 'norm' is LayerNorm with a forward or hooks of its own
  5 |         student_head: norm
    |                       ^^^^
  Its weight is multiplied in chunks: it must be a plain nn.Linear.""",
}


@pytest.mark.parametrize("options", FAULTS)
def test_faults_have_a_line(options: str, tmp_path: Path) -> None:
    student, teacher = models()
    with pytest.raises(ConfigError) as caught, from_yaml(tmp_path, options, student, teacher) as distiller:
        output = student(X)
        distiller.on_after_compute_loss(X, output, output.new_zeros(()), target=Y)
    assert str(caught.value).replace(f"{tmp_path}/", "") == FAULTS[options].replace("PATH", PATH)


def test_other_faults() -> None:
    student, teacher = models()
    with distillation(student, teacher) as distiller:
        output = student(X)
        with pytest.raises(UsageError) as caught:
            distiller.on_after_compute_loss(X, output, output.new_zeros(()))
        assert str(caught.value) == (
            "LargeVocabularyDistillationLoss computes the CE of the labels itself: hand target to "
            "on_after_compute_loss, or set add_origin_loss and let the loop's own loss be the CE"
        )
    with pytest.raises(UsageError) as alone:
        distillation(student, None).on_train_begin()  # type: ignore[arg-type]
    assert str(alone.value) == "features come from a teacher, and there is none: set teacher_model"
    student.lm_head.register_forward_hook(lambda *_: None)
    with distillation(student, teacher) as distiller:
        output = student(X)
        with pytest.raises(KDHooksError) as hooked:
            distiller.on_after_compute_loss(X, output, output.new_zeros(()), target=Y)
    assert str(hooked.value) == (
        "student_head: the student's head 'lm_head' is Linear with a forward or hooks of its own. Its weight is "
        "multiplied in chunks: it must be a plain nn.Linear."
    )


def test_the_built_in_loop_computes_no_loss_of_its_own(tmp_path: Path) -> None:
    student, teacher = (made(seed, Words) for seed in (1, 2))
    conf = {
        "distillation": {
            "train": {
                "criterion": {"LargeVocabularyDistillationLoss": {"student_head": "lm_head"}},
                "end_epoch": 2,
                "optimizer": {"SGD": {"learning_rate": 1.0}},
            }
        },
        "tuning": {"workspace": {"path": str(tmp_path)}},
        "device": "cpu",
    }
    distiller = Distillation(conf, student_model=student, teacher_model=teacher)
    distiller.train_dataloader = [(X, Y)] * 4
    distiller.fit()
    first, last = (record["losses"] for record in distiller.history)
    assert first["none"] == last["none"] == 0.0
    assert last["CE"] < first["CE"] and last["total"] < first["total"]


def rank_of_two(folder: Path, rank: int, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    student, teacher = models(skips=True)
    wrapped = DistributedDataParallel(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    with distillation(wrapped, teacher, student_hidden="norm") as distiller:
        steps(distiller, wrapped, optimizer, X[rank : rank + 1])
    torch.save(student.state_dict(), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def steps(distiller: Distillation, forward: Any, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    for _ in range(3):
        hidden = forward(x)
        optimizer.zero_grad()
        distiller.on_after_compute_loss(x, hidden, hidden.new_zeros(()), target=(x + 3) % CLASSES).backward()
        optimizer.step()


def test_two_ranks_train_the_student_of_one_process(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [process(rank_of_two, tmp_path, rank, port) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    alone, teacher = models(skips=True)
    with distillation(alone, teacher, student_hidden="norm") as distiller:
        steps(distiller, alone, torch.optim.SGD(alone.parameters(), lr=0.5), X[:2])
    for rank in (0, 1):
        for name, value in torch.load(tmp_path / f"rank{rank}.pt", weights_only=True).items():
            torch.testing.assert_close(value, alone.state_dict()[name], rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, of gloo and of meshes
def test_a_sharded_head_is_refused(group: None) -> None:
    student, teacher = models()
    fully_shard(student.lm_head, mesh=init_device_mesh("cpu", (1,)))
    with distillation(student, teacher) as distiller:
        output = student(X)
        with pytest.raises(KDHooksError) as caught:
            distiller.on_after_compute_loss(X, output, output.new_zeros(()), target=Y)
    assert str(caught.value) == (
        "student_head: the student's head 'lm_head' has a weight that is sharded over processes. Its weight is "
        "multiplied in chunks: it must be a head outside of fully_shard."
    )


def test_check_looks_at_it() -> None:
    student, teacher = models()
    report = distillation(student, teacher).check([(X, Y)] * 2, batches=2)
    rows = {row["loss"]: row for row in report.facts["losses"]}
    expected = direct(student, teacher, kd, 1.0, (0.5, 0.5))
    assert [rows[name]["value"] for name in ("CE", "KL")] == pytest.approx([expected[0].item(), expected[1].item()])
