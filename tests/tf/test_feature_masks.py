"""Padding tokens that don't count: `feature_mask` in losses of tokens, and the step's own mask, as in PyTorch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation, KDHooksError
from kdhooks_tf import IntermediateLayersKnowledgeDistillationLoss, SelfKnowledgeDistillationLoss
from kdhooks_tf.losses import attention_kl, feature_mse
from tests.tf.feature_models import made

N, T, D = 3, 5, 6
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
COUNTED = MASK.astype(bool)


class Reader(keras.Model):
    """Padded token numbers to logits, through hidden states and an attention map of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = keras.layers.Embedding(20, D, name="embed")
        self.attention = keras.layers.Softmax(name="attention")
        self.mix = keras.layers.Dense(D, name="mix")
        self.head = keras.layers.Dense(3, name="head")

    def call(self, input_ids: Any, attention_mask: Any) -> Any:
        x = self.embed(input_ids)
        scores = tf.matmul(x, x, transpose_b=True)
        weights = self.attention(tf.stack([scores, 2 * scores], 1))[:, 0]
        return self.head(tf.reduce_mean(self.mix(tf.matmul(weights, x)), 1))


def reader(width: int = D) -> Any:
    model = Reader()
    model(**batch(8))
    return model


def batch(padding: int) -> dict[str, Any]:
    """The same tokens with other numbers where the padding is."""
    ids = np.arange(N * T).reshape(N, T) % 7 + 1
    return {"input_ids": tf.constant(np.where(COUNTED, ids, padding)), "attention_mask": tf.constant(MASK)}


def distillation(layer: str, loss: Any, **options: Any) -> Distillation:
    distiller = Distillation(student_model=made(reader, D, 1), teacher_model=made(reader, D, 2))
    distiller.criterion = IntermediateLayersKnowledgeDistillationLoss([[layer]], loss, 1.0, **options)
    return distiller


def loss_of(distiller: Distillation, given: Any, mode: str = "eager", **more: Any) -> float:
    student = distiller.student_model

    def step(given: Any, more: Any) -> Any:
        with tf.GradientTape():
            output = student(**given, training=True) if isinstance(given, dict) else student(*given, training=True)
            return distiller.on_after_compute_loss(given, output, tf.reduce_mean(output), **more)

    with distiller:
        (step if mode == "eager" else tf.function(step))(given, more)
        losses = distiller.losses
    return next(value for name, value in losses.items() if "[" in name)


TOKENS = [
    *("MSE", "L1", "KL", "CE", "hint", "L2", "cosine", {"pkd": {"token": None}}, "attention_transfer", "vid"),
    *("value_relation", "nst", "ickd", "rkd", "similarity_preserving", "pkt", "correlation_congruence"),
]


@pytest.mark.parametrize("loss", TOKENS, ids=str)
def test_what_stands_in_the_padding_changes_nothing(loss: Any) -> None:
    masked = [loss_of(distillation("embed", loss, feature_mask="attention_mask"), batch(pad)) for pad in (8, 15)]
    assert masked[0] == masked[1] != 0
    plain = [loss_of(distillation("embed", loss), batch(pad)) for pad in (8, 15)]
    assert plain[0] != plain[1]


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_the_value_is_that_of_the_loss_with_the_mask(mode: str) -> None:
    distiller = distillation("embed", "MSE", feature_mask="attention_mask")
    x = batch(8)
    one, other = (model.embed(x["input_ids"]).numpy() for model in (distiller.student_model, distiller.teacher_model))
    expected = pytest.approx(float(np.square(one - other)[COUNTED].mean()), rel=1e-6)
    assert loss_of(distiller, x, mode) == expected
    assert loss_of(distillation("embed", "MSE"), x, mode, mask=tf.constant(MASK)) == expected
    pair = (x["input_ids"], x["attention_mask"])
    given = distillation("embed", "MSE", feature_mask=lambda inputs: tf.cast(inputs[1], tf.bool))
    assert loss_of(given, pair, mode) == expected
    assert loss_of(distillation("embed", "MSE", feature_mask="1"), pair, mode) == expected
    if mode == "eager":
        arrays = {name: value.numpy() for name, value in x.items()}
        assert loss_of(distillation("embed", "MSE", feature_mask="attention_mask"), arrays) == expected


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_attention_counts_queries_and_keys(mode: str) -> None:
    x = batch(8)
    pairs = COUNTED[:, :, None] & COUNTED[:, None, :]
    for loss in ("attention_kl", "MSE", "rkd"):
        distiller = distillation("attention", loss, feature_mask="attention_mask")
        sides = []
        for model in (distiller.student_model, distiller.teacher_model):
            hidden = model.embed(x["input_ids"])
            scores = tf.matmul(hidden, hidden, transpose_b=True)
            sides.append(tf.nn.softmax(tf.stack([scores, 2 * scores], 1)))
        found = loss_of(distiller, x, mode)
        if loss == "attention_kl":
            assert found == pytest.approx(float(attention_kl(*sides, mask=MASK)), rel=1e-5)
        elif loss == "MSE":  # the mean over heads and over pairs of tokens that both count
            by_hand = np.square(sides[0] - sides[1]).transpose(0, 2, 3, 1)[pairs].mean()
            assert found == pytest.approx(float(by_hand), rel=1e-5)
        else:
            blank = [np.where(pairs[:, None], side, 0) for side in sides]
            assert found == pytest.approx(loss_of_blank(blank), rel=1e-4)
    rows = distillation("head", "MSE", feature_mask="attention_mask")  # [N, 3] has no tokens to leave out
    assert loss_of(rows, x, mode) == loss_of(distillation("head", "MSE"), x, mode)


def loss_of_blank(sides: Any) -> float:
    from kdhooks_tf.losses import rkd

    return float(rkd(*(tf.constant(side, tf.float32) for side in sides)))


def test_self_distillation_takes_the_mask_too() -> None:
    student = made(reader, D, 1)
    distiller = Distillation(student_model=student)
    options: Any = {"feature_mask": "attention_mask"}
    distiller.criterion = SelfKnowledgeDistillationLoss([[["embed"], ["mix"]]], 1.0, "MSE", **options)
    x = batch(8)
    found = loss_of(distiller, x)
    hidden = student.embed(x["input_ids"])
    mixed = student.mix(tf.matmul(tf.nn.softmax(tf.matmul(hidden, hidden, transpose_b=True)), hidden))
    assert found == pytest.approx(float(feature_mse(hidden, mixed, mask=MASK)), rel=1e-5)


def test_faults() -> None:
    x = batch(8)
    for options, message in (
        (
            {"feature_mask": "attention_maks"},
            "feature_mask: there is no 'attention_maks' in the input, a mapping with the keys 'input_ids', "
            "'attention_mask'. Did you mean 'attention_mask'?",
        ),
        ({"feature_mask": lambda inputs: 3}, "feature_mask: the function returned a int, not a tensor"),
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
