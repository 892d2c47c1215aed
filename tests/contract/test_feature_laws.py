"""The laws that every loss keeps: zero at equality, what it doesn't see, symmetry, and masks that are slices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.contract import feature_oracle as oracle
from tests.contract.backends import Array, ContractBackend, as_list, each
from tests.contract.feature_cases import (
    CASES,
    HEADS,
    LOGITS,
    MAPS,
    ROWS,
    TOKENS,
    drawn,
    labelled,
    of_features,
)

ZERO_WHEN_EQUAL = sorted(set(CASES) - {"CE"})


@pytest.mark.parametrize("name", ZERO_WHEN_EQUAL)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_equal_features_cost_nothing(backend: ContractBackend, name: str, dtype: str) -> None:
    for shape, _, options in CASES[name]:
        student = drawn(shape, 1, name)
        value, gradient = backend.feature(name, student, student, dtype=dtype, **options)
        eps = backend.epsilon["float64" if dtype == "float64" else "float32"]
        assert abs(value) <= 20 * eps
        for one in as_list(gradient):
            if name == "attention_kl" and not options:  # of probabilities, only what keeps their sum says something
                one = one - one.mean(-1, keepdims=True)
            stray = 1e-7 if name == "pkt" and options else 0.0  # the authors' code adds as much to probabilities
            np.testing.assert_allclose(one, np.zeros_like(one), atol=100 * eps + stray)


@pytest.mark.parametrize("name", sorted(LOGITS))
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equal_logits_cost_nothing_but_against_labels(backend: ContractBackend, name: str, temperature: float) -> None:
    logits = drawn((6, 5), 1) * 2
    target = np.abs(labelled((6,), 5)) % 5
    value, gradient = backend.loss(name, logits, logits, temperature=temperature, target=target)
    if name in ("teacher_free", "mft"):  # they follow the labels, whatever the teacher says
        assert value > 0.01
        return
    assert abs(value) < 1e-14 * temperature**2
    np.testing.assert_allclose(gradient, np.zeros_like(gradient), atol=1e-13)


def rotation(width: int) -> Array:
    return np.linalg.qr(np.random.default_rng(11).normal(size=(width, width)))[0]


def changed(
    backend: ContractBackend, name: str, change: Callable[[Array], Array], shape: tuple[int, ...] = ROWS
) -> None:
    """A change of the student's feature changes nothing."""
    student, teacher = drawn(shape, 1), drawn(shape, 2)
    before = backend.feature(name, student, teacher)[0]
    assert backend.feature(name, change(student), teacher)[0] == pytest.approx(before, rel=1e-10)
    assert before > 1e-3


@pytest.mark.parametrize("name", ["rkd", "similarity_preserving", "correlation_congruence", "pkt"])
def test_relations_do_not_see_a_rotation(backend: ContractBackend, name: str) -> None:
    changed(backend, name, lambda feature: feature @ rotation(feature.shape[1]))


@pytest.mark.parametrize("name", ["rkd", "similarity_preserving", "correlation_congruence", "pkt", "cosine", "pkd"])
def test_directions_and_relations_do_not_see_a_scale(backend: ContractBackend, name: str) -> None:
    changed(backend, name, lambda feature: feature * 7.5)


@pytest.mark.parametrize("name", ["attention_transfer", "nst"])
def test_maps_of_directions_do_not_see_a_scale(backend: ContractBackend, name: str) -> None:
    changed(backend, name, lambda feature: feature * 7.5, MAPS)


def test_relational_distillation_does_not_see_a_shift(backend: ContractBackend) -> None:
    changed(backend, "rkd", lambda feature: feature + 3.0)


@pytest.mark.parametrize("name", ["attention_transfer", "nst"])
def test_the_order_of_channels_does_not_matter_to_maps(backend: ContractBackend, name: str) -> None:
    changed(backend, name, lambda feature: feature[:, ::-1].copy(), MAPS)


def test_the_values_of_minilm_do_not_see_a_rotation(backend: ContractBackend) -> None:
    changed(backend, "value_relation", lambda feature: feature @ rotation(feature.shape[-1]), TOKENS)


def test_the_inter_channel_correlation_does_not_see_the_order_of_space(backend: ContractBackend) -> None:
    changed(backend, "ickd", lambda feature: feature[:, :, ::-1].copy(), MAPS)


def test_standardised_logits_see_neither_shift_nor_scale(backend: ContractBackend) -> None:
    student, teacher = drawn((6, 5), 1), drawn((6, 5), 2)
    value = backend.loss("logit_standardization", student, teacher)[0]
    assert backend.loss("logit_standardization", 3 * student - 4, teacher * 0.2 + 1)[0] == pytest.approx(value)


def test_dist_sees_no_shift_of_logits_and_pearson_no_order_of_samples(backend: ContractBackend) -> None:
    student, teacher = drawn((6, 5), 1), drawn((6, 5), 2)
    value = backend.loss("dist", student, teacher)[0]
    assert backend.loss("dist", student + 4, teacher)[0] == pytest.approx(value)
    assert backend.loss("dist", student[::-1].copy(), teacher[::-1].copy())[0] == pytest.approx(value)


@pytest.mark.parametrize("name", ["MSE", "L1", "L2", "cosine", "hint", "rkd", "similarity_preserving", "nst", "ickd"])
def test_distances_are_symmetric(backend: ContractBackend, name: str) -> None:
    shape = MAPS if name in ("nst", "ickd") else ROWS
    student, teacher = drawn(shape, 1), drawn(shape, 2)
    there, back = (backend.feature(name, *pair)[0] for pair in ((student, teacher), (teacher, student)))
    assert there == pytest.approx(back, rel=1e-12)


@of_features
def test_the_order_of_samples_does_not_matter(backend: ContractBackend, name: str, case: int) -> None:
    student_shape, teacher_shape, options = CASES[name][case]
    student, teacher = drawn(student_shape, 1, name), drawn(teacher_shape, 2, name)
    value = backend.feature(name, student, teacher, **options)[0]
    turned = (each(one, lambda feature: feature[::-1].copy()) for one in (student, teacher))
    assert backend.feature(name, *turned, **options)[0] == pytest.approx(value, rel=1e-12)


def test_decoupled_distillation_with_the_papers_weights_is_plain_distillation(backend: ContractBackend) -> None:
    """Equation 6: with beta = 1 - p_target of the teacher, a row's value is that of kd."""
    student, teacher = drawn((1, 5), 1), drawn((1, 5), 2)
    beta = 1 - float(oracle.softmax(teacher)[0, 2])
    value = backend.loss("dkd", student, teacher, target=np.array([2]), beta=beta)[0]
    assert value == pytest.approx(backend.loss("kd", student, teacher)[0], rel=1e-12)


def test_skewed_kl_at_its_ends(backend: ContractBackend) -> None:
    student, teacher = drawn((4, 5), 1), drawn((4, 5), 2)
    for reverse, name in ((False, "kd"), (True, "reverse_kl")):
        value = backend.loss("skewed_kl", student, teacher, alpha=0.0, reverse=reverse)
        assert value[0] == backend.loss(name, student, teacher)[0]
        whole = backend.loss("skewed_kl", student, teacher, alpha=1.0, reverse=reverse)
        assert abs(whole[0]) < 1e-15 and np.abs(whole[1]).max() < 1e-15


def test_the_corrected_teacher_leads_by_tau_where_it_was_wrong(backend: ContractBackend) -> None:
    """A student that equals the corrected distribution costs nothing."""
    teacher, label, tau = np.log(np.array([[0.6, 0.3, 0.1]])), 1, 0.2
    share = (0.3 + tau) / 1.3
    corrected = (1 - share) * np.array([[0.6, 0.3, 0.1]])
    corrected[0, label] += share
    assert corrected[0, 1] - corrected[0, 0] == pytest.approx(tau)
    value = backend.loss("mft", np.log(corrected), teacher, target=np.array([label]))[0]
    assert abs(value) < 1e-15


MASKED: dict[str, dict[str, Any]] = {
    "MSE": {}, "L1": {}, "KL": {"temperature": 2.0}, "CE": {}, "cosine": {}, "hint": {"convention": "common"},
    "L2": {"convention": "common"}, "pkd": {"token": None},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MASKED))
def test_a_mask_of_tokens_is_a_slice_and_nothing_leaks(backend: ContractBackend, name: str) -> None:
    student, teacher = drawn((3, 4, 5), 1), drawn((3, 4, 5), 2)
    mask = np.arange(4)[None] < np.array([4, 1, 2])[:, None]
    alone, slope = backend.feature(name, student[mask], teacher[mask], **MASKED[name])
    student[~mask], teacher[~mask] = math.nan, math.inf
    value, gradient = backend.feature(name, student, teacher, mask=mask, **MASKED[name])
    assert value == pytest.approx(alone, rel=1e-12)
    np.testing.assert_allclose(gradient[mask], slope, rtol=1e-12)
    assert not gradient[~mask].any()


@pytest.mark.parametrize("name", ["hint", "L2"])
def test_a_hint_with_masked_samples_is_the_mean_over_the_others(backend: ContractBackend, name: str) -> None:
    student, teacher = drawn((4, 3), 1), drawn((4, 3), 2)
    kept = np.array([True, False, True, True])
    value = backend.feature(name, student, teacher, mask=kept)[0]
    assert value == pytest.approx(backend.feature(name, student[kept], teacher[kept])[0])


def test_a_masked_class_token_is_left_out(backend: ContractBackend) -> None:
    student, teacher = drawn(TOKENS, 1), drawn(TOKENS, 2)
    mask = np.array([[True, False, True], [False, True, True]])
    value = backend.feature("pkd", student, teacher, mask=mask)[0]
    assert value == pytest.approx(backend.feature("pkd", student[:1], teacher[:1])[0])


@pytest.mark.parametrize("convention", ["paper", "common"])
def test_padding_has_no_attention_to_transfer(backend: ContractBackend, convention: str) -> None:
    """Sentences of 4, 1 and 2 tokens cost what they cost alone: means over sentences, or over all their tokens."""
    student, teacher = drawn((3, 4, 5), 1), drawn((3, 4, 6), 2)
    lengths = np.array([4, 1, 2])
    shares = np.full(3, 1 / 3) if convention == "paper" else lengths / 7
    mask = np.arange(4)[None] < lengths[:, None]
    alone = [
        backend.feature(
            "attention_transfer", student[n : n + 1, :count], teacher[n : n + 1, :count], convention=convention
        )
        for n, count in enumerate(lengths)
    ]
    student[~mask], teacher[~mask] = math.nan, math.inf
    value, gradient = backend.feature("attention_transfer", student, teacher, mask=mask, convention=convention)
    assert value == pytest.approx(sum(share * one[0] for share, one in zip(shares, alone, strict=True)), rel=1e-12)
    for n, count in enumerate(lengths):
        np.testing.assert_allclose(gradient[n : n + 1, :count], shares[n] * alone[n][1], rtol=1e-10, atol=1e-15)
    assert not gradient[~mask].any()


@pytest.mark.parametrize(
    ("name", "options"), [("attention_kl", {"scores": True}), ("attention_kl", {}), ("value_relation", {})]
)
def test_padding_is_neither_query_nor_key(backend: ContractBackend, name: str, options: dict[str, Any]) -> None:
    """Sentences of 4 and 2 tokens in a batch cost what they cost alone, weighed by their tokens."""
    shape = (2, 2, 4, 4) if name == "attention_kl" else (2, 2, 4, 3)
    student, teacher = drawn(shape, 1), drawn(shape, 2)
    if name == "attention_kl" and not options:
        student, teacher = oracle.softmax(student), oracle.softmax(teacher)
        for one in (student, teacher):
            one[1, :, :2, :2] = oracle.softmax(one[1, :, :2, :2])
    lengths = (4, 2)
    total, parts = 0.0, []
    for sample, tokens in enumerate(lengths):
        keys = tokens if name == "attention_kl" else 3
        alone = [one[sample : sample + 1, :, :tokens, :keys] for one in (student, teacher)]
        value, slope = backend.feature(name, *alone, **options)
        total += tokens * value / 6
        parts.append(tokens * slope / 6)
    student[1, :, 2:], teacher[1, :, 2:] = math.nan, math.nan
    if name == "attention_kl":
        student[1, :, :, 2:], teacher[1, :, :, 2:] = math.nan, math.nan
    mask = np.array([[True] * 4, [True, True, False, False]])
    value, gradient = backend.feature(name, student, teacher, mask=mask, **options)
    assert value == pytest.approx(total, rel=1e-12)
    for sample, (tokens, part) in enumerate(zip(lengths, parts, strict=True)):
        np.testing.assert_allclose(gradient[sample : sample + 1, :, :tokens, : part.shape[3]], part, atol=1e-13)
    assert not gradient[1, :, 2:].any()


def test_attention_scores_may_be_minus_infinity(backend: ContractBackend) -> None:
    scores = drawn(HEADS, 1)
    scores[..., 2] = -math.inf
    value, gradient = backend.feature("attention_kl", scores, scores * 2, scores=True)
    shorter, slope = backend.feature("attention_kl", scores[..., :2], scores[..., :2] * 2, scores=True)
    assert value == pytest.approx(shorter)
    np.testing.assert_allclose(gradient[..., :2], slope, atol=1e-14)
    assert not gradient[..., 2].any()
