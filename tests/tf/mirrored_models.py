"""Models, configurations and one loop for the programs that train on several replicas and on one device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks import Distillation

ROWS, STEPS, FEATURES, CLASSES = 8, 4, 6, 4
"""Rows of a global batch, and how many of these there are."""

MOVING = {"linear": {"from": 0.2, "to": 1.0, "steps": 3}}


def data(rows: int = ROWS * STEPS) -> tuple[Any, Any]:
    generator = np.random.default_rng(5)
    return generator.normal(size=(rows, FEATURES)).astype("float32"), generator.integers(CLASSES, size=rows)


def seeded(model: Any, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    for one in model.trainable_weights:
        one.assign(generator.normal(scale=0.6, size=one.shape))
    return model


def student(*, norm: str | None = None) -> Any:
    """`norm`: a BatchNorm of which each replica has its ``own`` statistics, or ``synchronized`` ones."""
    between = [] if norm is None else [keras.layers.BatchNormalization(synchronized=norm == "synchronized")]
    dense = keras.layers.Dense
    layers = [keras.Input((FEATURES,)), dense(5, name="body"), *between, keras.layers.ReLU(), dense(CLASSES)]
    return seeded(keras.Sequential(layers), 1)


def teacher() -> Any:
    layers = [keras.Input((FEATURES,)), keras.layers.Dense(7, name="body"), keras.layers.BatchNormalization()]
    return seeded(keras.Sequential([*layers, keras.layers.ReLU(), keras.layers.Dense(CLASSES)]), 2)


def logits(weight: Any = 0.7, temperature: Any = 3.0) -> dict[str, Any]:
    return {
        "KnowledgeDistillationLoss": {
            "temperature": temperature,
            "loss_types": ["CE", "KL"],
            "loss_weights": [0.3, weight],
        }
    }


def pair(weight: Any = 0.5) -> dict[str, Any]:
    """Widths 5 and 7, so that a matcher is trained."""
    return {
        "IntermediateLayersKnowledgeDistillationLoss": {
            "layer_mappings": [["body", "body"]],
            "loss_types": ["MSE"],
            "loss_weights": [weight],
            "add_origin_loss": False,
        }
    }


@dataclass
class Case:
    """What is trained.

    Attributes:
        criterion: of the configuration.
        norm: of the student.
        ema: the decay of a mean teacher, or None.
        mirrored: whether the teacher is made in the strategy's scope.
        average: whether the loop divides the loss of its rows by the global batch, as the guide of TensorFlow says.
    """

    criterion: dict[str, Any]
    norm: str | None = None
    ema: float | None = None
    mirrored: bool = True
    average: bool = False

    def distiller(self, model: Any) -> Distillation:
        conf: dict[str, Any] = {"distillation": {"train": {"criterion": self.criterion}}}
        if self.ema is not None:
            conf["distillation"]["teacher"] = {"ema": self.ema}
            return Distillation(conf, student_model=model)
        scope = model.distribute_strategy.scope if self.mirrored else tf.distribute.get_strategy().scope
        with scope():
            other = teacher()
        return Distillation(conf, student_model=model, teacher_model=other)


CASES = {
    "logits": Case(logits()),
    "average": Case(logits(), average=True),
    "teacher elsewhere": Case({**logits(), **pair()}, mirrored=False),
    "schedules": Case({**logits(MOVING, MOVING), **pair(MOVING)}),
    "synchronized norm": Case({**logits(), **pair()}, norm="synchronized"),
    "mean teacher": Case(logits(), norm="synchronized", ema=0.6),
    "own norm": Case({**logits(), **pair()}, norm="own"),
}


@dataclass
class Trained:
    """What a run left.

    Attributes:
        student, teacher, matchers: their variables, of each a list with one array for each replica of this process.
        statistics: of the student, where each replica has its own; no part of `student` then.
        losses: the components of each step.
        totals: of each step, the sum of what the replicas got back.
        means: of the epoch's record.
        steps: how many the clock counted, in all and in the epoch.
        first: step and component of the first that was not finite, or None.
        reason: why it was not, or None.
    """

    student: list[list[Any]] = field(default_factory=list)
    statistics: list[list[Any]] = field(default_factory=list)
    teacher: list[list[Any]] = field(default_factory=list)
    matchers: list[list[Any]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    means: dict[str, float] = field(default_factory=dict)
    steps: tuple[int, int] = (0, 0)
    first: tuple[int, str] | None = None
    reason: str | None = None


def per_replica(variables: Any) -> list[list[Any]]:
    raw = [getattr(one, "value", one) for one in variables]
    return [[np.array(copy) for copy in getattr(one, "values", (one,))] for one in raw]


def replica_step(case: Case, distiller: Distillation, model: Any, optimizer: Any) -> Callable[..., Any]:
    """The user's step on one replica."""
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            output = model(x, training=True)
            if case.average:
                rows = tf.nn.sparse_softmax_cross_entropy_with_logits(y, output)
                loss = tf.nn.compute_average_loss(rows, global_batch_size=ROWS)
            else:
                loss = cross_entropy(y, output)
            total = distiller.on_after_compute_loss(x, output, loss, target=y)
        gradients = tape.gradient(total, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return total

    return step


def loop(
    strategy: Any,
    case: Case,
    *,
    graph: bool = True,
    share: Callable[[Any], Any] | None = None,
    inputs: Any = None,
    resume_at: int | None = None,
) -> Trained:
    """One epoch of a user's loop under a strategy, the same text for all of them.

    Args:
        strategy: the default one is a single device.
        case: what is trained.
        graph: whether the step is a `tf.function`.
        share: what this worker gets of a global batch; None lets the strategy share it out.
        inputs: other ones than `data` gives.
        resume_at: the step before which the distiller is replaced by another one that has its state.
    """
    with strategy.scope():
        model = student(norm=case.norm)
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(model.trainable_variables)
    distiller = case.distiller(model)

    def made(distiller: Distillation) -> Callable[[Any, Any], Any]:
        replica = replica_step(case, distiller, model, optimizer)

        def step(x: Any, y: Any) -> Any:
            return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(replica, args=(x, y)), axis=None)

        return tf.function(step) if graph else step

    x, y = data()
    batches: Any = tf.data.Dataset.from_tensor_slices((x if inputs is None else inputs, y)).batch(ROWS)
    if share is None:
        batches = strategy.experimental_distribute_dataset(batches)
    left, run = Trained(), made(distiller)
    distiller.on_train_begin(optimizer=optimizer)
    for index, (x, y) in enumerate(batches):
        if index == resume_at:
            state = distiller.state_dict()
            distiller.on_train_end()
            distiller = case.distiller(model)
            distiller.load_state_dict(state)
            run = made(distiller)
            distiller.on_train_begin(optimizer=optimizer)
        left.totals.append(float(run(x, y) if share is None else run(share(x), share(y))))
        left.losses.append(distiller.losses)
    run_of = distiller._run
    assert run_of is not None
    left.steps = (distiller.step, run_of.clock.steps_in_epoch)
    left.first = run_of.monitor.first_bad()
    left.reason = run_of.explain("MSE[body]") if left.first else None
    distiller.on_epoch_end()
    left.means = distiller.history[-1]["losses"]
    left.matchers = per_replica(distiller.parameters())
    left.teacher = per_replica(next(iter(run_of.teachers.values())).model.weights)
    distiller.on_train_end()
    left.student = per_replica(model.variables if case.norm != "own" else model.trainable_variables)
    left.statistics = per_replica(model.non_trainable_variables if case.norm == "own" else ())
    return left


def between_replicas(*groups: list[list[Any]]) -> float:
    """The greatest difference of a variable between two replicas of this process."""
    return max((float(abs(copy - one[0]).max()) for group in groups for one in group for copy in one), default=0.0)


def apart(one: list[list[Any]], other: list[list[Any]]) -> float:
    """The greatest difference of a variable between two runs."""
    assert len(one) == len(other)
    return max((float(abs(a[0] - b[0]).max()) for a, b in zip(one, other, strict=True)), default=0.0)


def losses_apart(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """The greatest difference of a component in any step."""
    assert [list(step) for step in one] == [list(step) for step in other]
    return max(abs(a[name] - b[name]) for a, b in zip(one, other, strict=True) for name in a)


def compared(many: Trained, one: Trained) -> dict[str, Any]:
    """How far several replicas are from each other and from a single device, as numbers for a test."""
    return {
        "between": between_replicas(many.student, many.teacher, many.matchers),
        "student": apart(many.student, one.student),
        "teacher": apart(many.teacher, one.teacher),
        "matchers": apart(many.matchers, one.matchers),
        "losses": losses_apart(many.losses, one.losses),
        "means": losses_apart([many.means], [one.means]),
        "totals": max(abs(a - b) for a, b in zip(many.totals, one.totals, strict=True)),
        "total": max(abs(a - b["total"]) for a, b in zip(one.totals, one.losses, strict=True)),
        "statistics": between_replicas(many.statistics),
        "steps": many.steps,
        "copies": sorted({len(one) for one in (*many.student, *many.matchers)}),
        "names": list(many.means),
    }
