"""Keras models as ONNX graphs, by tf2onnx, run in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers

from kdhooks.errors import ExportError
from kdhooks.export import export, export_all

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


class Words(keras.Model):
    """Takes keywords, and returns a mapping."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.words, self.norm, self.head = layers.Embedding(10, 4), layers.BatchNormalization(), layers.Dense(3)

    def call(self, input_ids: Any, attention_mask: Any = None, training: bool = False) -> Any:
        mask = tf.cast(attention_mask, tf.float32)[..., None]
        hidden = self.norm(tf.reduce_sum(self.words(input_ids) * mask, 1), training=training)
        return {"logits": self.head(hidden), "hidden": hidden}


def test_functional_models(tmp_path: Path) -> None:
    image, more = keras.Input((8, 8, 1), name="image"), keras.Input((5,), name="more")
    found = layers.Flatten()(layers.BatchNormalization()(layers.Conv2D(4, 3)(image)))
    model = keras.Model([image, more], [layers.Dense(3)(found), layers.Dense(2)(more)])
    done = export(model, tmp_path / "a.onnx")
    assert done.difference <= 1e-5 and done.rows == (2, 1, 3)
    assert done.facts == {"opset": 18, "inputs": ["image", "more"], "outputs": ["output_0", "output_1"]}
    given = [np.random.default_rng(0).normal(size=(4, *shape)).astype("float32") for shape in ((8, 8, 1), (5,))]
    answers = session(tmp_path / "a.onnx").run(None, dict(zip(("image", "more"), given, strict=True)))
    for answer, wanted in zip(answers, model(given, training=False), strict=True):
        np.testing.assert_allclose(answer, wanted.numpy(), atol=1e-5, rtol=0)


def test_a_subclassed_model_with_keywords_of_any_length(tmp_path: Path) -> None:
    model = Words()
    batch = {"input_ids": np.arange(12, dtype="int32").reshape(2, 6) % 10, "attention_mask": np.ones((2, 6), "int32")}
    model(**batch)
    done = export(model, tmp_path / "a.onnx", inputs=batch, dynamic_length=True, opset=15)
    assert done.facts["opset"] == 15 and done.facts["outputs"] == ["hidden", "logits"]
    cut = {name: value[:1, :4] for name, value in batch.items()}
    (logits,) = session(tmp_path / "a.onnx").run(["logits"], cut)
    np.testing.assert_allclose(logits, model(**cut)["logits"].numpy(), atol=1e-5, rtol=0)


class Eigenvalues(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return tf.linalg.eigvalsh(x)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape[:-1]


def test_a_layer_without_a_counterpart(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3, 3)), Eigenvalues()])
    report = export_all(model, [tmp_path / "a.onnx", tmp_path / "served"])
    assert [one.format for one in report.exported] == ["savedmodel"]
    (error,) = report.failed.values()
    assert isinstance(error, ExportError) and "SelfAdjointEigV2" in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["served"]
