"""A UNet for images of a scanner that nobody drew masks for: CAC at the levels of MONAI's UNet.

    python examples/adapt_unet.py
    python examples/adapt_unet.py --quick            # a few steps, to see that it runs
    python examples/adapt_unet.py --dimensions 3     # the same with volumes

Both scanners are made up: shapes whose masks are known, which scanner b shows with less contrast, blurred, shaded and
noisy. The loop sees masks of scanner a only. Needs MONAI (pip install 'kdhooks[torch,segmentation]').
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.datasets import build_dataset
from kdhooks.torch.class_metrics import Dice
from kdhooks.torch.segmentation import make_unet, unet_levels

CLASSES = 3


def load(scanner: str, train: bool, size: int, dimensions: int) -> tuple[Tensor, Tensor]:
    """Images [N, 1, S, S] and masks [N, S, S]; each scanner sees other shapes."""
    options = {"scanner": scanner, "train": train, "size": size, "dimensions": dimensions, "seed": "ab".index(scanner)}
    data = build_dataset("two_scanners", {**options, "image_size": 32 if dimensions == 2 else 16})
    return torch.from_numpy(data.inputs), torch.from_numpy(data.targets)


@torch.no_grad()
def dice(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """The Dice score of organ and lesion, in percent."""
    model.eval()
    metric = Dice(CLASSES)
    for x, y in zip(*(part.split(50) for part in data), strict=True):
        metric.update(model(x).movedim(1, -1).reshape(-1, CLASSES), y.reshape(-1))
    model.train()
    return 100 * float(metric.compute())


def train(model: nn.Module, source: tuple[Tensor, Tensor], target: Tensor, steps: int, *, adapt: bool) -> None:
    """The user's own loop, which adapts or does not."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    distiller = None
    if adapt:
        levels = unet_levels(model)
        cac = {
            "layers": levels.all,
            "encoder_levels": len(levels.encoder),
            "hidden_size": 8,
            "weights": [0.1, 0.1, 1.0],
            "weight": 0.1,
        }
        conf = {"domain_adaptation": {"criterion": {"CAC": cac}, "reversal": {"steps": steps}}}
        distiller = Distillation(conf, student_model=model)
        distiller.on_train_begin(optimizer=optimizer)  # kdhooks
    x, masks = source
    for _ in range(steps):
        rows, others = torch.randint(len(x), (8,)), torch.randint(len(target), (8,))
        output = model(x[rows])
        loss = F.cross_entropy(output, masks[rows])
        if distiller is not None:
            loss = distiller.on_after_compute_loss(  # kdhooks
                x[rows], output, loss, target=masks[rows], target_input=target[others]
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    if distiller is not None:
        distiller.on_train_end()  # kdhooks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", type=int, choices=(2, 3), default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps")
    options = parser.parse_args()
    steps, size = (8, 16) if options.quick else (600, 256)
    data = {
        (scanner, part): load(scanner, part == "train", size, options.dimensions)
        for scanner in "ab"
        for part in ("train", "test")
    }
    print(f"Dice in percent, masks of scanner a only\n{'':14}{'a':>8}{'b':>8}")
    for name, adapt in (("source only", False), ("CAC", True)):
        torch.manual_seed(options.seed)
        model = make_unet(options.dimensions, (8, 16, 32), classes=CLASSES, norm="instance")
        train(model, data["a", "train"], data["b", "train"][0], steps, adapt=adapt)
        print(f"{name:14}" + "".join(f"{dice(model, data[scanner, 'test']):8.1f}" for scanner in "ab"), flush=True)


if __name__ == "__main__":
    main()
