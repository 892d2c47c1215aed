"""Does a short distillation say more of a candidate than a short training alone? Flash and regular distillation judged.

    python -m benchmarks.search_flash [--seeds 2] [--plans blocks guided few] [--ways alone distilled long]
    python -m benchmarks.search_flash --quick     # two candidates, a few steps, into .kdhooks

Every candidate of `benchmarks.search_cnn` is trained on FashionMNIST (Debian's package dataset-fashion-mnist) in three
ways: ``alone``, with labels; ``distilled``, with the same number of steps, by flash distillation of its two blocks and
regular distillation of the whole; and ``long``, alone with many more steps (and, with `FEW`, more images), which is
what the short trainings shall foretell. A seed decides initial weights and the order of images, alike in all three;
with `FEW` also which images the short trainings have. Finished runs are kept in benchmarks/figures/search_flash.json,
so an interrupted command goes on where it stopped; the page is written from them.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.results_store import Store
from benchmarks.search_cnn import IMAGES, SPACE, Arch, Batches, Plan, accuracy, candidates, fit, network, teacher
from kdhooks import DistillationConf
from kdhooks.search.distilling.scheduler import Scheduler
from kdhooks.search.distilling.stages import FlashDistillation, RegularDistillation

FIGURES = Path(__file__).with_name("figures") / "search_flash.json"
LONGER, WAYS = 8, ("alone", "distilled", "long")
FEW = Plan(
    steps=1000,
    flash=24,
    images=500,
    drawn=True,
    setting="few",
    long_steps=3200,
    long_images=IMAGES,
    teacher_epochs=3.0,
    teacher_width=16,
    stored=True,
)
"""A search with few images beside a good teacher; what it shall foretell is training alone with many images."""

PLANS = {
    "blocks": Plan(),
    "guided": Plan(guided=True, flash_weight=100.0),
    "few": FEW,
    "few-time": replace(FEW, steps=1250, setting="few-time"),
    "few-300": replace(FEW, steps=300, flash=12, setting="few-300"),
}
CONTROLS = {"few": "few-time"}
"""Of a plan: another, trained alone only, that takes as much time alone as the first does distilling."""

CACHE = Path(".kdhooks/search/outputs")
QUICK: dict[str, Any] = {"steps": 6, "flash": 2, "images": 320, "teacher_epochs": 0.01, "tested": 500}
QUICK_FEW: dict[str, Any] = {"images": 64, "long_steps": 8, "long_images": 320}


@cache
def conf(plan: Plan, rate: float) -> DistillationConf:
    """Flash and regular distillation as a user writes them, with one learning rate."""
    written: dict[str, Any] = {
        "model": {"name": "search-flash"},
        "auto_distillation": {
            "search": {"search_space": {name: list(values) for name, values in SPACE.items()}},
            "flash_distillation": {
                "block_names": ["", ""] if plan.guided else ["block1", "block2"],
                "layer_mappings_for_knowledge_transfer": [[["block1", "layer2"]], [["block2", "layer3"]]],
                "loss_types": [[plan.loss], [plan.loss]],
                "loss_weights": [[plan.flash_weight], [plan.flash_weight]],
                "add_origin_loss": [plan.guided, plan.guided],
                "train_steps": [plan.flash, plan.flash],
                "freeze_earlier": False,
            },
            "regular_distillation": {
                "layer_mappings_for_knowledge_transfer": [[["head", "fc"]]],
                "loss_types": [[{"KL": {"temperature": plan.temperature}}]],
                "loss_weights": [[plan.weight]],
                "add_origin_loss": [True],
                "train_steps": [plan.steps - 2 * plan.flash],
            },
            "train": {
                "optimizer": {"Adam": {"learning_rate": rate}},
                "scheduler": {"CosineAnnealing": {}},
            },
        },
    }
    if plan.stored:
        written["distillation"] = {"cache": {"path": str(CACHE)}}
    return DistillationConf(written)


def distil(model: nn.Module, seed: int, plan: Plan, teacher_model: nn.Module | None) -> nn.Module:
    """Flash, then regular distillation, `plan.steps` batches in all."""
    batches = Batches(plan.images, seed, plan.steps, drawn=plan.drawn)
    scheduler = Scheduler()
    for kind, rate in ((FlashDistillation, plan.flash_rate), (RegularDistillation, plan.rate)):
        scheduler.combine(kind(conf(plan, rate), model, teacher_model, train_dataloader=batches, seed=seed))
    model = scheduler()
    taken = sum(stage["steps"] for stage in scheduler.history)
    if taken != plan.steps:
        raise RuntimeError(f"{taken} steps were taken, not {plan.steps}")
    return model


@dataclass(frozen=True)
class Run:
    """One training: of which plan, in which way, of which candidate, with which seed."""

    plan: str
    way: str
    arch: Arch
    seed: int

    @property
    def key(self) -> str:
        """Finds the stored run."""
        setting = PLANS[self.plan].setting
        plan = [self.plan] if self.way == "distilled" else [setting] if setting else []  # these know of no teacher
        return " ".join([self.way, *plan, *(str(value) for value in self.arch.values())])

    def description(self, plan: Plan) -> str:
        """All that decides it."""
        if plan.setting:
            return repr(asdict(plan) if self.way == "distilled" else self.length(plan))
        shared = (plan.steps, plan.rate, plan.images)
        return repr(plan) if self.way == "distilled" else repr((*shared, LONGER if self.way == "long" else 1))

    def length(self, plan: Plan) -> tuple[int, float, int, bool]:
        """Steps, learning rate and images of a training alone, and whether the seed draws them."""
        if self.way == "long":
            images = plan.long_images or plan.images
            return plan.long_steps or LONGER * plan.steps, plan.rate, images, plan.drawn and images == plan.images
        return plan.steps, plan.rate, plan.images, plan.drawn


def train(run: Run, plan: Plan, teacher_model: nn.Module | None) -> dict[str, float]:
    """Train one candidate: its accuracy in percent, and what it took."""
    model: nn.Module = network(run.arch, run.seed)
    began, worked = time.perf_counter(), time.process_time()
    if run.way == "distilled":
        model = distil(model, run.seed, plan, teacher_model)
    else:
        steps, rate, images, drawn = run.length(plan)
        fit(model, Batches(images, run.seed, steps, drawn=drawn), rate)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    return {"score": round(accuracy(model, plan.tested), 3), "seconds": round(seconds, 2), "cpu": round(worked, 2)}


def quick(plan: Plan) -> Plan:
    """The same with next to no steps."""
    short = replace(plan, **QUICK)
    return replace(short, **QUICK_FEW) if plan.setting else short


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def taught(plan: Plan, folder: Path, store: Store) -> nn.Module:
    """The teacher, whose accuracy is kept for the page."""
    model, key = teacher(plan, folder), plan.teacher_name
    if store.latest(key, 0) is None:
        store.add(key, 0, key, {"score": accuracy(model, plan.tested)})
    return model


def main() -> None:
    from benchmarks.search_page import PAGE, Sources, write

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--plans", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--page", type=Path, help="docs/results_search.md unless --quick")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(".kdhooks") / ("search-quick" if options.quick else "search")
    store = Store(folder / FIGURES.name if options.quick else FIGURES)
    page = options.page or (folder / "page.md" if options.quick else PAGE)
    plans = {name: quick(plan) for name, plan in PLANS.items()} if options.quick else PLANS
    archs = candidates()[:3] if options.quick else candidates()
    for name, seed in itertools.product(options.plans, range(1 if options.quick else options.seeds)):
        plan = plans[name]
        for way, arch in itertools.product(options.ways, archs):
            run = Run(name, way, arch, seed)
            if name in CONTROLS.values() and way != "alone":
                continue
            if store.get(run.key, seed, run.description(plan)) is None:
                found = train(run, plan, taught(plan, folder, store) if way == "distilled" else None)
                store.add(run.key, seed, run.description(plan), found)
                say(f"{run.key} seed {seed}: {found['score']:.2f} % ({found['seconds']:.1f} s)")
    write(page, Sources(flash=store.path, plans=plans))


if __name__ == "__main__":
    main()
