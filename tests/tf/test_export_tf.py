"""Exported Keras models: each file is loaded again here as its users would, and compared with the model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kdhooks import Distillation
from kdhooks.cli import main
from kdhooks.errors import ExportError, MissingPackageError, ModelError, UsageError
from kdhooks.export import export, export_all
from kdhooks_tf.export_onnx import _name

pytestmark = [
    pytest.mark.usefixtures("registrations_end_with_the_test"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

ALL = ("student.safetensors", "student.weights.h5", "student.keras", "served")


def convolutional() -> keras.Model:
    image = keras.Input((8, 8, 1), name="image")
    found = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
    model = keras.Model(image, layers.Dense(3)(layers.Dropout(0.5)(layers.Flatten()(found))))
    model(np.random.default_rng(0).normal(2, 3, (16, 8, 8, 1)).astype("float32"), training=True)
    return model


class Subclassed(keras.Model):
    """Returns a mapping, in training mode something else."""

    def __init__(self, width: int = 8, **options: Any) -> None:
        super().__init__(**options)
        self.hidden, self.norm = layers.Dense(width, "relu"), layers.BatchNormalization()
        self.drop, self.head = layers.Dropout(0.5), layers.Dense(3)

    def call(self, x: Any, training: bool = False) -> Any:
        hidden = self.norm(self.hidden(x), training=training)
        return {"logits": self.head(self.drop(hidden, training=training)), "hidden": hidden}


class Words(keras.Model):
    """Takes keywords, as Hugging Face's models do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.words, self.head = layers.Embedding(10, 4), layers.Dense(3)

    def call(self, input_ids: Any, attention_mask: Any = None, training: bool = False) -> Any:
        mask = tf.cast(attention_mask, tf.float32)[..., None]
        return self.head(tf.reduce_sum(self.words(input_ids) * mask, 1))


X = np.linspace(-1, 1, 20, dtype="float32").reshape(4, 5)


def test_a_functional_model_in_all_formats(tmp_path: Path) -> None:
    model = convolutional()
    model.compile("adam", "mse")
    before = model.get_weights()
    report = export_all(model, [tmp_path / name for name in ALL])  # it says itself what it takes
    assert report.ok and [one.difference for one in report.exported] == [0.0] * 4
    assert [one.rows for one in report.exported] == [(2, 1, 3)] * 4
    assert report.exported[3].facts == {"inputs": ["image"], "outputs": ["output"]}
    assert report.exported[3].bytes == sum(
        one.stat().st_size for one in (tmp_path / "served").rglob("*") if one.is_file()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ALL)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    image = np.random.default_rng(1).normal(size=(5, 8, 8, 1)).astype("float32")
    wanted = model(image, training=False).numpy()
    loaded = keras.models.load_model(tmp_path / "student.keras")
    assert getattr(loaded, "optimizer", None) is None  # a clean copy, not the compiled one
    other = convolutional()
    other.load_weights(tmp_path / "student.weights.h5")
    layer = layers.TFSMLayer(str(tmp_path / "served"), call_endpoint="serve")
    served = tf.saved_model.load(str(tmp_path / "served"))
    for found in (loaded(image), other(image), layer(image), served.serve(image)):
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5, rtol=0)
    by_name = served.signatures["serving_default"](image=tf.constant(image))
    np.testing.assert_allclose(by_name["output"].numpy(), wanted, atol=1e-5, rtol=0)


def test_a_subclassed_model_in_all_formats(tmp_path: Path) -> None:
    model = Subclassed()
    model(X)
    model(X * 3, training=True)
    wanted = model(X, training=False)
    report = export_all(model, [tmp_path / name for name in ALL], inputs=X)
    assert report.ok and [one.rows for one in report.exported] == [(4, 1, 5)] * 4
    loaded = keras.models.load_model(tmp_path / "student.keras", custom_objects={"Subclassed": Subclassed})
    served = tf.saved_model.load(str(tmp_path / "served"))
    for found in (loaded(X), served.serve(tf.constant(X))):
        assert sorted(found) == ["hidden", "logits"]
        np.testing.assert_allclose(found["logits"].numpy(), wanted["logits"].numpy(), atol=1e-5, rtol=0)


def test_a_model_with_keywords_of_any_length(tmp_path: Path) -> None:
    model = Words()
    ids, mask = np.arange(12, dtype="int32").reshape(2, 6) % 10, np.array([[1] * 6, [1, 1, 0, 0, 0, 0]], "int32")
    batch = {"input_ids": ids, "attention_mask": mask}
    model(**batch)
    found = export(model, tmp_path / "served", inputs=batch, dynamic_length=True)
    assert found.facts == {"inputs": ["input_ids", "attention_mask"], "outputs": ["output"], "lengths": [6, 3]}
    served = tf.saved_model.load(str(tmp_path / "served"))
    signature = served.signatures["serving_default"]
    cut = {name: tf.constant(value[:1, :4]) for name, value in batch.items()}
    np.testing.assert_allclose(signature(**cut)["output"].numpy(), model(**cut).numpy(), atol=1e-5, rtol=0)
    with pytest.raises(ExportError) as caught:
        export(model, tmp_path / "student.keras", inputs=batch)
    assert str(caught.value) == (
        f"{tmp_path / 'student.keras'}: Keras loads it without its weights, since it can't build Words before the "
        "first call: give Words a build() or build_from_config() that makes all its layers' weights, or write a "
        "SavedModel"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    left, right = keras.Input((4,), name="left"), keras.Input((5,), dtype="int32", name="right")
    words = layers.Flatten()(layers.Embedding(7, 3)(right))
    model = keras.Model([left, right], [layers.Dense(2)(layers.Concatenate()([left, words])), layers.Dense(1)(left)])
    report = export_all(model, [tmp_path / "served", tmp_path / "a.keras"])
    assert report.ok
    assert report.exported[0].facts == {"inputs": ["left", "right"], "outputs": ["output_0", "output_1"]}


def test_a_student_under_way_and_after_a_run(tmp_path: Path) -> None:
    student, teacher = (
        keras.Sequential([keras.Input((5,)), layers.Dense(4, "relu", name="hidden"), layers.Dense(3)]) for _ in range(2)
    )
    hidden = {"layer_mappings": [["hidden"]], "loss_types": ["MSE"], "loss_weights": [1.0]}
    criterion = {"IntermediateLayersKnowledgeDistillationLoss": hidden}
    distiller = Distillation(
        {"distillation": {"train": {"criterion": criterion}}}, student_model=student, teacher_model=teacher
    )
    with distiller:
        with tf.GradientTape():
            output = student(X, training=True)
            distiller.on_after_compute_loss(X, output, tf.reduce_mean(output**2))
        assert "call" in vars(student.layers[0])
        assert export_all(student, [tmp_path / "served", tmp_path / "a.keras"], inputs=X).ok
        assert "call" in vars(student.layers[0])
    wanted = student(X).numpy()
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "a.keras")(X).numpy(), wanted, atol=1e-6)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    lazy = keras.Sequential([layers.Dense(2)])
    with pytest.raises(ModelError) as caught:
        export(lazy, tmp_path / "a.keras", inputs=X)
    assert str(caught.value) == "Sequential is not built yet, so it has no weights: call it on a batch first"
    model = Subclassed()
    model(X)
    with pytest.raises(UsageError, match=r"served can't be written without example inputs"):
        export(model, tmp_path / "served")
    with pytest.raises(ModelError, match=r"Subclassed can't be exported: it failed on an input \[2, 7\]: "):
        export(model, tmp_path / "served", inputs=np.zeros((2, 7), "float32"))
    code = keras.Sequential([keras.Input((5,)), layers.Lambda(lambda x: x * 2), layers.Dense(2)])
    report = export_all(code, [tmp_path / "a.keras", tmp_path / "a.pt2", tmp_path / "served"])
    told = {path.name: str(error) for path, error in report.failed.items()}
    assert told["a.keras"].startswith(f"{tmp_path / 'a.keras'}: what was written can't be loaded again: ")
    assert "Lambda" in told["a.keras"]
    assert told["a.pt2"] == (
        f"{tmp_path / 'a.pt2'}: a program of torch.export can't be made of Sequential, which is a Keras model: write "
        ".safetensors, .onnx, .keras, a SavedModel folder or .weights.h5"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


def test_onnx_without_its_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(MissingPackageError) as caught:
        export(convolutional(), tmp_path / "a.onnx")
    assert str(caught.value) == (
        "an .onnx file of a Keras model needs the package 'tf2onnx': pip install 'kdhooks[export]'"
    )
    assert not list(tmp_path.iterdir())


def test_onnx_names_do_not_collide() -> None:
    from onnx import TensorProto, checker, helper

    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2])  # noqa: E731
    nodes = [helper.make_node("Relu", ["in:0"], ["logits"]), helper.make_node("Abs", ["logits"], ["Identity:0"])]
    graph = helper.make_graph(nodes, "g", [value("in:0")], [value("Identity:0")])
    _name(graph, ["image"], ["logits"])
    assert [list(node.input) + list(node.output) for node in graph.node] == [
        ["image", "logits_inner"],
        ["logits_inner", "logits"],
    ]
    checker.check_model(helper.make_model(graph))


def test_the_command_takes_the_best_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("keras_export_models.py").write_text(
        "import keras\nfrom keras import layers\n\n\ndef student(width=16):\n"
        "    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(width), "
        "layers.Dense(10)])\n"
        "\n\ndef wide():\n    return student(20)\n"
    )
    Path("kd.yaml").write_text(
        "distillation: {train: {end_epoch: 1, optimizer: {SGD: {learning_rate: 0.1}}, dataloader: {batch_size: 64, "
        "dataset: {digits: {limit: 128}}}}}\n"
        "evaluation: {accuracy: {metric: {topk: 1}, dataloader: {batch_size: 256, dataset: {digits: {limit: 64}}}}}\n"
        "tuning: {workspace: {path: run}}\n"
    )
    pair = ("--student", "keras_export_models:student", "--teacher", "keras_export_models:student")
    assert main(["fit", "kd.yaml", *pair, "--out", "student.weights.h5"]) == 0
    capsys.readouterr()
    words = ("--run", "run", "--config", "kd.yaml", "--to", "served", "--to", "a.keras")
    assert main(["export", "keras_export_models:student", *words]) == 0
    out = capsys.readouterr().out
    assert out.startswith("weights: run/checkpoint.npz, the best of the run: epoch 0, score ")
    assert out.count("batches of 8, 1 and 9") == 2
    import keras_export_models

    best = keras_export_models.student()
    best.load_weights("student.weights.h5")
    image = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(keras.models.load_model("a.keras")(image).numpy(), best(image).numpy())
    assert main(["export", "keras_export_models:wide", "--run", "run", "--to", "b.keras"]) == 2
    assert capsys.readouterr().err == (
        "kdhooks export: the checkpoint run/checkpoint.npz belongs to another student: '0 kernel' is of shape [64, 16] "
        "there and [64, 20] here\n"
    )
    sys.modules.pop("keras_export_models", None)
