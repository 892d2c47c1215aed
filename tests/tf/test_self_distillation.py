"""Self-distillation: values by hand, the deepest side learns from labels only, configuration, errors, resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation, KDHooksError
from kdhooks_tf import IntermediateLayersKnowledgeDistillationLoss, SelfKnowledgeDistillationLoss
from tests.tf.feature_models import CROSS_ENTROPY, all_equal, arrays, batches, from_yaml, made

MODES = ["eager", "graph", "xla"]
GROUPS = [[["exit1", "exit2"], ["head"]], [["one", "three"], ["two", "three"]]]


class Exits(keras.Model):
    """Three blocks with a classifier behind each; the first block is narrower."""

    def __init__(self) -> None:
        super().__init__()
        dense = keras.layers.Dense
        self.one, self.two, self.three = dense(5, name="one"), dense(8, name="two"), dense(8, name="three")
        self.exit1, self.exit2, self.head = (dense(4, name=name) for name in ("exit1", "exit2", "head"))

    def call(self, x: Any) -> Any:
        one = self.one(x)
        two = self.two(tf.nn.relu(one))
        three = self.three(tf.nn.relu(two))
        return self.head(three), self.exit1(one), self.exit2(two)


def functional() -> Any:
    dense, relu = keras.layers.Dense, lambda value: keras.layers.Activation("relu")(value)
    x = keras.Input((6,))
    one = dense(5, name="one")(x)
    two = dense(8, name="two")(relu(one))
    three = dense(8, name="three")(relu(two))
    return keras.Model(x, [dense(4, name="head")(three), dense(4, name="exit1")(one), dense(4, name="exit2")(two)])


def student(kind: str = "subclassed") -> Any:
    def build(width: int) -> Any:
        model = Exits() if kind == "subclassed" else functional()
        model(tf.zeros([1, 6]))
        return model

    return made(build, 0, 1)


def attached(model: Any, *given: Any, **options: Any) -> Distillation:
    distiller = Distillation(student_model=model)
    distiller.criterion = SelfKnowledgeDistillationLoss(*given, **options)
    distiller.optimizer = keras.optimizers.SGD(0.0)
    return distiller


def stepped(distiller: Distillation, model: Any, mode: str = "eager") -> Any:
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            output = model(x, training=True)
            total = distiller.on_after_compute_loss(x, output, CROSS_ENTROPY(y, output[0]))
        return total, tape.gradient(total, model.trainable_variables)

    return step if mode == "eager" else tf.function(step, jit_compile=mode == "xla")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["KL", "CE"])
def test_total_and_gradient_are_those_of_a_loop_by_hand(kind: str, mode: str) -> None:
    model = student("subclassed" if mode != "graph" else "functional")
    x, y = batches()[0]
    groups = [GROUPS[0], [["two", "three"]]]
    with attached(model, groups, 3.0, [kind, "L2"], [0.3, 0.01], add_origin_loss=True) as distiller:
        total, found = stepped(distiller, model, mode)(x, y)
        assert list(distiller.losses) == ["CE", f"{kind}[exit1]", f"{kind}[exit2]", "L2[two]", "total"]
    layers = {layer.name: layer for layer in model.layers}
    with tf.GradientTape() as tape:
        one = layers["one"](x)
        two = layers["two"](tf.nn.relu(one))
        three = layers["three"](tf.nn.relu(two))
        head, exit1, exit2 = layers["head"](three), layers["exit1"](one), layers["exit2"](two)
        by_hand = CROSS_ENTROPY(y, head) + 0.01 * tf.reduce_sum(tf.square(two - tf.stop_gradient(three))) / len(x)
        p = tf.nn.softmax(tf.stop_gradient(head) / 3)
        for logits in (exit1, exit2):
            soft = -tf.reduce_mean(tf.reduce_sum(p * tf.nn.log_softmax(logits / 3), -1))
            entropy = tf.reduce_mean(tf.reduce_sum(p * tf.math.log(p), -1)) if kind == "KL" else 0.0
            by_hand = by_hand + 0.3 * 9 * (soft + entropy)
    np.testing.assert_allclose(total, by_hand, rtol=1e-5)
    for mine, other in zip(found, tape.gradient(by_hand, model.trainable_variables), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_the_deepest_side_learns_from_labels_only() -> None:
    model = student()
    with attached(model, [[["exit1"], ["head"]]], 2.0) as distiller:
        gradients = stepped(distiller, model)(*batches()[0])[1]
    by_layer = dict(
        zip([variable.path.split("/")[-2] for variable in model.trainable_variables], gradients, strict=True)
    )
    assert by_layer["head"] is None and by_layer["three"] is None
    assert float(tf.reduce_sum(tf.abs(by_layer["exit1"]))) > 0
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_weights_and_types_stand_for_groups_pairs_or_all() -> None:
    def made_of(**options: Any) -> SelfKnowledgeDistillationLoss:
        return SelfKnowledgeDistillationLoss(GROUPS, **options)

    loss = made_of()
    assert loss.loss_types == ("CE",) * 4 and [weight(0) for weight in loss.loss_weights] == [0.5] * 4
    assert loss.layer_mappings == [["exit1", "head"], ["exit2", "head"], ["one", "three"], ["two", "three"]]
    assert loss.student_weight(0) == 0.0
    loss = made_of(loss_types=["KL", "L2"], loss_weights=[1, 2, 3, {"linear": {"from": 0, "to": 4, "steps": 4}}])
    assert loss.loss_types == ("KL", "KL", "L2", "L2") and [weight(1) for weight in loss.loss_weights] == [1, 2, 3, 1]
    options = made_of(temperature=4.0, loss_types=["KL", {"CE": {"temperature": 2.0}}])._options.losses
    assert [one["temperature"] for _, one in options] == [4.0, 4.0, 2.0, 2.0]


def test_a_matcher_of_a_narrow_feature_trains_and_a_resume_is_the_same() -> None:
    def run(model: Any, optimizer: Any, steps: range, state: Any = None) -> tuple[Any, Any]:
        distiller = attached(model, GROUPS, 2.0, ["KL", "L2"], [0.5, 0.1], add_origin_loss=True)
        if state is not None:
            distiller.load_state_dict(state)
        distiller.optimizer = optimizer
        with distiller:
            step = stepped(distiller, model)
            for index in steps:
                gradients = step(*batches()[index % len(batches())])[1]
                optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            assert [one is None or one.is_identity for one in distiller.criterion.feature_matchers] == [
                True, True, False, True,
            ]  # fmt: skip
            return distiller.state_dict(), arrays(distiller.criterion.feature_matchers[2].variables)

    whole, halves = student(), student()
    matcher = run(whole, keras.optimizers.Adam(0.01), range(6))[1]
    adam = keras.optimizers.Adam(0.01)
    state, begun = run(halves, adam, range(3))
    resumed = run(halves, adam, range(3, 6), state)[1]
    assert all_equal(arrays(whole.weights), arrays(halves.weights)) and all_equal(matcher, resumed)
    assert not all_equal(begun, resumed)


def test_without_a_run_as_a_program_drives_it() -> None:
    loss = SelfKnowledgeDistillationLoss(GROUPS[:1], 3.0, "KL")
    with pytest.raises(KDHooksError, match=r"^no model is set: student_model comes before on_train_begin\(\)$"):
        loss.on_train_begin()
    loss.student_model = model = student()
    loss.on_train_begin()
    x = batches()[0][0]
    with tf.GradientTape():
        head, exit1, exit2 = model(x, training=True)
        features = loss.teacher_model_forward(x)
        assert list(features) == ["head"] and np.array_equal(features["head"], head)
        total = loss.loss_cal()
    p = tf.nn.softmax(head / 3)
    parts = [tf.nn.log_softmax(head / 3) - tf.nn.log_softmax(one / 3) for one in (exit1, exit2)]
    expected = sum(9 * float(tf.reduce_mean(tf.reduce_sum(p * part, -1))) for part in parts)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    loss.on_train_end()
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


CLASSIC = """\
layer_mappings: [
  [['one', 'three'], ['two', 'three']],
  [['exit1', 'head'], ['exit2', 'head']]
]
temperature: 3.0
loss_types: ['L2', 'KL']
loss_weights: [0.5, 0.05]
add_origin_loss: True"""


@pytest.mark.parametrize("mode", MODES)
def test_the_classic_configuration_trains_beside_a_criterion_with_a_teacher(mode: str, tmp_path: Path) -> None:
    model = student()
    optimizer = keras.optimizers.SGD(0.01)
    x, y = batches()[0]
    with from_yaml(tmp_path, CLASSIC, model, None, "Self") as distiller:
        distiller.optimizer = optimizer
        step, values = stepped(distiller, model, mode), []
        for _ in range(20):
            total, gradients = step(x, y)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            values.append(float(total))
        assert values[-1] < values[0]
        assert list(distiller.losses) == ["CE", "L2[one]", "L2[two]", "KL[exit1]", "KL[exit2]", "total"]
    path = tmp_path / "kd.yaml"
    path.write_text(path.read_text() + "\n      KnowledgeDistillationLoss: {loss_types: [CE, KL]}\n")
    with Distillation(path, student_model=model, teacher_model=student()) as distiller:
        stepped(distiller, model, mode)(x, y)
        assert list(distiller.losses)[-2:] == ["KL", "total"]


def test_beside_a_criterion_of_hidden_layers() -> None:
    model, teacher = student(), student()
    distiller = Distillation(student_model=model, teacher_model=teacher)
    distiller.criterion = [
        SelfKnowledgeDistillationLoss(GROUPS[:1], add_origin_loss=True),
        IntermediateLayersKnowledgeDistillationLoss([["one"]]),
    ]
    with distiller:
        stepped(distiller, model, "graph")(*batches()[0])
        assert list(distiller.losses) == ["CE", "CE[exit1]", "CE[exit2]", "MSE[one]", "total"]


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "flat": (
        lambda: SelfKnowledgeDistillationLoss([["exit1", "head"]]),
        "layer_mappings[0]: expected a group of layers as in [[shallow layers], [deepest layer]], got a list. "
        "Write one more pair of brackets: [[exit1, head]]",
    ),
    "itself": (
        lambda: SelfKnowledgeDistillationLoss([[["exit1", "head"], ["head"]]]),
        "layer_mappings[0][0][1]: the layer 'head' would follow itself",
    ),
    "temperature": (
        lambda: SelfKnowledgeDistillationLoss(GROUPS, 0.0),
        "the temperature must be above 0, and is 0.0",
    ),
    "unknown layer": (
        lambda: attached(student(), [[["exit9"], ["head"]]]).on_train_begin(),
        "layer_mappings[0][0][0]: student Exits has no layer 'exit9'. Did you mean 'exit2'? All layers: kdhooks layers "
        "MODEL",
    ),
}


@pytest.mark.parametrize(("act", "text"), FAULTS.values(), ids=FAULTS.keys())
def test_faults(act: Callable[[], Any], text: str) -> None:
    with pytest.raises(KDHooksError) as caught:
        act()
    assert str(caught.value) == text


@pytest.mark.parametrize("mode", MODES)
def test_the_temperature_may_be_a_schedule(mode: str) -> None:
    def totals(*temperature: Any) -> list[float]:
        model = student()
        with attached(model, [[["exit1"], ["head"]]], *temperature, "KL") as distiller:
            step = stepped(distiller, model, mode)
            return [float(step(*batches()[0])[0]) for _ in range(3)]

    moving = totals({"linear": {"from": 4.0, "to": 2.0, "steps": 2}})
    np.testing.assert_allclose(moving, [totals(4.0)[0], totals(3.0)[0], totals(2.0)[0]], rtol=1e-5)
