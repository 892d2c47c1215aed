"""`AutoDistillation` with Keras models: the same search, the same rules, with real training."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import AutoDistillation, ConfigError
from kdhooks_tf.backend import BACKEND

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

FEATURES, CLASSES = 6, 3


def build(arch: Mapping[str, Any]) -> Any:
    inputs = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(arch["width"], activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(hidden), name="net")


def batches() -> Any:
    inputs = np.random.default_rng(3).normal(size=(32, FEATURES)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((inputs, inputs[:, :CLASSES].argmax(1))).batch(8)


def agent(folder: Path, **search: Any) -> AutoDistillation:
    conf = {
        "model": {"name": "tiny", "framework": "tensorflow"},
        "distillation": {"train": {"end_epoch": 2, "optimizer": {"SGD": {"learning_rate": 0.1}}}},
        "auto_distillation": {
            "search": {
                "search_space": {"width": [2, 3, 4, 5]},
                "search_algorithm": "Random",
                "max_trials": 3,
                "metrics": ["accuracy", "parameters"],
                **search,
            },
            "flash_distillation": {
                "block_names": ["hidden"],
                "layer_mappings_for_knowledge_transfer": [[["hidden", "hidden"]]],
                "loss_types": [["MSE"]],
                "train_steps": [4],
            },
            "regular_distillation": {
                "layer_mappings_for_knowledge_transfer": [["head"]],
                "loss_types": ["KL"],
                "add_origin_loss": True,
                "train_steps": 8,
            },
        },
        "evaluation": {"accuracy": {"metric": {"topk": 1}}},
        "tuning": {"workspace": {"path": str(folder)}},
    }
    keras.utils.set_random_seed(7)
    made = AutoDistillation(build, conf, teacher_model=build({"width": 16}))
    made.train_dataloader = made.eval_dataloader = batches()
    return made


def facts(made: AutoDistillation) -> list[tuple[Any, ...]]:
    return [
        (one.number, dict(one.arch), one.state, dict(one.metrics), [stage["losses"] for stage in one.stages])
        for one in made.search_result.candidates
    ]


def test_a_search_and_its_best_model(tmp_path: Path) -> None:
    made = agent(tmp_path)
    best = made.search_loop()
    found = made.search_result
    assert [one.state for one in found.candidates] == ["complete"] * 3
    for one in found.candidates:
        width = one.arch["width"]
        assert one.metrics["parameters"] == 7 * width + (width + 1) * 3
        assert [(stage["kind"], stage["steps"]) for stage in one.stages] == [("flash", 4), ("regular", 8)]
    assert found.best is not None and found.best.arch == best
    assert Path(found.best.weights or "").name == f"{found.best.number}.weights.h5"
    model = agent(tmp_path).best_model()
    inputs, target = next(iter(batches().unbatch().batch(32)))
    right = float((model(inputs).numpy().argmax(1) == target.numpy()).mean())
    assert right == pytest.approx(found.best.metrics["accuracy"])
    kept = {path.name for path in (tmp_path / "weights").iterdir()}
    assert kept == {f"{one.number}.weights.h5" for one in found.pareto}


def test_the_same_seed_gives_the_same_search_and_a_second_call_goes_on(tmp_path: Path) -> None:
    one, other = agent(tmp_path / "one"), agent(tmp_path / "other", max_trials=1)
    one.search_loop()
    other.search_loop()
    np.random.rand(3)
    tf.random.uniform((2,))
    resumed = agent(tmp_path / "other")
    resumed.search_loop()
    assert facts(one) == facts(resumed)


def test_measuring_changes_nothing_that_a_search_finds(tmp_path: Path) -> None:
    limits = ["latency <= 60 s", "throughput >= 0.001", "macs <= 1 G", "file_size <= 1 GB", "peak_memory <= 1 GiB"]
    plain, limited = agent(tmp_path / "plain"), agent(tmp_path / "limited", constraints=limits)
    for made in (plain, limited):
        made.search_loop()
    for without, one in zip(facts(plain), facts(limited), strict=True):
        metrics = one[3]
        assert metrics["macs"] == (FEATURES + CLASSES) * one[1]["width"] and len(metrics) == 2 + len(limits)
        assert without == (*one[:3], {name: metrics[name] for name in without[3]}, one[4])


def test_what_fails_and_what_ends_the_search(tmp_path: Path) -> None:
    made = agent(tmp_path, search_algorithm="Grid")
    earlier: list[weakref.ref[Any]] = []

    def builder(arch: dict[str, Any]) -> Any:
        assert [one() for one in earlier] == [None] * len(earlier)
        if arch["width"] == 3:
            raise ValueError("not this one")
        model = build(arch)
        earlier.append(weakref.ref(model))
        return model

    made.model_builder = builder
    made.search_loop()
    assert [one.state for one in made.search_result.candidates] == ["complete", "failed", "complete"]
    assert made.search_result.candidates[1].reason.startswith("model_builder raised ValueError: not this one (")

    wrong = agent(tmp_path / "wrong")
    wrong.config["auto_distillation.flash_distillation.block_names"] = ["hiden"]
    with pytest.raises(ConfigError) as caught:
        wrong.search_loop()
    assert "has no layer 'hiden'\n  Did you mean 'hidden'?" in str(caught.value)
    assert len(wrong.search_result) == 0


def test_functions_of_the_users_and_the_section_distillation(tmp_path: Path) -> None:
    made = agent(tmp_path / "own", max_trials=2)
    made.train_func = lambda model: model
    made.eval_func = lambda model: {"accuracy": 0.5}
    made.search_loop()
    assert [one.metrics["accuracy"] for one in made.search_result.candidates] == [0.5, 0.5]
    whole = agent(tmp_path / "whole", max_trials=1)
    for section in ("flash_distillation", "regular_distillation"):
        del whole.config[f"auto_distillation.{section}"]
    whole.search_loop()
    assert [stage["steps"] for stage in whole.search_result.candidates[0].stages] == [8]


def test_alone_there_is_nothing_to_say() -> None:
    with BACKEND.together() as group:
        assert group == (0, 1)
    value = object()
    assert BACKEND.broadcast(value) is value
