"""Weights in place: tensors stay the student's own, are cast, resized and tied as it has them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdhooks.errors import UsageError
from kdhooks.resampling import resampling
from kdhooks.torch.transfer import BasicFinetunner, transfer_weights
from tests.torch.transfer.models import batches, net, same


def test_tensors_stay_where_the_optimizer_has_them() -> None:
    student, source = net(2), net(1)
    places = {name: value.data_ptr() for name, value in student.state_dict().items()}
    parameters = list(student.parameters())
    transfer_weights(student, source)
    assert {name: value.data_ptr() for name, value in student.state_dict().items()} == places
    assert all(one is other for one, other in zip(parameters, student.parameters(), strict=True))
    assert all(one.is_leaf and one.requires_grad for one in parameters)
    student.head.weight.data.add_(1)
    assert not torch.equal(student.head.weight, source.head.weight)


def test_the_user_s_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    transfer_weights(net(2, channels=3), net(1), on_mismatch={"stem": "repeat"})
    assert torch.equal(torch.get_rng_state(), before)


def test_a_student_without_values_is_refused() -> None:
    with torch.device("meta"):
        student = nn.Linear(2, 2)
    told = r"^Linear is on the meta device, where nothing is kept: call to_empty\(device=...\) before$"
    with pytest.raises(UsageError, match=told):
        transfer_weights(student, nn.Linear(2, 2))


def test_values_are_cast_to_what_the_student_computes_in() -> None:
    source, student = net(1).bfloat16(), net(2).double()
    transfer_weights(student, source)
    assert torch.equal(student.head.weight, source.head.weight.double())
    half = net(2, classes=2).bfloat16()
    transfer_weights(half, net(1), on_mismatch="slice")
    assert torch.equal(half.head.weight, net(1).head.weight[:2].bfloat16())


def test_a_tied_head_follows_its_embedding() -> None:
    embedding, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
    head.weight = embedding.weight
    student = nn.ModuleDict({"embedding": embedding, "head": head})
    given = torch.randn(9, 4)
    report = transfer_weights(student, {"embedding.weight": given})
    assert report.transferred == ("embedding.weight", "head.weight")
    assert torch.equal(head.weight, given) and head.weight is embedding.weight


@pytest.mark.parametrize("size", [(14, 9), (3, 2), (7, 10), (1, 1)])
@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_interpolation_is_that_of_torch(size: tuple[int, int], mode: str) -> None:
    picture = torch.randn(1, 1, 7, 5, dtype=torch.float64)
    expected = F.interpolate(picture, size=size, mode=mode, antialias=True)[0, 0]
    rows, columns = (resampling(old, new, cubic=mode == "bicubic") for old, new in zip((7, 5), size, strict=True))
    ours = torch.from_numpy(rows) @ picture[0, 0] @ torch.from_numpy(columns).T
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_a_first_layer_for_more_channels_answers_to_grey_pictures_as_before() -> None:
    source, student = net(1).eval(), net(2, channels=3).eval()
    transfer_weights(student, source, on_mismatch={"stem.0.weight": "repeat"})
    x = batches(1)[0][0]
    torch.testing.assert_close(student(x.expand(-1, 3, -1, -1)), source(x), rtol=0, atol=1e-6)


def test_a_head_for_some_of_the_classes_says_what_they_said() -> None:
    source, student = net(1, classes=10).eval(), net(2, classes=3).eval()
    transfer_weights(student, source, class_map={"head": [7, 2, [0, 1]]})
    x = batches(1)[0][0]
    theirs = source(x)
    expected = torch.stack([theirs[:, 7], theirs[:, 2], theirs[:, :2].mean(1)], 1)
    torch.testing.assert_close(student(x), expected, rtol=0, atol=1e-6)


def test_basic_finetunner_transfers_and_freezes_what_went_over() -> None:
    finetunner = BasicFinetunner(net(1, classes=10), is_frozen=True)
    student = net(2)
    assert finetunner.finetune_network(student) is student
    assert finetunner.report is not None and finetunner.report.skipped == ("head.weight", "head.bias")
    assert [name for name, one in student.named_parameters() if one.requires_grad] == ["head.weight", "head.bias"]
    before = {name: value.clone() for name, value in student.state_dict().items()}
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.1)
    for x, y in batches(3):
        student.train()
        F.cross_entropy(student(x), y).backward()
        optimizer.step()
    after = student.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {"head.weight", "head.bias"}
    finetunner.release()
    assert all(one.requires_grad for one in student.parameters())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in student.modules())


def test_basic_finetunner_freezes_nothing_unless_asked() -> None:
    student = net(2)
    BasicFinetunner(net(1)).finetune_network(student)
    assert same(student.state_dict(), net(1).state_dict())
    assert all(one.requires_grad for one in student.parameters())
