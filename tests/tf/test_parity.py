"""PyTorch and TensorFlow give the same loss, the same gradients and the same training from the same weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F
from torch import nn

from kdhooks import Distillation
from kdhooks.errors import ConfigError, UsageError

cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
STEPS, RATE = 20, 0.05
SCHEDULE = {"linear": {"from": 0.2, "to": 1.0, "steps": 12}}
CRITERIA: dict[str, dict[str, Any]] = {
    "KL": {"temperature": 4.0, "loss_types": ["CE", "KL"], "loss_weights": [0.1, 0.9]},
    "JSD": {"temperature": 4.0, "loss_types": ["CE", "JSD"], "loss_weights": [0.1, 0.9]},
    "dkd": {"temperature": 4.0, "loss_types": ["CE", "dkd"], "loss_weights": [1.0, 0.5]},
    "schedules": {
        "temperature": {"cosine": {"from": 2.0, "to": 4.0, "steps": 9}},
        "loss_types": ["CE", "KL", "reverse_KL", "MSE"],
        "loss_weights": [{"exponential": {"from": 1.0, "to": 0.1, "steps": 10}}, SCHEDULE, 0.25, 0.01],
    },
    "two teachers": {
        "temperature": 2.0,
        "loss_weights": [0.5, 0.5],
        "teacher_weights": [1.0, SCHEDULE],
        "combine": "probabilities",
    },
}


def torch_mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 4))


def keras_mlp(width: int) -> Any:
    dense = keras.layers.Dense
    return keras.Sequential(
        [keras.Input([6], dtype="float64"), dense(width, activation="tanh", dtype="float64"), dense(4, dtype="float64")]
    )


def torch_conv(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.Tanh(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    )


def keras_conv(width: int) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input([8, 8, 3], dtype="float64"),
            layers.Conv2D(width, 3, padding="same", use_bias=False, dtype="float64"),
            layers.BatchNormalization(epsilon=1e-5, dtype="float64"),
            layers.Activation("tanh", dtype="float64"),
            layers.Conv2D(width, 3, padding="same", dtype="float64"),
            layers.Activation("tanh", dtype="float64"),
            layers.GlobalAveragePooling2D(dtype="float64"),
            layers.Dense(4, dtype="float64"),
        ]
    )


MODELS = {"mlp": (torch_mlp, keras_mlp), "conv": (torch_conv, keras_conv)}


def as_keras(tensor: torch.Tensor) -> Any:
    """Kernels as Keras has them: [in, out], and [height, width, in, out]."""
    array = tensor.detach().numpy().copy()
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def twins(kind: str, seed: int, width: int) -> tuple[Any, Any]:
    """A model in both frameworks with the same weights, which are trained in the same order."""
    torch.manual_seed(seed)
    make_torch, make_keras = MODELS[kind]
    one, other = make_torch(width).double(), make_keras(width)
    for weight, parameter in zip(other.trainable_weights, one.parameters(), strict=True):
        weight.assign(as_keras(parameter))
    return one, other


def batch(kind: str, step: int) -> tuple[Any, Any]:
    generator = np.random.default_rng(step % 5)
    return generator.normal(size=[8, 6] if kind == "mlp" else [8, 3, 8, 8]), generator.integers(4, size=[8])


class Pair:
    """The same distillation in both frameworks."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        self.kind = kind
        conf = {"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": options}}}}
        count = 2 if "teacher_weights" in options else 1
        (self.torch, self.keras), teachers = twins(kind, 1, 5), [twins(kind, 2 + one, 7) for one in range(count)]
        for teacher, _ in teachers:
            teacher.eval()
        self.distillers = [
            Distillation(conf, student_model=model, teacher_model=list(models))
            for model, models in zip((self.torch, self.keras), zip(*teachers, strict=True), strict=True)
        ]
        for distiller in self.distillers:
            distiller.on_train_begin()

    def torch_step(self, step: int) -> tuple[float, list[Any]]:
        x, y = (torch.from_numpy(one) for one in batch(self.kind, step))
        output = self.torch(x)
        loss = self.distillers[0].on_after_compute_loss(x, output, F.cross_entropy(output, y), target=y)
        gradients = torch.autograd.grad(loss, list(self.torch.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(self.torch.parameters(), gradients, strict=True):
                parameter -= RATE * gradient
        return float(loss.detach()), [as_keras(gradient) for gradient in gradients]

    def keras_step(self, x: Any, y: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            output = self.keras(x, training=True)
            loss = self.distillers[1].on_after_compute_loss(x, output, cross_entropy(y, output), target=y)
        gradients = tape.gradient(loss, [weight.value for weight in self.keras.trainable_weights])
        for weight, gradient in zip(self.keras.trainable_weights, gradients, strict=True):
            weight.assign_sub(RATE * gradient)
        return loss, gradients

    def keras_batch(self, step: int) -> tuple[Any, Any]:
        x, y = batch(self.kind, step)
        return tf.constant(x if x.ndim == 2 else x.transpose(0, 2, 3, 1)), tf.constant(y)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize("kind", sorted(MODELS))
def test_both_frameworks_train_alike(kind: str, criterion: str, mode: str) -> None:
    pair = Pair(kind, CRITERIA[criterion])
    step_in_keras = tf.function(pair.keras_step) if mode == "graph" else pair.keras_step
    for step in range(STEPS):
        expected, gradients = pair.torch_step(step)
        loss, others = step_in_keras(*pair.keras_batch(step))
        assert float(loss) == pytest.approx(expected, rel=1e-9, abs=1e-9)
        for mine, theirs in zip(gradients, others, strict=True):
            np.testing.assert_allclose(theirs.numpy(), mine, rtol=0, atol=1e-9)
    for parameter, weight in zip(pair.torch.parameters(), pair.keras.trainable_weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), as_keras(parameter), rtol=0, atol=1e-6)
    one, other = (distiller.losses for distiller in pair.distillers)
    assert list(one) == list(other)
    assert other == pytest.approx(one, rel=1e-9)
    for distiller in pair.distillers:
        distiller.on_epoch_end()
    first, second = (distiller.history[0]["losses"] for distiller in pair.distillers)
    assert second == pytest.approx(first, rel=1e-9)


def test_pytorch_refuses_what_only_tensorflow_has() -> None:
    student, x, y = nn.Linear(6, 4), torch.ones(2, 6), torch.zeros(2, dtype=torch.long)
    distiller = Distillation(student_model=student, teacher_model=nn.Linear(6, 4))
    with distiller, pytest.raises(UsageError) as caught:
        distiller.on_after_compute_loss(x, student(x), F.cross_entropy(student(x), y), sample_weight=torch.ones(2))
    assert str(caught.value) == (
        "sample_weight is for TensorFlow: in PyTorch leave rows out with mask, or weigh student_loss"
    )
    conf = {"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": {"from_logits": False}}}}}
    with pytest.raises(ConfigError) as refused:
        Distillation(conf, student_model=student).on_train_begin()
    assert str(refused.value) == (
        "<dict>: distillation.train.criterion.KnowledgeDistillationLoss: from_logits: false is for TensorFlow; what a "
        "PyTorch model returns is taken for logits"
    )
