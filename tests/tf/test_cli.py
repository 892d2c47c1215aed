"""The command line with Keras models: check, suggest, fit and files of weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kdhooks import DistillationConf
from kdhooks.cli import main
from kdhooks.errors import DataError, ModelError
from kdhooks_tf.weights import read_weights, write_weights

pytestmark = [
    pytest.mark.usefixtures("registrations_end_with_the_test"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

MODELS = """
import keras
from keras import layers


def student():
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(16, "relu", name="hidden"),
                             layers.Dropout(0.1), layers.Dense(10, name="head")])


def teacher():
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu", name="conv"),
                             layers.BatchNormalization(name="norm"), layers.Flatten(name="flat"),
                             layers.Dense(32, "relu", name="guide"), layers.Dense(10, name="head")])
"""

CONF = """\
model: {framework: tensorflow}
distillation:
  train:
    end_epoch: 2
    optimizer: {Adam: {learning_rate: 0.01}}
    dataloader: {batch_size: 64, shuffle: true, dataset: {digits: {limit: 256}}}
    criterion:
      KnowledgeDistillationLoss: {temperature: 4.0}
      IntermediateLayersKnowledgeDistillationLoss:
        layer_mappings: [[hidden, guide]]
        loss_types: [MSE]
        loss_weights: [0.1]
evaluation: {accuracy: {metric: {topk: 1}, dataloader: {batch_size: 256, dataset: {digits: {train: false}}}}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in a folder of its own, and leaves the modules as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "keras_pair", raising=False)
    (tmp_path / "keras_pair.py").write_text(MODELS)
    (tmp_path / "kd.yaml").write_text(CONF)
    yield tmp_path
    sys.modules.pop("keras_pair", None)


PAIR = ("--student", "keras_pair:student", "--teacher", "keras_pair:teacher")


def test_fit_writes_weights_that_the_next_command_reads(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["fit", "kd.yaml", *PAIR, "--workspace", "run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = ["best", "student", "curves", "checkpoint", "events", "record", "page"]
    assert [line.split()[0] for line in lines[-7:]] == named
    assert lines[-6].split()[1] == str(Path("run/student.weights.h5"))
    again = ["fit", "kd.yaml", *PAIR, "--workspace", "other", "--student-weights", "run/student.weights.h5"]
    assert main([*again, "--out", "student.keras"]) == 0
    student = keras.models.load_model(folder / "student.keras")
    x = np.zeros((2, 8, 8, 1), np.float32)
    assert student(x).shape == (2, 10)


def test_the_same_command_trains_the_same_student(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    tables = []
    for name in ("one", "two"):
        assert main(["fit", "kd.yaml", *PAIR, "--workspace", name, "--out", f"{name}.safetensors"]) == 0
        out = capsys.readouterr().out.splitlines()
        tables.append([line.split()[:-1] for line in out if line[:6].strip(" *").isdecimal()])
    assert tables[0] == tables[1]
    assert len(tables[0]) == 2
    assert (folder / "one.safetensors").read_bytes() == (folder / "two.safetensors").read_bytes()


def test_check_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "kd.yaml", *PAIR, "--batches", "3", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    text = json.dumps(found)
    assert "batch normalisation layers of teacher have never seen data (mean 0, variance 1): norm" in text
    assert "teacher is right on" in text


def test_suggest_prints_a_configuration(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["suggest", "--data", "kd.yaml", *PAIR, "--batches", "2", "--pairs", "2"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "# 3 student and 4 teacher layers on 128 samples; the most similar:"
    (folder / "suggested.yaml").write_text(out)
    (criterion,) = DistillationConf(folder / "suggested.yaml").settings.distillation.train.criterion
    assert criterion.name == "IntermediateLayersKnowledgeDistillationLoss"
    assert len(criterion.options["layer_mappings"]) == 2
    assert (folder / "kdhooks-suggest" / "similarity.png").exists()


def test_a_layer_that_is_not_there_is_shown_in_the_file(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "kd.yaml").write_text(CONF.replace("[hidden, guide]", "[hidden, guid]"))
    assert main(["fit", "kd.yaml", *PAIR]) == 2
    assert capsys.readouterr().err == (
        "kd.yaml:10:35: distillation.train.criterion.IntermediateLayersKnowledgeDistillationLoss.layer_mappings[0][1]: "
        "teacher Sequential has no layer 'guid'\n"
        " 10 |         layer_mappings: [[hidden, guid]]\n"
        "    |                                   ^^^^\n"
        "  Did you mean 'guide'? All layers: kdhooks layers MODEL\n"
    )


@pytest.mark.parametrize(
    ("out", "text"),
    [("student.pt", "kdhooks fit: --out student.pt: weights are written as .weights.h5, .keras or .safetensors\n"),
     (".", "kdhooks fit: --out . is a folder: name a file, as in student.weights.h5\n")],
)  # fmt: skip
def test_where_weights_cannot_go(out: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "kd.yaml", *PAIR, "--out", out]) == 2
    assert capsys.readouterr().err == text


def model(width: int = 3) -> keras.Model:
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(width), keras.layers.BatchNormalization()])


@pytest.mark.parametrize("kind", [".weights.h5", ".keras", ".safetensors"])
def test_weights_go_into_files_and_back(kind: str, tmp_path: Path) -> None:
    one, other = model(), model()
    path = tmp_path / "deep" / f"student{kind}"
    write_weights(one, path)
    read_weights(other, path)
    assert all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    wide = model(4)
    before = wide.get_weights()
    with pytest.raises(ModelError) as caught:
        read_weights(wide, path)
    assert str(caught.value).startswith(f"{path} does not fit Sequential: ")
    assert all(np.array_equal(a, b) for a, b in zip(before, wide.get_weights(), strict=True))


@pytest.mark.parametrize("kind", [".weights.h5", ".keras", ".safetensors"])
def test_files_that_hold_no_weights(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"student{kind}"
    with pytest.raises(DataError) as caught:
        read_weights(model(), path)
    assert str(caught.value) == f"{path} can't be read: No such file or directory"
    path.write_bytes(b"nothing of the sort")
    with pytest.raises(DataError) as caught:
        read_weights(model(), path)
    assert str(caught.value).startswith(f"{path} holds no ")


def test_weights_need_a_known_kind_of_file_and_a_built_model(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_weights(model(), tmp_path / "student.pkl")
    kinds = ".weights.h5, .keras or .safetensors"
    assert str(caught.value) == f"{tmp_path / 'student.pkl'}: weights of a Keras model are files of {kinds}"
    with pytest.raises(ModelError) as unbuilt:
        read_weights(keras.Sequential([keras.layers.Dense(3)]), tmp_path / "student.keras")
    assert str(unbuilt.value) == "Sequential is not built yet, so it has no weights: call it on a batch first"


def test_a_store_is_built_for_a_keras_teacher_and_read_by_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keras.utils.set_random_seed(4)
    import keras_pair

    write_weights(keras_pair.teacher(), folder / "teacher.safetensors")
    (folder / "kd.yaml").write_text(CONF.replace("distillation:\n", "distillation:\n  cache: {path: store}\n"))
    pair = ("--student", "keras_pair:student", "--teacher", "keras_pair:teacher")
    words = ("cache", "build", "kd.yaml", *pair, "--teacher-weights", "teacher.safetensors")
    for computed in (256, 0):
        assert main([*words]) == 0
        assert f"256 rows, of which {computed} were computed and the others there already" in capsys.readouterr().out
