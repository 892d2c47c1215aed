"""L2-SP and DELTA against the papers' formulas in NumPy, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdhooks import Distillation
from kdhooks.errors import ModelError, UsageError
from kdhooks.torch.transfer import DELTA, channel_weights, feature_distance
from tests.torch.transfer.models import batches, net


def begun(finetune: dict[str, object]) -> Distillation:
    distiller = Distillation({"finetune": finetune}, student_model=net(2).double())
    distiller.pretrained_model = net(1, classes=5).double()
    distiller.on_train_begin()
    return distiller


def test_l2_sp_is_the_paper_s_in_value_and_gradient() -> None:
    distiller = begun({"l2_sp": {"weight": 0.3, "new_weight": 0.7}, "freeze": ["stem.0.bias"]})
    student = distiller.student_model
    start = {name: one.detach().numpy().copy() for name, one in student.named_parameters()}
    draws = np.random.default_rng(0)
    with torch.no_grad():
        for one in student.parameters():
            if one.requires_grad:
                one += torch.from_numpy(0.1 * draws.standard_normal(one.shape))
    x, y = batches(1)[0]
    output = student(x.double())
    loss = F.cross_entropy(output, y)
    (total,) = (distiller.on_after_compute_loss(x.double(), output, loss),)
    named = {name: one for name, one in student.named_parameters() if one.requires_grad}
    arrays = {name: one.detach().numpy() for name, one in named.items()}
    new = {name for name in arrays if name.startswith("head")}
    near = sum(((array - start[name]) ** 2).sum() for name, array in arrays.items() if name not in new) / 2
    decay = sum((arrays[name] ** 2).sum() for name in new) / 2
    losses = distiller.losses
    assert losses["L2-SP"] == pytest.approx(near, rel=1e-6) and losses["L2-SP.new"] == pytest.approx(decay, rel=1e-6)
    torch.testing.assert_close(
        total.detach(), loss.detach() + torch.tensor(0.3 * near + 0.7 * decay), rtol=0, atol=1e-8
    )
    gradients = torch.autograd.grad(total - loss, list(named.values()))
    for (name, array), gradient in zip(arrays.items(), gradients, strict=True):
        expected = 0.7 * array if name in new else 0.3 * (array - start[name])
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=0, atol=1e-8)
    distiller.on_train_end()


def test_at_the_starting_point_nothing_pulls() -> None:
    distiller = begun({"l2_sp": {"weight": 1.0, "new_weight": 0.0}})
    student = distiller.student_model.eval()
    x, y = batches(1)[0]
    output = student(x.double())
    loss = F.cross_entropy(output, y)
    total = distiller.on_after_compute_loss(x.double(), output, loss)
    assert distiller.losses["L2-SP"] == 0.0 and "L2-SP.new" not in distiller.losses
    for gradient in torch.autograd.grad(total - loss, [student.stem[0].weight, student.body[0].weight]):
        assert not gradient.any()
    distiller.on_train_end()


def oracle(student: np.ndarray, start: np.ndarray, shares: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient of the sum over channels, in loops over [N, C, positions]."""
    value, gradient = 0.0, np.zeros_like(student)
    rows, channels, positions = student.shape
    for row in range(rows):
        for channel in range(channels):
            apart = student[row, channel] - start[row, channel]
            value += shares[channel] * (apart**2).sum() / positions / rows
            gradient[row, channel] = 2 * shares[channel] * apart / positions / rows
    return value, gradient


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 2), (5, 7, 3)])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_distance_of_features_is_the_paper_s(shape: tuple[int, ...], weighted: bool) -> None:
    draws = np.random.default_rng(1)
    student, start = draws.standard_normal(shape), draws.standard_normal(shape)
    shares = np.array([0.2, 0.5, 0.3]) if weighted else np.full(3, 1 / 3)

    def flat(array: np.ndarray) -> np.ndarray:
        return (array.transpose(0, 2, 1) if array.ndim == 3 else array).reshape(5, 3, -1)

    value, gradient = oracle(flat(student), flat(start), shares)
    feature = torch.tensor(student, requires_grad=True)
    given = torch.tensor(shares) if weighted else None
    ours = feature_distance(feature, torch.tensor(start), given)
    ours.backward()
    assert ours.item() == pytest.approx(value, abs=1e-8)
    np.testing.assert_allclose(flat(feature.grad.numpy()), gradient, rtol=0, atol=1e-8)


def test_features_that_do_not_fit_are_refused() -> None:
    feature = torch.zeros(2, 3)
    with pytest.raises(ModelError, match=r"^features of \[2, 3\] and \[2, 4\] can't be compared$"):
        feature_distance(feature, torch.zeros(2, 4))
    with pytest.raises(ModelError, match=r"^there are 2 channel_weights and 3 channels$"):
        feature_distance(feature, feature, torch.ones(2))
    with pytest.raises(UsageError, match=r"^channel_weights names the layer 'b', which is not among layers$"):
        DELTA(["a"], channel_weights={"b": [1.0]})


def test_delta_compares_with_the_student_s_own_beginning() -> None:
    distiller = begun({"delta": {"layers": ["stem.0", "body.0"], "weight": 0.5, "new_weight": 0.0}})
    student = distiller.student_model.eval()
    beginning = net(2).double().eval()
    beginning.load_state_dict(student.state_dict())
    with torch.no_grad():
        student.stem[0].weight += 0.1
    x, y = batches(1)[0]
    x = x.double()
    output = student(x)
    loss = F.cross_entropy(output, y)
    total = distiller.on_after_compute_loss(x, output, loss)
    stems = [model.stem[0](x) for model in (student, beginning)]
    bodies = [model.body[0](model.stem(x)) for model in (student, beginning)]
    expected = sum(feature_distance(*one) for one in (stems, bodies))
    assert expected > 0
    torch.testing.assert_close(total - loss, 0.5 * expected, rtol=0, atol=1e-8)
    distiller.on_train_end()
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in student.modules())


def test_a_channel_without_which_the_loss_grows_weighs_more() -> None:
    model = net(1)
    model.train()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.weight[:, 2] = torch.tensor([5.0, -5.0, 0.0])  # only the third channel decides
    x = batches(1)[0][0]
    labels = model.eval()(x).argmax(1)
    model.train()
    shares = channel_weights(model, "body", [(x, labels)], F.cross_entropy)
    assert sum(shares) == pytest.approx(1) and max(shares) == shares[2]
    assert shares[0] == shares[1] == shares[3]
    assert model.training and not model.body._forward_hooks
