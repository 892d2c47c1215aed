"""A program: one of the workers of a `MultiWorkerMirroredStrategy` that search together, or one alone; prints JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import tensorflow as tf

from kdhooks import AutoDistillation
from kdhooks_tf.backend import BACKEND
from tests.tf.search.test_auto_tf import build

SEARCH = {
    "model": {"name": "tiny", "framework": "tensorflow"},
    "auto_distillation": {
        "search": {
            "search_space": {"width": [2, 3, 4]},
            "search_algorithm": "Grid",
            "storage": "memory",
            "keep_weights": "none",
        }
    },
}


def main() -> None:
    """What rank 0 says, and a search in which every worker judges otherwise."""
    several = bool(os.environ.get("TF_CONFIG"))
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if several else tf.distribute.get_strategy()
    with strategy.scope():
        with BACKEND.together() as (rank, size):
            said = BACKEND.broadcast({"from": rank, "text": "ü" * (rank + 1), "values": [0.5, None]})
        built: list[int] = []

        def builder(arch: dict[str, Any]) -> Any:
            built.append(arch["width"])
            return build(arch)

        agent = AutoDistillation(builder, SEARCH, train_func=lambda model: None)
        agent.eval_func = lambda model: model.get_layer("hidden").units / 10 + rank
        best = agent.search_loop()
    scores = [one.metrics for one in agent.search_result.candidates]
    json.dump({"group": [rank, size], "said": said, "built": built, "best": best, "scores": scores}, sys.stdout)


if __name__ == "__main__":
    main()
