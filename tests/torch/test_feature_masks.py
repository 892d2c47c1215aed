"""Padding tokens that don't count: `feature_mask` in every loss of tokens, and the step's own mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdhooks import Distillation, KDHooksError
from kdhooks.errors import ConfigError
from kdhooks.torch import IntermediateLayersKnowledgeDistillationLoss, SelfKnowledgeDistillationLoss
from kdhooks.torch.losses import attention_kl, attention_transfer, feature_mse
from kdhooks.torch.losses.vid import VID
from tests.torch.small_models import made

N, T, D = 3, 5, 6
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])


class Reader(nn.Module):
    """Padded token numbers to logits, through hidden states and an attention map."""

    def __init__(self, width: int = D) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.attention = nn.Softmax(-1)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(input_ids)
        weights = self.attention((x @ x.mT)[:, None])[:, 0]
        output: Tensor = self.head(self.mix(weights @ x).mean(1))
        return output


def batch(padding: int) -> dict[str, Tensor]:
    """The same tokens with other numbers where the padding is."""
    ids = torch.arange(N * T).reshape(N, T) % 7 + 1
    return {"input_ids": torch.where(MASK.bool(), ids, padding), "attention_mask": MASK}


def distillation(layer: str, loss: Any, **options: Any) -> Distillation:
    distiller = Distillation(student_model=made(1, Reader), teacher_model=made(2, Reader))
    distiller.criterion = IntermediateLayersKnowledgeDistillationLoss([[layer]], loss, 1.0, **options)
    return distiller


def loss_of(distiller: Distillation, given: Any, **more: Any) -> float:
    student = distiller.student_model
    with distiller:
        output = student(**given) if isinstance(given, dict) else student(*given)
        distiller.on_after_compute_loss(given, output, output.sum(), **more)
        losses = distiller.losses
    return next(value for name, value in losses.items() if "[" in name)


TOKENS = [
    *("MSE", "L1", "KL", "CE", "hint", "L2", "cosine", {"pkd": {"token": None}}, "attention_transfer", "vid"),
    *({"attention_transfer": {"convention": "common"}}, {"vid": {"convention": "common"}}, "value_relation"),
    *("nst", "ickd", "rkd", "similarity_preserving", "pkt", "correlation_congruence"),
]


@pytest.mark.parametrize("loss", TOKENS, ids=str)
def test_what_stands_in_the_padding_changes_nothing(loss: Any) -> None:
    masked = [loss_of(distillation("embed", loss, feature_mask="attention_mask"), batch(pad)) for pad in (8, 15)]
    assert masked[0] == masked[1] != 0
    plain = [loss_of(distillation("embed", loss), batch(pad)) for pad in (8, 15)]
    assert plain[0] != plain[1]


def test_the_value_is_that_of_the_loss_with_the_mask() -> None:
    distiller = distillation("embed", "MSE", feature_mask="attention_mask")
    x = batch(8)
    one, other = (model.embed(x["input_ids"]) for model in (distiller.student_model, distiller.teacher_model))
    expected = (one - other)[MASK.bool()].square().mean()
    assert loss_of(distiller, x) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert loss_of(distillation("embed", "MSE"), x, mask=MASK) == pytest.approx(float(expected.detach()), rel=1e-6)
    given = distillation("embed", "MSE", feature_mask=lambda inputs: inputs[1].bool())
    assert loss_of(given, (x["input_ids"], MASK)) == pytest.approx(float(expected.detach()), rel=1e-6)
    by_place = distillation("embed", "MSE", feature_mask="1")
    assert loss_of(by_place, (x["input_ids"], MASK)) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_attention_counts_queries_and_keys() -> None:
    x = batch(8)
    for loss, direct in (("attention_kl", attention_kl), ("MSE", None)):
        distiller = distillation("attention", loss, feature_mask="attention_mask")
        maps: list[Tensor] = []
        for model in (distiller.student_model, distiller.teacher_model):
            model.attention.register_forward_hook(lambda module, args, out, maps=maps: maps.append(out))
        found = loss_of(distiller, x)
        pairs = MASK.bool()[:, :, None] & MASK.bool()[:, None, :]
        one, other = maps[0], maps[1]
        expected = direct(one, other, mask=MASK) if direct else feature_mse(one, other, mask=pairs)
        assert found == pytest.approx(float(expected.detach()), rel=1e-6)
    rows = distillation("head", "MSE", feature_mask="attention_mask")  # [N, 3] has no tokens to leave out
    assert loss_of(rows, x) == loss_of(distillation("head", "MSE"), x)


def test_means_of_masked_positions_by_hand() -> None:
    one, other = torch.randn(N, T, D, generator=torch.Generator().manual_seed(1)), torch.ones(N, T, D).cumsum(2)
    short = [side[1:2, :4] for side in (one, other)]
    mask = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0]])
    for convention in ("paper", "common"):
        masked = VID((N, T, D), (N, T, D), convention=convention)(one, other, mask=mask)
        torch.testing.assert_close(masked, VID((1, 4, D), (1, 4, D), convention=convention)(*short))
    masked = attention_transfer(one, other, mask=mask, convention="common")
    torch.testing.assert_close(masked, attention_transfer(*short, convention="common"))


def test_self_distillation_takes_the_mask_too() -> None:
    student, seen = made(1, Reader), []
    for layer in (student.embed, student.mix):
        layer.register_forward_hook(lambda module, args, out: seen.append(out))
    distiller = Distillation(student_model=student)
    distiller.criterion = SelfKnowledgeDistillationLoss(
        [[["embed"], ["mix"]]], 1.0, "MSE", feature_mask="attention_mask"
    )
    found = loss_of(distiller, batch(8))
    assert found == pytest.approx(feature_mse(*seen, mask=MASK).item(), rel=1e-6)


def test_faults(tmp_path: Path) -> None:
    x = batch(8)
    for options, message in (
        (
            {"feature_mask": "attention_maks"},
            "feature_mask: there is no 'attention_maks' in the input, a mapping with the keys 'input_ids', "
            "'attention_mask'. Did you mean 'attention_mask'?",
        ),
        (
            {"feature_mask": lambda inputs: 3},
            "feature_mask: the function returned a int, not a tensor",
        ),
        (
            {"feature_mask": lambda inputs: inputs["attention_mask"][:, :4]},
            "layer_mappings[0]: pair 'embed' -> 'embed': the feature_mask has shape [3, 4]; for features of shape "
            "[3, 5, 6] the loss 'MSE' needs [3, 5]",
        ),
    ):
        with pytest.raises(KDHooksError) as caught:
            loss_of(distillation("embed", "MSE", **options), x)
        assert str(caught.value) == message
    with pytest.raises(KDHooksError) as wrong:
        distillation("embed", "MSE", feature_mask=3)
    assert str(wrong.value) == "feature_mask must be a key of the input or a function of it, not 3"
    path = tmp_path / "kd.yaml"
    path.write_text(
        "distillation:\n  train:\n    criterion:\n      IntermediateLayersKnowledgeDistillationLoss:\n"
        "        layer_mappings: [[embed]]\n        feature_mask: [attention_mask]\n"
    )
    with pytest.raises(ConfigError) as caught:
        Distillation(path)
    assert str(caught.value).splitlines()[0].endswith(".feature_mask: expected text, got a list")
