"""CAC: against an oracle in NumPy, and what holds for the adapter whatever the numbers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdhooks.errors import ModelError, UsageError
from kdhooks.torch.adaptation import ADAPTERS, CACDomainAdversarialLoss, DomainBatch
from tests.contract import cac_oracle as oracle

CLASSES = 3
SHAPES = {2: [(2, 4, 4), (3, 2, 2), (2, 4, 4)], 3: [(1, 2, 2, 2), (2, 2, 2, 2)]}
"""Of the layers, by dimensions: two of the encoder and one of the decoder, or one and one."""


def batch(rows: int, dims: int, seed: int, *, labels: bool = False) -> DomainBatch:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator, dtype=torch.float64).requires_grad_()

    masks = torch.randint(-1, CLASSES, (rows, *[4] * dims), generator=generator) if labels else None
    return DomainBatch(tuple(drawn(*shape) for shape in SHAPES[dims]), drawn(CLASSES, *[4] * dims), masks)


def wide(tensor: Tensor) -> Any:
    return tensor.detach().numpy().astype(np.longdouble)


def split(dims: int) -> dict[str, list[int]]:
    """Which layers a branch sees, finest first."""
    return {"encoder": [0, 1], "decoder": [2]} if dims == 2 else {"encoder": [0], "decoder": [1]}


def value(cac: CACDomainAdversarialLoss, sides: list[list[Any]], fixed: list[Any], masks: Any = None) -> Any:
    """The oracle's loss of [*features, logits] of both sides; `fixed` logits are those without gradient."""
    weights = {name: wide(tensor) for name, tensor in cac.state_dict().items()}
    total = np.longdouble(0)
    for (name, order), weight in zip(split(sides[0][-1].ndim - 2).items(), cac.weights, strict=False):
        seen = [
            oracle.beside([side[at] for at in order], logits if cac.settings["class_aware"] else None)
            for side, logits in zip(sides, fixed, strict=True)
        ]
        total += weight * oracle.branch(*seen, weights, name)
    ours, theirs = (oracle.probabilities(side[-1]) for side in sides)
    if masks is not None:
        ours = np.where(masks[:, None] >= 0, np.moveaxis(np.eye(CLASSES)[np.maximum(masks, 0)], -1, 1), ours)
    return total + cac.weights[2] * oracle.branch([ours], [theirs], weights, "segmentation")


def slope(of: Callable[[Any], Any], at: Any, along: Any) -> float:
    """The derivative of a scalar function in one direction, by the five-point stencil in longdouble."""
    step = np.longdouble(1e-4)
    found = [of(at + count * step * along) for count in (1, -1, 2, -2)]
    return float((8 * (found[0] - found[1]) - (found[2] - found[3])) / (12 * step))


@pytest.mark.parametrize(
    ("dims", "class_aware", "mask_prior"), [(2, True, True), (2, False, False), (2, True, False), (3, True, True)]
)
def test_value_and_gradients_are_the_oracles(dims: int, class_aware: bool, mask_prior: bool) -> None:
    cac = CACDomainAdversarialLoss(
        weights=(0.5, 2.0, 1.5), hidden_size=2, class_aware=class_aware, mask_prior=mask_prior, seed=3
    )
    source, target = batch(2, dims, 1, labels=True), batch(3, dims, 2)
    loss = cac(source, target, coefficient=0.7)
    loss.backward()
    sides = [[wide(one) for one in (*side.features, side.logits)] for side in (source, target)]
    fixed = [side[-1] for side in sides]
    masks = None if source.labels is None or not mask_prior else source.labels.numpy()
    assert float(loss.detach()) == pytest.approx(float(value(cac, sides, fixed, masks)), rel=1e-12)
    rng = np.random.default_rng(0)
    for at, side in enumerate((source, target)):
        for index, tensor in enumerate((*side.features, side.logits)):

            def moved(x: Any, at: int = at, index: int = index) -> Any:
                changed = [list(one) for one in sides]
                changed[at][index] = x
                return value(cac, changed, fixed, masks)

            gradient = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
            for _ in range(3):
                along = rng.standard_normal(tensor.shape)
                expected = -0.7 * slope(moved, sides[at][index], along)
                assert float((gradient * along).sum()) == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_the_discriminators_descend_where_the_student_ascends() -> None:
    cac = CACDomainAdversarialLoss(hidden_size=2)
    source, target = batch(2, 2, 1), batch(3, 2, 2)
    cac(source, target, coefficient=0.0).backward()
    assert not any(feature.grad.any() for feature in source.features)  # type: ignore[union-attr]
    before = float(cac(source, target).detach())
    with torch.no_grad():
        for parameter in cac.parameters():
            parameter -= 0.1 * parameter.grad
    assert float(cac(source, target).detach()) < before


def test_the_class_beside_a_map_gets_no_gradient() -> None:
    cac = CACDomainAdversarialLoss(hidden_size=2, weights=(1, 1, 0))
    source, target = batch(2, 2, 1), batch(3, 2, 2)
    cac(source, target).backward()
    assert source.logits.grad is None and target.logits.grad is None


def test_a_decoders_layers_are_seen_finest_first() -> None:
    cac = CACDomainAdversarialLoss(hidden_size=2, encoder_levels=0)
    features = tuple(torch.randn(2, channels, size, size) for channels, size in ((5, 2), (4, 4), (3, 8)))
    side = DomainBatch(features, torch.randn(2, 2, 8, 8))
    cac(side, side)
    assert list(cac.discriminators) == ["decoder", "segmentation"]
    assert [one.weight.shape[1] for one in cac.discriminators["decoder"].convolutions] == [3 + 2, 2 + 4 + 2, 4 + 5 + 2]


def test_images_of_another_size_and_an_unequal_batch_go_through_the_same_weights() -> None:
    cac = CACDomainAdversarialLoss(hidden_size=2)
    small = DomainBatch((torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)), torch.randn(2, 2, 16, 16))
    large = DomainBatch((torch.randn(5, 3, 12, 16), torch.randn(5, 3, 6, 8)), torch.randn(5, 2, 24, 32))
    measures = [cac(small, large) * 0, *cac.measures().values()]
    assert torch.isfinite(torch.stack(measures)).all()
    assert set(cac.measures()) == {
        "encoder_accuracy",
        "decoder_accuracy",
        "segmentation_accuracy",
        "domain_accuracy",
    }


def test_weights_come_from_a_generator_of_its_own_and_come_back_from_a_state() -> None:
    def made(seed: int) -> CACDomainAdversarialLoss:
        cac = CACDomainAdversarialLoss(hidden_size=2, seed=seed)
        cac.build(batch(2, 2, 1), batch(3, 2, 2))
        return cac

    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, other = made(1), made(2)
    assert torch.equal(before, torch.get_rng_state())
    state = one.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in made(1).state_dict().items())
    assert not all(torch.equal(state[key], tensor) for key, tensor in other.state_dict().items())
    late = CACDomainAdversarialLoss(hidden_size=2, seed=2)
    late.load_state_dict(state)
    late.build(batch(2, 2, 1), batch(3, 2, 2))
    assert all(torch.equal(state[key], tensor) for key, tensor in late.state_dict().items())


def test_a_branch_of_weight_zero_is_not_made() -> None:
    cac = CACDomainAdversarialLoss(hidden_size=2, weights=(0, 0, 1))
    cac(batch(2, 2, 1), batch(3, 2, 2))
    assert list(cac.discriminators) == ["segmentation"]


def test_it_is_in_the_table() -> None:
    assert ADAPTERS["CAC"] is CACDomainAdversarialLoss


def wrong(features: tuple[Any, ...], logits: Tensor) -> DomainBatch:
    return DomainBatch(features, logits)


FLAT, MAPS = torch.zeros(2, 3), torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("options", "source", "kind", "message"),
    [
        (
            {},
            wrong((), FLAT),
            ModelError,
            "the adapter 'cac' is for segmentation: it needs logits [N, C, H, W] or [N, C, D, H, W], and the source's "
            "have shape [2, 3]",
        ),
        (
            {},
            wrong((FLAT,), MAPS),
            ModelError,
            "the adapter 'cac' needs maps with the axes of the logits [2, 3, 4, 4], and a layer of the source gives "
            "[2, 3]",
        ),
        (
            {"encoder_levels": 2},
            wrong((MAPS,), MAPS),
            ModelError,
            "the adapter 'cac' has encoder_levels: 2, and gets the maps of 1 layers",
        ),
        (
            {"weights": (1, 1, 0)},
            wrong((), MAPS),
            ModelError,
            "the adapter 'cac' has nothing to do: give it layers, or the segmentation a weight",
        ),
        (
            {"mask_prior": True},
            wrong((), MAPS),
            UsageError,
            "the adapter 'cac' needs the source's labels: pass target= to on_after_compute_loss",
        ),
    ],
)
def test_what_does_not_fit_is_said(options: Any, source: DomainBatch, kind: type, message: str) -> None:
    with pytest.raises(kind) as caught:
        CACDomainAdversarialLoss(**options)(source, source)
    assert str(caught.value) == message


def test_maps_of_another_width_than_the_first_batchs_are_refused() -> None:
    cac = CACDomainAdversarialLoss(hidden_size=2)
    cac(batch(2, 2, 1), batch(3, 2, 2))
    other = DomainBatch(tuple(torch.zeros(2, 9, 4, 4) for _ in range(3)), torch.zeros(2, CLASSES, 4, 4))
    with pytest.raises(ModelError) as caught:
        cac(other, other)
    assert str(caught.value) == (
        "the encoder's discriminator of 'cac' was made for rows of 5 numbers, and gets rows of 12; the first batch "
        "decides, so make a new adapter for another model"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weights": (1, 1)},
            "the adapter 'cac': weights: expected three numbers, of encoder, decoder and segmentation, got 2",
        ),
        (
            {"hidden_size": 0},
            "the adapter 'cac': hidden_size: expected a whole number of at least 1, got 0",
        ),
        (
            {"encoder_levels": "half"},
            "the adapter 'cac': encoder_levels: expected 'auto' or a whole number of at least 0, got 'half'",
        ),
    ],
)
def test_options_out_of_their_range_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        CACDomainAdversarialLoss(**options)
    assert str(caught.value) == message
