"""The table of losses: the same names as PyTorch's, and what the losses refuse, word for word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kdhooks.errors import ModelError, UsageError
from kdhooks.registry import REGISTERED_LOSSES
from kdhooks_tf.losses import (
    CRD,
    FEATURE_LOSSES,
    LOSSES,
    MGD,
    TARGET_LOSSES,
    VID,
    ReviewKD,
    build_feature_loss,
    feature_loss,
    kd,
    logit_loss,
    loss_kind,
    rkd,
)


def test_the_tables_are_those_of_pytorch() -> None:
    from kdhooks.torch import losses as twin

    assert {name: loss_kind(name) for name in LOSSES} == {name: twin.loss_kind(name) for name in twin.LOSSES}
    assert set(FEATURE_LOSSES) == set(twin.FEATURE_LOSSES) and set(TARGET_LOSSES) == set(twin.TARGET_LOSSES)
    assert LOSSES._spelling == twin.LOSSES._spelling and FEATURE_LOSSES._spelling == twin.FEATURE_LOSSES._spelling


def test_the_target_losses_have_the_numbers_of_pytorch() -> None:
    import torch

    from kdhooks.torch.losses import TARGET_LOSSES as TWIN

    generator = np.random.default_rng(0)
    for name, target in (("CE", np.array([0, 2, -100, 1])), ("CE", np.full((4, 3), 1 / 3)), ("MSE", np.ones((4, 3))),
                         ("L1", np.zeros((4, 3))), ("BCE", generator.random((4, 3)))):  # fmt: skip
        outputs = generator.normal(size=(4, 3))
        expected = TWIN[name](torch.tensor(outputs), torch.tensor(target))
        assert float(TARGET_LOSSES[name](tf.constant(outputs), tf.constant(target))) == pytest.approx(float(expected))


@pytest.mark.parametrize("spelling", ["KL", "kl", "kd", "KD"])
def test_kl_has_one_meaning_in_every_spelling(spelling: str) -> None:
    assert logit_loss(spelling) is kd
    assert feature_loss(spelling) is FEATURE_LOSSES["KL"] is not kd


def test_plain_losses_have_one_value_on_logits_and_features() -> None:
    generator = np.random.default_rng(0)
    student, teacher = (tf.constant(generator.normal(size=(2, 4, 4, 3))) for _ in range(2))
    for name in ("MSE", "L1", "KL", "CE"):
        assert float(FEATURE_LOSSES[name](student, teacher)) == float(LOSSES[name](student, teacher))


def test_a_loss_of_the_other_kind_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        logit_loss("RKD")
    assert str(caught.value) == (
        "the loss 'rkd' compares features, not logits; name it in an IntermediateLayersKnowledgeDistillationLoss"
    )
    with pytest.raises(UsageError) as caught:
        feature_loss("DKD")
    assert str(caught.value) == "the loss 'dkd' compares logits, not features; name it in a KnowledgeDistillationLoss"
    with pytest.raises(UsageError) as caught:
        logit_loss("KLL")
    assert str(caught.value) == "unknown loss 'KLL'. Did you mean 'KL'?"


def test_a_registered_loss_can_be_looked_up_for_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REGISTERED_LOSSES, "_entries", {})
    monkeypatch.setattr(REGISTERED_LOSSES, "_spelling", {})
    REGISTERED_LOSSES.add("mine", lambda s, t, **_: tf.reduce_sum(s - t))
    assert float(build_feature_loss("mine", (2,), (2,))(tf.ones(2), tf.zeros(2))) == 2.0


def test_options_are_set_once_and_an_unknown_one_is_refused() -> None:
    student, teacher = tf.constant(np.eye(4)), tf.constant(np.arange(12.0).reshape(4, 3) ** 2)
    built = build_feature_loss("rkd", (4, 4), (4, 3), angle_weight=0.0)
    assert float(built(student, teacher)) == float(rkd(student, teacher, angle_weight=0.0))
    with pytest.raises(UsageError) as caught:
        build_feature_loss("rkd", (4, 3), (4, 3), distance_wait=1.0)
    assert str(caught.value) == "the loss 'rkd' has no option 'distance_wait'. Did you mean 'distance_weight'?"


def maps(*shape: int) -> Any:
    return tf.zeros(shape)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LOSSES["KL"](maps(4, 3), maps(1, 3)),
            "the student's logits have shape [4, 3] and the teacher's [1, 3]; "
            "both need the same positions and the same classes in the same order",
        ),
        (
            lambda: LOSSES["KL"](maps(4, 3, 5), maps(4, 3, 5), mask=tf.ones([4, 1])),
            "the mask has shape [4, 1]; for logits of shape [4, 3, 5] with the classes on axis -1 it must be [4, 3]",
        ),
        (
            lambda: LOSSES["dkd"](maps(2, 3), maps(2, 3), target=tf.zeros([3])),
            "the target has shape [3]; for logits of shape [2, 3] with the classes on axis -1 it must be [2]",
        ),
        (
            lambda: LOSSES["mft"](maps(2, 1), maps(2, 1), target=tf.zeros([2])),
            "the loss 'mft' needs two classes or more; the logits have shape [2, 1]",
        ),
        (lambda: MGD((2, 3), (2, 4, 4, 3)), "the loss 'mgd' needs maps [N, H, W, C]; a feature has shape [2, 3]"),
        (
            lambda: MGD((2, 4, 4, 3), (2, 4, 4, 3))(maps(2, 4, 4, 3), maps(2, 5, 5, 3)),
            "the loss 'mgd' needs two maps [N, H, W, C] of one batch and space; the student's feature has shape "
            "[2, 4, 4, 3] and the teacher's [2, 5, 5, 3]",
        ),
        (
            lambda: ReviewKD([(2, 4, 4, 3)], [(2, 4, 4, 3), (2, 2, 2, 3)]),
            "the loss 'review' has 1 student maps for 2 of the teacher",
        ),
        (
            lambda: ReviewKD((2, 3, 4), (2, 3, 4)),
            "the loss 'review' needs maps [N, H, W, C] or rows [N, D]; a shape is [2, 3, 4]",
        ),
        (
            lambda: ReviewKD((2, 4, 4, 3), (2, 4, 4, 3))([maps(2, 4, 4, 3)] * 2, [maps(2, 4, 4, 3)] * 2),
            "the loss 'review' was made for 1 maps, and got 2",
        ),
        (
            lambda: ReviewKD((2, 4, 4, 3), (2, 4, 4, 3))(maps(2, 4, 4, 3), maps(2, 4, 4, 5)),
            "the loss 'review' needs the shapes it was made for; the student's feature has shape [2, 4, 4, 3] "
            "and the teacher's [2, 4, 4, 5]",
        ),
        (
            lambda: VID((2, 3), (2, 3))(maps(2, 3), maps(3, 3)),
            "the loss 'vid' needs the shapes it was made for; the student's feature has shape [2, 3] "
            "and the teacher's [3, 3]",
        ),
        (lambda: VID((2,), (2, 3)), "the loss 'vid' needs the shape of a batch of features, and not [2]"),
        (
            lambda: CRD((2, 3), (2, 3), samples=9, negatives=2)(maps(2, 4), maps(2, 3)),
            "the loss 'crd' needs the shapes it was made for; the student's feature has shape [2, 4] "
            "and the teacher's [2, 3]",
        ),
        (
            lambda: FEATURE_LOSSES["hint"](maps(2, 3), maps(2, 4)),
            "the loss 'hint' needs two features of one shape (a feature matcher); the student's feature has shape "
            "[2, 3] and the teacher's [2, 4]",
        ),
        (
            lambda: FEATURE_LOSSES["attention_transfer"](maps(2, 4, 4, 3), maps(2, 4, 5, 3)),
            "the loss 'attention_transfer' needs two features of one batch, space or number of tokens; "
            "the student's feature has shape [2, 4, 4, 3] and the teacher's [2, 4, 5, 3]",
        ),
        (
            lambda: rkd(maps(2, 3), maps(3, 3)),
            "the loss 'rkd' needs two features of one batch; the student's feature has shape [2, 3] "
            "and the teacher's [3, 3]",
        ),
        (
            lambda: FEATURE_LOSSES["fsp"]([maps(2, 4, 4, 3)], [maps(2, 4, 4, 3)]),
            "the loss 'fsp' needs two features of each model, as (first, second)",
        ),
        (
            lambda: FEATURE_LOSSES["fsp"](maps(2, 4, 4, 3), [maps(2, 4, 4, 3)]),
            "student and teacher need one feature each, or lists of features of one length",
        ),
        (
            lambda: FEATURE_LOSSES["value_relation"](maps(2, 3, 5), maps(2, 3, 5), heads=2),
            "the loss 'value_relation' needs values [N, heads, T, d], or [N, T, D] with D divisible by heads=2; "
            "a feature has shape [2, 3, 5]",
        ),
        (
            lambda: FEATURE_LOSSES["MSE"](maps(2, 3, 5), maps(2, 3, 5), mask=tf.ones([2])),
            "the mask has shape [2]; for features of shape [2, 3, 5] with the channels on axis -1 it must be [2, 3]",
        ),
        (
            lambda: FEATURE_LOSSES["attention_kl"](maps(2, 1, 3, 3), maps(2, 1, 3, 3), mask=tf.ones([2, 2])),
            "the mask has shape [2, 2]; it must be [2, 3]: the samples and their tokens",
        ),
    ],
)
def test_shapes_that_do_not_fit(make: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: rkd(maps(3, 2), maps(3, 2), convention="papers"),
            "the convention of 'rkd' is 'paper' or 'common', and not 'papers'",
        ),
        (lambda: LOSSES["dkd"](maps(3, 2), maps(3, 2)), "the loss 'dkd' needs the labels: pass target="),
        (
            lambda: LOSSES["skewed_kl"](maps(3, 2), maps(3, 2), alpha=1.5),
            "the skew alpha of 'skewed_kl' lies from 0 to 1, and is 1.5",
        ),
        (
            lambda: LOSSES["teacher_free"](maps(3, 2), a=1.0),
            "the probability a of 'teacher_free' lies between 0 and 1, and is 1.0",
        ),
        (
            lambda: LOSSES["mft"](maps(3, 2), maps(3, 2), tau=-1),
            "the margin tau of 'mft' lies from 0 to 1, and is -1",
        ),
        (
            lambda: FEATURE_LOSSES["nst"](maps(3, 2, 2, 2), maps(3, 2, 2, 2), kernel="rbf"),
            "the kernel of 'nst' is 'linear', 'polynomial' or 'gaussian', and not 'rbf'",
        ),
        (
            lambda: FEATURE_LOSSES["correlation_congruence"](maps(3, 2), maps(3, 2), order=0),
            "the order of 'correlation_congruence' is 1 or more, or None, and not 0",
        ),
        (
            lambda: MGD((2, 4, 4, 3), (2, 4, 4, 3), ratio=1.0),
            "the masked ratio of 'mgd' is at least 0 and below 1, and not 1.0",
        ),
        (
            lambda: MGD((2, 4, 4, 3), (2, 4, 4, 3), masked="tokens"),
            "what 'mgd' masks is 'space' or 'channels', and not 'tokens'",
        ),
        (
            lambda: CRD((2, 3), (2, 3), samples=1),
            "'crd' needs samples of 2 or more, negatives of 1 or more, a temperature above 0 and a momentum from 0 to "
            "below 1, and has samples=1, negatives=16384, temperature=0.07, momentum=0.5",
        ),
        (
            lambda: CRD((2, 3), (2, 3), samples=9, negatives=2)(maps(2, 3), maps(2, 3), sample_ids=tf.zeros([3])),
            "'crd' needs 2 sample_ids for its batch, and got [3]",
        ),
    ],
)
def test_options_that_make_no_sense(make: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value) == message


def test_soft_labels_count_by_their_most_probable_class() -> None:
    generator = np.random.default_rng(0)
    student, teacher = (tf.constant(generator.normal(size=(4, 5))) for _ in range(2))
    target = tf.constant([0, 3, 1, 4])
    soft = tf.one_hot(target, 5) * 0.8 + 0.04
    assert float(LOSSES["dkd"](student, teacher, target=soft)) == float(LOSSES["dkd"](student, teacher, target=target))
