"""The first of two scripts: a ViT says once what it thinks of every image, and its logits are kept on disk.

    python examples/save_logits.py             # a minute, and ten more for the teacher at the first time
    python examples/save_logits.py --quick     # a few hundred images, to see that it runs

What was stored before an interruption is not computed again. train_from_logits.py trains a student from what this one
leaves in .kdhooks/vit-logits; the teacher is needed no more then, and may be on another machine. Look at the store with
`kdhooks cache info .kdhooks/vit-logits`. FashionMNIST comes from Debian's package dataset-fashion-mnist. Needs
`pip install 'kdhooks[torch,cache,transformers]'`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from vision.clothes import images, trained_vit

from kdhooks.torch import store_outputs

STORE = Path(".kdhooks/vit-logits")


def main() -> None:
    parser = argparse.ArgumentParser(description="save the logits of a ViT")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    data = images(512 if quick else 20_000, train=True)
    teacher = trained_vit(data, epochs=1 if quick else 15, saved=Path(".kdhooks/vit-teacher"))
    batches = (x for x, _ in DataLoader(data, batch_size=256))
    with tqdm(total=len(data), unit=" images", disable=None) as bar:
        filled = store_outputs(teacher, batches, STORE, dtype="float16", progress=bar.update)
    size = sum(file.stat().st_size for file in STORE.iterdir())
    print(f"{filled.rows:,} images, {filled.computed:,} of them computed now, in {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
