"""kdhooks beside PyTorch alone and beside TensorFlow alone: fresh environments, made by pip and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TORCH = """
import torch
def model(width):
    return torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.ReLU(), torch.nn.Linear(width, 4))
student, teacher = model(8), model(16)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
def step(distiller):
    x, y = torch.ones(8, 6), torch.zeros(8, dtype=torch.int64)
    output = student(x)
    loss = distiller.on_after_compute_loss(x, output, torch.nn.functional.cross_entropy(output, y))
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    return float(loss.detach())
"""

TENSORFLOW = """
import keras, tensorflow as tf
def model(width):
    layers = keras.layers
    return keras.Sequential([keras.Input([6]), layers.Dense(width, activation="relu"), layers.Dense(4)])
student, teacher = model(8), model(16)
optimizer = keras.optimizers.SGD(0.1)
def step(distiller):
    x, y = tf.ones([8, 6]), tf.zeros([8], tf.int64)
    with tf.GradientTape() as tape:
        output = student(x, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, output))
        loss = distiller.on_after_compute_loss(x, output, loss)
    variables = student.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
    return float(loss)
"""

PROGRAM = """
import importlib.util, sys
import kdhooks
print(*sorted({"torch", "tensorflow", "keras"} & set(sys.modules)), "loaded")
from kdhooks import Distillation, KDHooksError
%s
print(*(name for name in ("torch", "tensorflow") if importlib.util.find_spec(name)), "installed")
distiller = Distillation(student_model=student, teacher_model=teacher)
with distiller:
    losses = [step(distiller) for _ in range(5)]
    distiller.on_epoch_end()
print(losses[-1] < losses[0], sorted(distiller.losses), len(distiller.history))
try:
    Distillation({"model": {"framework": "%s"}}).on_train_begin()
except KDHooksError as error:
    print(error)
try:
    Distillation({"model": {"framework": "%s"}}).backend
except KDHooksError as error:
    print(error)
"""

OTHERS = {
    "torch": ("tensorflow", "tensorflow", "kdhooks[tensorflow]"),
    "tensorflow-cpu": ("pytorch", "torch", "kdhooks[torch]"),
}


@pytest.mark.timeout(900)  # pip installs a framework
@pytest.mark.parametrize(("extra", "body"), [("torch", TORCH), ("tensorflow-cpu", TENSORFLOW)])
def test_with_one_framework_alone(extra: str, body: str, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    plain |= {"TF_CPP_MIN_LOG_LEVEL": "2", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def run(*command: str | Path) -> str:
        done = subprocess.run([*map(str, command)], cwd=tmp_path, env=plain, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    source = tmp_path / "source"  # a copy: pip builds inside of the folder that it installs
    for room in ("kdhooks", "kdhooks_tf"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{source}[{extra}]")
    other, package, named = OTHERS[extra]
    framework = "torch" if extra == "torch" else "tensorflow"
    assert run(python, "-c", PROGRAM % (body, other, other)).splitlines()[-5:] == [
        "loaded",
        f"{framework} installed",
        "True ['CE', 'KL', 'total'] 1",
        "no student is set: distiller.student_model = ... comes before on_train_begin()",
        f"framework: {other} needs the package {package!r}: pip install '{named}'",
    ]
