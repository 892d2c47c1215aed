"""Search for a Keras student on digits: accuracy against latency, every candidate distilled block by block.

    python examples/search_keras.py             # 16 candidates, some minutes
    python examples/search_keras.py --quick     # three candidates and a few steps, to see that it runs

The same configuration as in PyTorch, the models in Keras. Each candidate's two blocks follow the teacher's, one after
the other (flash distillation), then the whole network learns from the teacher and the labels (regular distillation).
TPE proposes the candidates; BO, a Gaussian process, would need PyTorch as well. The study is kept in .kdhooks, so the
same command goes on where it was stopped. Needs scikit-learn and kdhooks[search].
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
from keras import layers

from kdhooks import AutoDistillation, DistillationConf
from kdhooks.datasets import build_dataset

CONF: dict[str, Any] = {
    "model": {"name": "search-keras"},
    "auto_distillation": {
        "search": {
            "search_space": {"width": {"low": 4, "high": 16, "step": 4}, "depth": [1, 2], "kernel": [3, 5]},
            "search_algorithm": "TPE",
            "metrics": ["accuracy", "latency"],
            "higher_is_better": [True, False],
            "max_trials": 16,
            "startup_trials": 6,
            "seed": 42,
        },
        "flash_distillation": {
            "block_names": ["block1", "block2"],
            "layer_mappings_for_knowledge_transfer": [[["block1", "block1"]], [["block2", "block2"]]],
            "loss_types": [["MSE"], ["MSE"]],
            "train_steps": [20, 20],
        },
        "regular_distillation": {
            "layer_mappings_for_knowledge_transfer": [[["head", "head"]]],
            "loss_types": [["KL"]],
            "loss_weights": [[0.5]],
            "add_origin_loss": [True],
            "train_steps": [60],
        },
        "train": {
            "optimizer": {"Adam": {"learning_rate": 0.005}},
            "dataloader": {"batch_size": 64, "shuffle": True, "dataset": {"digits": {"train": True}}},
        },
        "evaluation": {
            "accuracy": {
                "metric": {"topk": 1},
                "dataloader": {"batch_size": 450, "dataset": {"digits": {"train": False}}},
            }
        },
    },
}
QUICK: dict[str, Any] = {
    "search.max_trials": 3,
    "search.startup_trials": 2,
    "flash_distillation.train_steps": [3, 3],
    "regular_distillation.train_steps": [5],
}


def network(width: int, depth: int, kernel: int) -> Any:
    """Two blocks at 8 × 8 and 4 × 4, an average, and the classes; images are [N, 8, 8, 1]."""
    x = inputs = keras.Input((8, 8, 1))
    for name, wide, stride in (("block1", width, 1), ("block2", 2 * width, 2)):
        convolutions = [
            layers.Conv2D(wide, kernel, stride if index == 0 else 1, padding="same", activation="relu")
            for index in range(depth)
        ]
        x = keras.Sequential(convolutions, name=name)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="head")(x))


def model_builder(arch: dict[str, Any]) -> Any:
    """A candidate from a point of the space."""
    return network(**arch)


def trained_teacher(epochs: int) -> Any:
    """A wide network, by plain Keras, on the images that the candidates are trained with too."""
    digits = build_dataset("digits", {"train": True})
    teacher = network(32, 2, 3)
    teacher.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    teacher.fit(digits.inputs.transpose(0, 2, 3, 1), digits.targets, batch_size=64, epochs=epochs, verbose=0)
    return teacher


def main() -> None:
    parser = argparse.ArgumentParser(description="search for a Keras student on digits")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    conf = DistillationConf(CONF)
    for path, value in (QUICK if options.quick else {}).items():
        conf[f"auto_distillation.{path}"] = value
    teacher = trained_teacher(1 if options.quick else 20)

    search = AutoDistillation(model_builder, conf, teacher_model=teacher)
    best = search.search_loop()
    result = search.search_result
    print(result.table())
    print("\nnothing else is both more accurate and faster than one of these:")
    for candidate in result.pareto:
        accuracy, latency = candidate.metrics["accuracy"], candidate.metrics["latency"]
        print(f"  {100 * accuracy:5.1f}%  {1000 * latency:6.3f} ms  {dict(candidate.arch)}")
    print(f"the best compromise: {best}")
    print(f"table, JSON and page: {result.save(conf.workspace)}")


if __name__ == "__main__":
    main()
