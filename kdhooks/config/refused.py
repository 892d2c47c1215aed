"""Keys that are refused by name: those of the old tool without meaning here."""

from __future__ import annotations

import re

from kdhooks.names import fold

_REMOVE = "Remove it."

_TUNES_NOTHING = "kdhooks trains once and searches no configurations, so there is nothing to tune"
_OF_A_SEARCH = ("belongs to the section of a search", "Move it below auto_distillation.")
_NO_COMPRESSION = "kdhooks distils; it neither quantizes nor prunes"

_NO_KEYS = "no key is read from a configuration, which others see"

OLD: dict[str, tuple[str, str]] = {
    "version": ("the old tool's version number has no meaning here", _REMOVE),
    "quantization": (_NO_COMPRESSION, _REMOVE),
    "pruning": (_NO_COMPRESSION, _REMOVE),
    "graph_optimization": (_NO_COMPRESSION, _REMOVE),
    "optimization_level": (_NO_COMPRESSION, _REMOVE),
    "mixed_precision": ("precision is set for each model here", "Use distillation.train.precision: bf16"),
    "use_bf16": ("precision is set for each model here", "Use distillation.train.precision: bf16"),
    "nas": ("architectures are searched by another section here", "Write auto_distillation."),
    "search": _OF_A_SEARCH,
    "flash_distillation": _OF_A_SEARCH,
    "regular_distillation": _OF_A_SEARCH,
    "train": ("training is described inside the section it belongs to", "Move it below distillation."),
    "distillation.train.hostfile": (
        "processes are started by the launcher, not by a file of hosts",
        "Start the program with torchrun and set distributed: true in the dataloader.",
    ),
    "distillation.train.criterion.CrossEntropyLoss": (
        "the student's own loss is not a criterion here",
        "Name it first in the loss_types of KnowledgeDistillationLoss.",
    ),
    "distillation.train.criterion.SparseCategoricalCrossentropy": (
        "the student's own loss is not a criterion here",
        "Name it first in the loss_types of KnowledgeDistillationLoss.",
    ),
    "evaluation.performance": (
        "kdhooks measures accuracy while it trains, not speed",
        "Measure the returned student with a benchmark of your own.",
    ),
    "evaluation.accuracy.configs.num_of_instance": (
        "evaluation runs in the training process, not in instances of its own",
        "Keep cores_per_instance or intra_num_of_threads.",
    ),
    "evaluation.accuracy.configs.kmp_blocktime": (
        "the OpenMP runtime reads it from the environment before Python starts",
        "Set KMP_BLOCKTIME in the shell.",
    ),
    "evaluation.accuracy.configs.kmp_affinity": (
        "the OpenMP runtime reads it from the environment before Python starts",
        "Set KMP_AFFINITY in the shell.",
    ),
    **{
        f"tuning.loggers.{logger}.api_key": (_NO_KEYS, f"Remove it, and set {variable} in the shell.")
        for logger, variable in (("comet", "COMET_API_KEY"), ("wandb", "WANDB_API_KEY"))
    },
    "tuning.strategy": (_TUNES_NOTHING, _REMOVE),
    "tuning.objective": (_TUNES_NOTHING, _REMOVE),
    "tuning.multi_objectives": (_TUNES_NOTHING, _REMOVE),
    "tuning.diagnosis": (_TUNES_NOTHING, _REMOVE),
    "tuning.accuracy_criterion": (
        "no accuracy is aimed at; the best weights of the run are kept",
        "Remove it; evaluation.accuracy says what is best.",
    ),
    "tuning.exit_policy": (
        "a run ends after its epochs, not by a policy",
        "Use distillation.train.end_epoch and iteration.",
    ),
}
"""Message and suggestion for keys of the old tool, by path."""


def refusal(path: str) -> tuple[str, str] | None:
    """Message and suggestion where the key at a path is refused by name, else None.

    >>> refusal("tuning.strategy")[1]
    'Remove it.'
    """
    path = re.sub(r"\[[0-9]+\]", "", path)
    return next((told for old, told in OLD.items() if fold(old) == fold(path)), None)
