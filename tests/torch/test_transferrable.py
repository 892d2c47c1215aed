"""The unified API: strategies, weights, parts of the loss, distillers, saved logits, and its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import Distillation, KDHooksError
from kdhooks.errors import DataError, UsageError
from kdhooks.torch.losses import LOSSES
from kdhooks.transferrable import (
    DKD,
    KD,
    BasicDistiller,
    TransferrableModel,
    make_transferrable_with_knowledge_distillation,
    transferrable,
    transferrable_with_knowledge_distillation,
)
from tests.torch.small_models import Classifier, Counting, batches, kd_conf, made, same_weights, train_plainly

CE = nn.CrossEntropyLoss()


def student() -> Any:
    return made(1, lambda: Classifier(dropout=0.0))


def teacher() -> Any:
    return made(2, lambda: Classifier(width=12))


def distilled(distiller: BasicDistiller | None = None, **more: Any) -> TransferrableModel:
    return make_transferrable_with_knowledge_distillation(student(), CE, distiller or KD(teacher()), **more)


def train(model: TransferrableModel, steps: int = 6) -> list[float]:
    """The loop of somebody who comes from Model Adaptor."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data, losses = batches(), []
    for step in range(steps):
        x, y = data[step % len(data)]
        optimizer.zero_grad()
        output = model(x)
        loss = model.loss(output, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# ---- a step ----------------------------------------------------------------------------------------


def test_the_loss_is_a_tensor_with_its_parts_beside_it() -> None:
    x, y = batches()[0]
    model = distilled(backbone_loss_weight=0.3, distiller_loss_weight=0.7)
    output = model(x)
    loss = model.loss(output, y)
    assert isinstance(loss, Tensor) and loss.shape == () and loss.requires_grad
    torch.testing.assert_close(loss.backbone_loss, F.cross_entropy(output.backbone_output, y).detach())
    expected = LOSSES["KL"](output.backbone_output, teacher().eval()(x), temperature=4.0).detach()
    torch.testing.assert_close(loss.distiller_loss, expected)
    torch.testing.assert_close(loss.detach(), 0.3 * loss.backbone_loss + 0.7 * loss.distiller_loss)
    assert loss.adapter_loss is None and loss.total_loss is loss
    assert list(loss.parts) == ["backbone", "KL", "total"]
    assert all(not part.requires_grad for part in loss.parts.values())
    assert model.hooks.losses == {name: part.item() for name, part in loss.parts.items()}


def test_what_is_computed_from_output_and_loss_is_an_ordinary_tensor() -> None:
    x, y = batches()[0]
    model = distilled()
    output = model(x)
    loss = model.loss(output, y)
    assert [type(one) for one in (loss / 2, loss.detach(), output.argmax(1), output.softmax(1))] == [Tensor] * 4
    assert torch.equal(output, output.backbone_output)
    assert repr(loss).startswith("TransferrableModelLoss(")


def test_it_trains_as_the_hooks_do_in_a_loop_of_ones_own() -> None:
    plain = student()
    model = distilled(KD(teacher(), temperature=2.0), backbone_loss_weight=0.5, distiller_loss_weight=0.5)
    losses = train(model)
    with Distillation(kd_conf([0.5, 0.5]), student_model=plain, teacher_model=teacher()) as distiller:
        expected = train_plainly(plain, steps=6, distiller=distiller)
    assert losses == [loss.item() for loss in expected]
    assert same_weights(model.backbone, plain)


def test_evaluation_runs_the_backbone_alone() -> None:
    counting = Counting(teacher())
    model = distilled(KD(counting))
    train(model, steps=2)
    calls, (x, y) = counting.calls, batches()[0]
    model.eval()
    output = model(x)
    assert type(output) is Tensor
    assert torch.equal(output, model.backbone(x))
    loss = model.loss(output, y)
    assert loss.item() == F.cross_entropy(output, y).item() == loss.backbone_loss.item()
    assert loss.distiller_loss is None
    model.train()
    with torch.no_grad():
        assert type(model(x)) is Tensor
    assert counting.calls == calls


def test_several_outputs_may_wait_for_their_losses() -> None:
    (x, y), (other, labels) = batches()[:2]
    model = distilled(backbone_loss_weight=0.0, distiller_loss_weight=1.0)
    first, second = model(x), model(other)
    assert model.loss(first, y).item() == model.loss(model(x), y).item()
    assert model.loss(second, labels).item() == model.loss(model(other), labels).item()


def test_an_output_that_lost_its_input_is_that_of_the_last_forward() -> None:
    x, y = batches()[0]
    model = distilled()
    expected = model.loss(model(x), y).item()
    assert model.loss(model(x).backbone_output, y).item() == expected


class TwoInputs(nn.Module):
    """Takes arguments by position and by name, returns a mapping, and has a loss of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"logits": self.fc(left + right)}

    def loss(self, output: dict[str, Tensor], label: Tensor) -> Tensor:
        return F.cross_entropy(output["logits"], label)


def test_a_backbone_with_its_own_loss_several_inputs_and_a_mapping_as_output() -> None:
    backbone, guide = made(1, TwoInputs), made(2, TwoInputs)
    model = make_transferrable_with_knowledge_distillation(backbone, KD(guide))
    left, right, y = torch.randn(5, 3), torch.randn(5, 3), torch.randint(4, (5,))
    totals = []
    for output in (model(left, right), model(left, right=right), model(left=left, right=right)):
        assert output["logits"].shape == output.backbone_output["logits"].shape == (5, 4)
        assert [*output] == ["logits"] and len(output) == 1
        totals.append(model.loss(output, y).item())
    assert totals[0] == totals[1] == totals[2]
    expected = LOSSES["KL"](backbone(left, right)["logits"], guide(left, right)["logits"], temperature=4.0)
    assert model.loss(model(left, right), y).distiller_loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_an_explicit_loss_comes_before_the_backbones_own() -> None:
    model = make_transferrable_with_knowledge_distillation(
        made(1, TwoInputs), lambda output, y: output["logits"].sum() * 0 + 7, KD(made(2, TwoInputs))
    )
    loss = model.loss(model(torch.ones(2, 3), torch.ones(2, 3)), torch.zeros(2, dtype=torch.long))
    assert loss.backbone_loss.item() == 7


def test_without_labels_the_teacher_alone_is_followed() -> None:
    x, _ = batches()[0]
    model = distilled(enable_target_training_label=False)
    loss = model.loss(model(x))
    assert loss.backbone_loss is None
    torch.testing.assert_close(loss.detach(), 0.9 * loss.distiller_loss)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_weights_may_be_schedules() -> None:
    x, y = batches()[0]
    model = distilled(backbone_loss_weight={"linear": {"from": 1, "to": 0, "steps": 2}}, distiller_loss_weight=0.0)
    losses = [model.loss(model(x), y) for _ in range(3)]
    backbone = F.cross_entropy(model.backbone(x), y).item()
    assert [loss.item() for loss in losses] == pytest.approx([backbone, backbone / 2, 0.0])
    assert losses[0].distiller_loss is None


# ---- distillers --------------------------------------------------------------------------------------


def test_distillers_are_the_losses_that_their_names_say() -> None:
    one, other, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 4
    guide = nn.Identity()
    assert BasicDistiller(guide).loss(other, one).item() == pytest.approx(F.mse_loss(one, other).item(), abs=1e-12)
    log_p, log_q = (other / 3).log_softmax(1), (one / 3).log_softmax(1)
    kl = (log_p.exp() * (log_p - log_q)).sum(1).mean() * 9
    assert KD(guide, temperature=3.0).loss(other, one).item() == pytest.approx(kl.item(), abs=1e-12)
    dkd = LOSSES["dkd"](one, other, temperature=3.0, target=y, alpha=0.5, beta=2.0)
    found = DKD(guide, alpha=0.5, beta=2.0, temperature=3.0).loss(other, one, target=y)
    assert found.item() == pytest.approx(dkd.item(), abs=1e-12)


def test_dkd_trains_and_warms_up_in_steps() -> None:
    x, y = batches()[0]
    model = distilled(DKD(teacher(), warmup=4), backbone_loss_weight=0.0, distiller_loss_weight=0.8)
    losses = [model.loss(model(x), y) for _ in range(6)]
    shares = [loss.item() / loss.distiller_loss.item() if loss.distiller_loss is not None else 0.0 for loss in losses]
    assert shares == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_a_distiller_is_a_function_of_an_input() -> None:
    x, _ = batches()[0]
    guide = teacher()
    guide.train()
    logits = KD(guide)(x)
    assert torch.equal(logits, teacher().eval()(x)) and not logits.requires_grad
    assert guide.training and all(parameter.requires_grad for parameter in guide.parameters())


def saved(path: Path, distiller: Any, **options: Any) -> tuple[Any, TensorDataset]:
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    data = TensorDataset(x, y)
    counting = Counting(teacher())
    made_one = distiller(counting, logits_path=path, **options)
    filled = made_one.prepare_logits(DataLoader(data, batch_size=16))
    assert (filled.rows, filled.computed) == (len(x), len(x))
    return counting, data


@pytest.mark.parametrize("topk", [0, 2])
def test_saved_logits_stand_in_for_the_teacher(topk: int, tmp_path: Path) -> None:
    counting, _ = saved(tmp_path / "live", KD, topk=topk)
    counting.calls = 0
    reading = KD(counting, use_saved_logits=True, topk=topk, logits_path=tmp_path / "live")
    with_teacher = train(distilled(reading))
    assert counting.calls == 0
    without = train(distilled(KD(None, use_saved_logits=True, logits_path=tmp_path / "live")))
    assert with_teacher == without
    if topk == 0:
        assert without == pytest.approx(train(distilled(KD(teacher()))), abs=1e-6)


def test_an_input_that_is_not_saved_is_computed_where_there_is_a_teacher(tmp_path: Path) -> None:
    counting, _ = saved(tmp_path, KD)
    counting.calls = 0
    x, y = torch.randn(3, 6), torch.zeros(3, dtype=torch.long)
    model = distilled(KD(counting, use_saved_logits=True, logits_path=tmp_path))
    live = distilled()
    assert model.loss(model(x), y).item() == pytest.approx(live.loss(live(x), y).item(), abs=1e-6)
    assert counting.calls == 1
    model.loss(model(x), y)
    assert counting.calls == 1
    other = distilled(KD(None, use_saved_logits=True, logits_path=tmp_path / "none"))
    with pytest.raises(KDHooksError, match="none"):
        other.loss(other(x), y)


def test_without_a_teacher_what_is_not_saved_is_an_error(tmp_path: Path) -> None:
    saved(tmp_path, KD)
    model = distilled(KD(None, use_saved_logits=True, logits_path=tmp_path))
    output = model(torch.randn(3, 6))
    with pytest.raises(DataError, match=r"^sample 0 is not in the store .*: it was stored with another content or"):
        model.loss(output, torch.zeros(3, dtype=torch.long))


# ---- decorators ----------------------------------------------------------------------------------------


@transferrable_with_knowledge_distillation(CE, KD(nn.Linear(6, 4)), True, 0.25, 0.75)
class Decorated(Classifier):
    """A class of somebody."""


class Below(Decorated):
    """A class below a decorated one."""


def test_a_decorated_class_stays_a_class() -> None:
    for kind in (Decorated, Below):
        model: Any = kind(width=5)
        assert type(model) is TransferrableModel and type(model.backbone) is kind
        assert model.backbone.head.in_features == 5
        assert model.plan.backbone_loss_weight == 0.25
    assert Decorated.__doc__ == "A class of somebody." and issubclass(Below, Classifier)
    assert train(Decorated(dropout=0.0))[-1] > 0


def test_a_decorated_class_with_the_old_super_says_what_to_write() -> None:
    @transferrable(CE, distiller=KD(nn.Linear(6, 4)))
    class Old(nn.Module):
        def __init__(self) -> None:
            super(Old, self).__init__()  # noqa: UP008

    told = r"^super\(Old, self\).__init__\(\) finds Old itself once it is decorated: write super\(\).__init__\(\)$"
    with pytest.raises(UsageError, match=told):
        Old()
