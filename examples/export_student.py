"""The student as files that others run: distilled a little, exported in every format, timed against PyTorch.

    python examples/export_student.py
    python examples/export_student.py --quick     # few steps and runs, to see that it runs

A small network learns scikit-learn's digits from a larger one. Then it is written as weights, as a program of
torch.export and as an ONNX graph; each file is loaded again and compared before it is put in its place. At the end
the latency of one row and of a batch, on one thread. Needs the extra `export`, and scikit-learn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import onnxruntime
import torch
from torch import nn

from kdhooks import Distillation
from kdhooks.export import export_all
from kdhooks.torch.export_program import load_program


def make_model(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * width, 10),
    )  # fmt: skip


def distilled(epochs: int, folder: Path) -> nn.Module:
    conf = {
        "distillation": {
            "train": {
                "end_epoch": epochs,
                "optimizer": {"Adam": {"learning_rate": 0.003}},
                "criterion": {"KnowledgeDistillationLoss": {"temperature": 4.0, "loss_weights": [0.5, 0.5]}},
                "dataloader": {"batch_size": 64, "shuffle": True, "dataset": {"digits": {"train": True}}},
            }
        },
        "evaluation": {
            "accuracy": {
                "metric": {"topk": 1},
                "dataloader": {"batch_size": 256, "dataset": {"digits": {"train": False}}},
            }
        },
        "tuning": {"workspace": {"path": str(folder)}},
    }  # fmt: skip
    distiller = Distillation(conf, student_model=make_model(4), teacher_model=make_model(32))
    student: nn.Module = distiller.fit()
    print(f"student: {100 * distiller.best_score:.1f}% top-1")
    return student


def milliseconds(run: Callable[[], object], runs: int) -> float:
    taken = []
    for _ in range(runs + 3):
        begun = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - begun))
    return median(taken[3:])  # the first ones fill caches


def main() -> None:
    parser = argparse.ArgumentParser(description="a student in every format")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        student = distilled(1 if quick else 10, folder / "run").eval()
        images = torch.randn(64, 1, 8, 8)
        files = [folder / f"student{suffix}" for suffix in (".safetensors", ".pt2", ".onnx")]
        report = export_all(student, files, inputs=images)
        print(f"\n{report}\n")

        program = load_program(files[1]).module()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        graph = onnxruntime.InferenceSession(str(files[2]), options, providers=["CPUExecutionProvider"])
        entry = graph.get_inputs()[0].name
        print(f"{'median latency':<16}{'1 row':>10}{'64 rows':>10}")
        with torch.no_grad():
            for title, run in (
                ("PyTorch", student),
                ("torch.export", program),
                ("onnxruntime", lambda batch: graph.run(None, {entry: batch.numpy()})),
            ):
                one, many = (milliseconds(lambda run=run, n=n: run(images[:n]), 20 if quick else 300) for n in (1, 64))
                print(f"{title:<16}{one:>7.3f} ms{many:>7.3f} ms")


if __name__ == "__main__":
    main()
