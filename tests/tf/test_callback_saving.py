"""What a fit leaves on disk: the student's own files, loadable without kdhooks, and a backup that resumes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks.errors import CheckpointError
from kdhooks_tf import DistillationCallback
from kdhooks_tf.callback_state import read_state, write_state
from tests.tf.callback_models import compiled, data, distiller, features, fit, logits, student, teacher, weights

# Keras converts its own variables in a way that NumPy 2 complains of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

WITHOUT_KDHOOKS = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("kdhooks", "kdhooks_tf", "tests"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocker())
import keras, numpy
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    x = numpy.linspace(-1, 1, 12, dtype="float32").reshape(2, 6)
    print(model.count_params(), *model.predict(x, verbose=0)[0].round(4))
    model.fit(x, numpy.zeros(2), verbose=0)
"""


def test_saved_models_load_without_kdhooks(tmp_path: Path) -> None:
    model, plain = compiled(student()), compiled(student())
    callback = DistillationCallback(distiller(features()))
    saves = keras.callbacks.ModelCheckpoint(str(tmp_path / "middle.keras"), save_freq=2)
    fit(model, callback, saves)
    model.save(tmp_path / "after.keras")
    plain.save(tmp_path / "plain.keras")
    names = ("middle.keras", "after.keras", "plain.keras")
    files = [str(tmp_path / name) for name in names]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_KDHOOKS, *files], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    middle, after, other = (line.split() for line in done.stdout.splitlines())
    assert middle[0] == after[0] == other[0] == str(plain.count_params())
    x = np.linspace(-1, 1, 12, dtype="float32").reshape(2, 6)
    np.testing.assert_allclose([float(z) for z in after[1:]], model.predict(x, verbose=0)[0], atol=1e-4)


def test_a_copy_in_the_middle_of_a_fit_is_plain() -> None:
    model = compiled(student())
    copies: list[Any] = []

    class Copies(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            copies.append(keras.models.clone_model(model))

    fit(model, DistillationCallback(distiller()), Copies(), epochs=1)
    assert sorted(fit(compiled(copies[0]))) == ["loss"]
    assert [one.shape for one in weights(copies[0])] == [one.shape for one in weights(model)]


# ---- BackupAndRestore ------------------------------------------------------------------------------


class Crash(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self, epoch: int, batch: int = 0) -> None:
        super().__init__()
        self.epoch, self.batch, self.now = epoch, batch, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.now = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.now, batch) == (self.epoch, self.batch):
            raise RuntimeError("crash")


def scheduled(conf: dict[str, Any]) -> dict[str, Any]:
    """A weight that depends on the step, so that a lost counter would show."""
    loss = conf["distillation"]["train"]["criterion"]["KnowledgeDistillationLoss"]
    loss["loss_weights"] = [0.5, {"linear": {"from": 1.0, "to": 0.1, "steps": 12}}]
    return conf


@pytest.mark.parametrize("first", [True, False], ids=["ours first", "Keras' first"])
@pytest.mark.parametrize("conf", [scheduled(logits()), scheduled(features())], ids=["logits", "features"])
def test_a_backup_resumes_as_if_nothing_had_happened(conf: dict[str, Any], first: bool, tmp_path: Path) -> None:
    # without dropout: Keras' backup does not hold the layers' random numbers
    whole_one = distiller(conf)
    whole = compiled(student(dropout=0.0))
    expected = fit(whole, DistillationCallback(whole_one), epochs=4)

    def callbacks(one: Any) -> list[Any]:
        pair = [DistillationCallback(one), keras.callbacks.BackupAndRestore(tmp_path / "backup")]
        return pair if first else pair[::-1]

    with pytest.raises(RuntimeError, match="crash"):
        fit(compiled(student(dropout=0.0)), *callbacks(distiller(conf)), Crash(2, 1), epochs=4)
    assert (tmp_path / "backup" / "distillation.npz").exists()
    one = distiller(conf)
    model = compiled(student(seed=5, dropout=0.0))  # another process would make it anew
    history = fit(model, *callbacks(one), epochs=4, seed=99)
    for name in expected:
        np.testing.assert_allclose(history[name], expected[name][2:], rtol=1e-4)
    for a, b in zip(weights(whole), weights(model), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert (one.step, one.epoch) == (12, 4)
    assert [record["epoch"] for record in one.history] == [0, 1, 2, 3]
    assert not (tmp_path / "backup").exists()  # Keras deletes it, and ours with it


def test_a_backup_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """Keras begins the epoch anew from weights of its middle; our counters are those of the weights."""
    conf = scheduled(logits())
    backup = {"backup_dir": str(tmp_path / "backup"), "save_freq": 2}
    with pytest.raises(RuntimeError, match="crash"):
        again = keras.callbacks.BackupAndRestore(**backup)
        fit(compiled(student()), DistillationCallback(distiller(conf)), again, Crash(1, 2), epochs=3)
    one = distiller(conf)
    model = compiled(student())
    steps: list[int] = []

    class Begins(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            steps.append(one.step)

    again = keras.callbacks.BackupAndRestore(**backup)
    fit(model, again, Begins(), DistillationCallback(one), epochs=3)
    assert steps[0] == 6
    assert int(model.optimizer.iterations) == one.step == 6 + 6


def test_a_state_of_other_weights_is_left_alone(tmp_path: Path) -> None:
    """After a crash between our file and the weights, the file before ours belongs to the weights."""
    conf = scheduled(logits())
    folder = tmp_path / "backup"
    with pytest.raises(RuntimeError, match="crash"):
        again = keras.callbacks.BackupAndRestore(folder)
        fit(compiled(student()), DistillationCallback(distiller(conf)), again, Crash(2), epochs=4)
    newest = read_state(folder / "distillation.npz")
    assert newest["iterations"] == 6
    (folder / "distillation.npz").replace(folder / "distillation.previous.npz")
    write_state(folder / "distillation.npz", {"iterations": 9, "state": newest["state"] | {"step": 9}})
    one = distiller(conf)
    fit(compiled(student()), DistillationCallback(one), keras.callbacks.BackupAndRestore(folder), epochs=4)
    assert one.step == 12


def test_a_damaged_state_is_said_to_be_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    with pytest.raises(RuntimeError, match="crash"):
        again = keras.callbacks.BackupAndRestore(folder)
        fit(compiled(student()), DistillationCallback(distiller()), again, Crash(1), epochs=4)
    path = folder / "distillation.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError) as caught:
        fit(compiled(student()), DistillationCallback(distiller()), keras.callbacks.BackupAndRestore(folder))
    assert str(caught.value) == f"{path} is damaged or no state of kdhooks: File is not a zip file"


def test_a_state_file_holds_plain_data_and_tensors(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    state = {
        "numbers": [1, 2.5, -(2**70), float("inf"), True, None, "text"],
        "tuple": (1, (2, "x")),
        7: {"empty": {}, "list": []},
        "array": np.arange(6, dtype="int64").reshape(2, 3),
        "half": np.float16(0.5),
        "tensor": tf.constant([1.5, 2.5], tf.bfloat16),
        "variable": tf.Variable([[1.0]]),
    }
    write_state(path, state)
    back = read_state(path)
    for name in ("numbers", "tuple", 7):
        assert back[name] == state[name]
    assert np.array_equal(back["array"], state["array"]) and back["array"].dtype == np.int64
    assert back["half"] == 0.5
    assert back["tensor"].dtype == tf.bfloat16.as_numpy_dtype and back["tensor"].tolist() == [1.5, 2.5]
    assert np.array_equal(back["variable"], [[1.0]])
    with pytest.raises(TypeError) as caught:
        write_state(path, {"teacher": teacher})
    assert str(caught.value) == "a state holds function, which is no plain data and no tensor"
    assert np.array_equal(read_state(path)["array"], state["array"])  # the former file is still whole
    assert len(data()) == 2
