"""FashionMNIST as tensors, a ViT that knows it, a ResNet that should, and how good they are."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from kdhooks.datasets import build_dataset

CLASSES, MEAN, DEVIATION = 10, 0.286, 0.353
VIT = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}


def images(count: int, *, train: bool) -> TensorDataset:
    """So many images [1, 28, 28], normalised, with labels: Debian's dataset-fashion-mnist."""
    data = build_dataset("FashionMNIST", {"train": train})
    pixels = torch.as_tensor(data.inputs[:count]).reshape(-1, 1, 28, 28).float() / 255
    return TensorDataset((pixels - MEAN) / DEVIATION, torch.as_tensor(data.targets[:count]).long())


def vit() -> ViTForImageClassification:
    """A small ViT (Dosovitskiy et al. 2021) for 28 x 28 pixels: 49 patches of 4 x 4."""
    return ViTForImageClassification(ViTConfig(image_size=28, patch_size=4, num_channels=1, num_labels=CLASSES, **VIT))


def resnet() -> ResNetForImageClassification:
    """A small ResNet (He et al. 2016) of three stages."""
    return ResNetForImageClassification(
        ResNetConfig(
            num_channels=1,
            embedding_size=16,
            hidden_sizes=[16, 32, 64],
            depths=[1, 1, 1],
            layer_type="basic",
            downsample_in_first_stage=False,
            num_labels=CLASSES,
        )
    )


def trained_vit(data: TensorDataset, epochs: int, saved: Path) -> ViTForImageClassification:
    """The teacher: from its checkpoint folder where it was trained before, otherwise trained now."""
    if (saved / "config.json").exists():
        teacher: ViTForImageClassification = ViTForImageClassification.from_pretrained(saved)
        return teacher
    teacher = vit()
    loader = DataLoader(data, batch_size=128, shuffle=True)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-3, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * len(loader))
    for _ in range(epochs):
        for x, y in loader:
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(teacher(x).logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    teacher.save_pretrained(saved)
    return teacher


@torch.no_grad()
def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """Of 100."""
    model.eval()
    right = sum(int((logits(model, x).argmax(1) == y).sum()) for x, y in DataLoader(data, batch_size=500))
    model.train()
    return 100 * right / len(data)


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Of a model of transformers."""
    found: Tensor = model(x).logits
    return found
