"""What `DistillationCallback` costs: a step of a `Trainer` with it, against one with a loss that is written by hand.

    python -m benchmarks.trainers_transformers             # about two minutes
    python -m benchmarks.trainers_transformers --quick

Both sides train the same small causal language model from the same teacher with the same loss: cross entropy of the
labels and KL of the softened logits, over the tokens that have a label, divided by the tokens of the batch. They run
in turn, each after the other in every round, and each training's own beginning is left out. The ratio is the median of
the rounds' ratios.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from kdhooks import Distillation
from kdhooks.integrations.transformers import DistillationCallback

VOCABULARY, LENGTH, ROWS, TEMPERATURE, WARM_UP = 2048, 64, 16, 2.0, 3
CRITERION = {"temperature": TEMPERATURE, "loss_types": ["CE", "KL"], "loss_weights": [0.5, 0.5]}
CONFIGURATION = {"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": CRITERION}}}}


class Timed(TrainerCallback):
    """Notes when each step ends, once the training is warm."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer has stepped."""
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """The median of a step."""
        warm = self.ends[WARM_UP:]
        return statistics.median(later - earlier for earlier, later in itertools.pairwise(warm))


class ByHand(Trainer):
    """A `Trainer` whose loss is what one writes without kdhooks."""

    teacher: nn.Module

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """Half of the model's own loss, and half of KL to the teacher."""
        items = kwargs["num_items_in_batch"]
        outputs = model(**inputs, num_items_in_batch=items)
        given = {name: value for name, value in inputs.items() if name != "labels"}
        with torch.no_grad():
            teacher = self.teacher(**given, use_cache=False).logits
        counted = F.pad(inputs["labels"], (0, 1), value=-100)[..., 1:] != -100
        ours, theirs = ((logits / TEMPERATURE).log_softmax(-1) for logits in (outputs.logits, teacher))
        each = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
        loss = 0.5 * outputs.loss + 0.5 * TEMPERATURE**2 * each.where(counted, 0.0).sum() / items
        return (loss, outputs) if return_outputs else loss


def model(seed: int, width: int, layers: int) -> nn.Module:
    """A small Llama."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
        )
    )


def rows(count: int) -> list[dict[str, Tensor]]:
    """Random tokens, a quarter of each row without labels."""
    draws = torch.Generator().manual_seed(7)
    tokens = torch.randint(VOCABULARY, (count, LENGTH), generator=draws)
    labels = tokens.clone()
    labels[:, : LENGTH // 4] = -100
    mask = torch.ones_like(tokens)
    return [{"input_ids": a, "attention_mask": b, "labels": c} for a, b, c in zip(tokens, mask, labels, strict=True)]


def train(side: str, teacher: nn.Module, steps: int) -> float:
    """Seconds of a step of one side, ``hand`` or ``ours``."""
    timed = Timed()
    arguments = TrainingArguments(
        tempfile.mkdtemp(prefix="kdhooks-"),
        max_steps=steps + WARM_UP + 1,
        per_device_train_batch_size=ROWS,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=50,
        dataloader_pin_memory=False,
    )
    callbacks: list[Any] = [timed]
    if side == "ours":
        callbacks.append(DistillationCallback(Distillation(CONFIGURATION, teacher_model=teacher)))
    kind = ByHand if side == "hand" else Trainer
    made = kind(model(1, 128, 2), arguments, train_dataset=rows(8 * ROWS), callbacks=callbacks)
    made.teacher = teacher.to(arguments.device).eval()
    made.train()
    return timed.seconds


def run(steps: int, rounds: int) -> dict[str, Any]:
    """The step's time on both sides, in turn.

    Args:
        steps: of each training, the first few of which are not counted besides.
        rounds: how often both sides train.

    Returns:
        Milliseconds of a step by hand and with the callback (medians), and the median ratio, the second to the first.
    """
    teacher = model(9, 256, 4)
    times: dict[str, list[float]] = {"hand": [], "ours": []}
    for number in range(rounds):
        for side in ("hand", "ours") if number % 2 == 0 else ("ours", "hand"):
            times[side].append(train(side, teacher, steps))
    ratios = [ours / hand for hand, ours in zip(times["hand"], times["ours"], strict=True)]
    medians = {f"{side}_ms": 1000 * statistics.median(found) for side, found in times.items()}
    return {**medians, "ratio": statistics.median(ratios), "ratios": ratios, "steps": steps, "rounds": rounds}


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    quick = parser.parse_args().quick
    print(json.dumps(run(*((4, 1) if quick else (40, 7))), indent=1))


if __name__ == "__main__":
    main()
