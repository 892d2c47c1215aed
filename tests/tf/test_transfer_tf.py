"""Weight transfer into Keras models: from models, files and arrays; frozen layers; L2-SP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.errors import ConfigError, DataError, ModelError, TransferError, UsageError
from kdhooks_tf.transfer import L2SP, BasicFinetunner, named_weights, transfer_weights
from tests.tf.callback_models import compiled, data, fit

# Keras converts its own variables in a way that NumPy 2 complains of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def network(classes: int = 4, *, seed: int = 0, head: str = "head") -> Any:
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.ReLU(), keras.layers.Dense(5)]
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(classes, name=head)])


def equal(one: Any, other: Any, names: Any) -> bool:
    mine, theirs = named_weights(one), named_weights(other)
    return all(np.array_equal(mine[name].numpy(), theirs[name].numpy()) for name in names)


BODY = [
    "dense/kernel", "dense/bias", "batch_normalization/gamma", "batch_normalization/beta",
    "batch_normalization/moving_mean", "batch_normalization/moving_variance", "dense_1/kernel", "dense_1/bias",
]  # fmt: skip
HEAD = ["head/kernel", "head/bias"]


@pytest.mark.parametrize("kind", ["model", "weights.h5", "keras", "h5", "npz", "arrays"])
def test_every_source_gives_the_same(kind: str, tmp_path: Path) -> None:
    source, student = network(9, seed=1), network()
    source.get_layer(index=1).moving_mean.assign(np.arange(8.0))
    given: Any = source
    if kind == "arrays":
        given = {name: one.numpy() for name, one in named_weights(source).items()}
    elif kind != "model":
        given = tmp_path / f"pretrained.{kind}"
        if kind == "npz":
            np.savez(given, **{name: one.numpy() for name, one in named_weights(source).items()})
        else:
            (source.save_weights if kind == "weights.h5" else source.save)(str(given))
    report = transfer_weights(student, given)
    assert report.transferred == tuple(BODY) and report.skipped == tuple(HEAD)
    assert equal(student, source, BODY)
    assert json.loads(report.to_json())["counts"]["transferred"] == 8


def test_names_that_keras_made_up_count_anew_in_each_model() -> None:
    for _ in range(2):
        assert list(named_weights(network())) == [*BODY, *HEAD]


def test_a_subclassed_models_file_finds_its_layers(tmp_path: Path) -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = [keras.layers.Dense(3), keras.layers.Dense(3, use_bias=False)]
            self.norm = keras.layers.LayerNormalization()
            self.attention = keras.layers.MultiHeadAttention(2, 2)

        def call(self, x: Any) -> Any:
            for block in self.blocks:
                x = block(x)
            return self.norm(self.attention(x[:, None], x[:, None])[:, 0])

    source, student = Net(), Net()
    source(np.zeros((2, 4))), student(np.zeros((2, 4)))
    source.save_weights(tmp_path / "net.weights.h5")
    report = transfer_weights(student, tmp_path / "net.weights.h5")
    assert len(report.transferred) == len(student.weights) and "blocks/1/kernel" in report.transferred
    assert all(np.array_equal(*pair) for pair in zip(student.get_weights(), source.get_weights(), strict=True))
    assert not any("save_own_variables" in vars(layer) for layer in student._flatten_layers())


def test_rename_slice_and_classes() -> None:
    source, student = network(9, seed=1, head="classes"), network(4)
    given = {"rename": {"^classes/": "head/"}, "class_map": {"head": [8, 0, None, 2]}}
    before = student.get_layer("head").kernel.numpy()
    report = transfer_weights(student, source, **given)
    assert report.resized == tuple(HEAD)
    theirs, mine = source.get_layer("classes").kernel.numpy(), student.get_layer("head").kernel.numpy()
    assert np.array_equal(mine[:, [0, 1, 3]], theirs[:, [8, 0, 2]]) and np.array_equal(mine[:, 2], before[:, 2])
    convolutions = [
        keras.Sequential([keras.Input((8, 8, channels)), keras.layers.Conv2D(2, 3, name="first")])
        for channels in (3, 6)
    ]
    transfer_weights(convolutions[1], convolutions[0], on_mismatch="repeat")
    kernels = [model.get_layer("first").kernel.numpy() for model in convolutions]
    np.testing.assert_allclose(kernels[1].sum(2), kernels[0].sum(2), rtol=1e-5, atol=1e-6)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"^nothing of the mapping of arrays fits Sequential: "):
        transfer_weights(network(), {"other": np.zeros(3)})
    with pytest.raises(ModelError, match=r"^'dense/kernel' is no array but object$"):
        transfer_weights(network(), {"dense/kernel": object()})
    with pytest.raises(ModelError, match=r"a mapping of arrays, and not from int$"):
        transfer_weights(network(), 3)
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"no zip")
    with pytest.raises(DataError) as told:
        transfer_weights(network(), broken)
    assert str(told.value) == f"{broken} holds no plain weights: it is damaged or of another kind"
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, **{"dense/kernel": np.array([print], dtype=object)})
    with pytest.raises(DataError):
        transfer_weights(network(), pickled)
    with pytest.raises(DataError, match=r"files of .weights.h5, .keras, .h5, .safetensors or .npz"):
        transfer_weights(network(), tmp_path / "model.pt")
    with pytest.raises(ConfigError) as refused:
        Distillation({"finetune": {"lr_factors": {"head": 2.0}}}, student_model=network()).on_train_begin()
    assert str(refused.value).splitlines()[0] == (
        "<dict>: finetune.lr_factors: an optimizer of Keras has one learning rate for all weights, and the models are "
        "Keras models"
    )


def run(finetune: dict[str, Any], student: Any, **options: Any) -> Any:
    from kdhooks_tf import DistillationCallback

    distiller = Distillation({"finetune": finetune})
    distiller.pretrained_model = options.pop("pretrained", None)
    return distiller, fit(student, DistillationCallback(distiller), **options)


def test_frozen_layers_keep_every_bit_and_are_free_afterwards() -> None:
    source, student = network(9, seed=1), compiled(network())
    distiller, history = run({"freeze": ["dense", "batch_normalization"]}, student, pretrained=source)
    assert distiller.transfer_report.transferred == tuple(BODY)
    assert equal(student, source, BODY[:6]) and not equal(student, source, BODY[6:])
    assert set(history) == {"loss", "distillation/CE"}
    assert len(student.trainable_variables) == 8 and all(layer.trainable for layer in student.layers)


def test_a_batch_norm_that_is_not_frozen_moves() -> None:
    source, student = network(seed=1), compiled(network())
    run({"freeze": ["batch_normalization"], "freeze_batch_norm": False}, student, pretrained=source)
    assert equal(student, source, BODY[2:4]) and not equal(student, source, BODY[4:6])


def test_layers_are_set_free_in_their_epoch() -> None:
    source, student = network(seed=1), compiled(network())
    seen = []
    looking = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(equal(student, source, BODY)))
    from kdhooks_tf import DistillationCallback

    conf = {"finetune": {"freeze": ["dense*", "batch_normalization"], "unfreeze": {1: ["dense_1"]}}}
    distiller = Distillation(conf)
    distiller.pretrained_model = source
    fit(student, looking, DistillationCallback(distiller), epochs=2)
    assert seen == [True, False] and equal(student, source, BODY[:6])


def test_a_function_that_was_traced_for_other_layers_refuses() -> None:
    student, x = network(), tf.constant(data(8)[0])
    conf = {"finetune": {"freeze": ["dense"], "unfreeze": {1: ["dense"]}}}

    @tf.function
    def step() -> Any:
        output = student(x, training=True)
        return distiller.on_after_compute_loss(x, output, tf.reduce_mean(output))

    with Distillation(conf, student_model=student) as distiller:
        step()
        distiller.on_epoch_end()
        with pytest.raises(UsageError) as told:
            step()
    assert str(told.value) == (
        "this tf.function was traced while other layers were frozen than in epoch 1: make it anew, with "
        "tf.function(...), in each epoch that finetune.unfreeze names"
    )


def test_l2_sp_is_half_the_squared_distances() -> None:
    source, student = network(9, seed=1), network()
    distiller = Distillation({"finetune": {"l2_sp": {"weight": 0.5, "new_weight": 0.25}}}, student_model=student)
    distiller.pretrained_model = source
    with distiller, tf.GradientTape() as tape:
        student.layers[0].kernel.assign_add(tf.ones([6, 8]))
        output = student(tf.zeros([2, 6]), training=True)
        total = distiller.on_after_compute_loss(tf.zeros([2, 6]), output, tf.constant(0.0))
        losses = distiller.losses
    assert losses["L2-SP"] == pytest.approx(24.0, rel=1e-6)
    head = student.get_layer("head")
    assert losses["L2-SP.new"] == pytest.approx(float(np.square(head.kernel.numpy()).sum()) / 2, rel=1e-5)
    moved = tape.gradient(total, [student.layers[0].kernel.value, head.kernel.value])
    np.testing.assert_allclose(moved[0], 0.5 * np.ones([6, 8]), rtol=1e-5)
    np.testing.assert_allclose(moved[1], 0.25 * head.kernel.numpy(), rtol=1e-5)


def test_basic_finetunner_freezes_what_it_transferred() -> None:
    source, student = network(9, seed=1), network()
    finetunner = BasicFinetunner(source, is_frozen=True)
    assert finetunner.finetune_network(student) is student
    assert len(student.trainable_variables) == 2
    finetunner.release()
    assert len(student.trainable_variables) == 8


def test_a_resumed_run_keeps_the_starting_point_of_what_was_transferred() -> None:
    """The run that goes on transfers nothing, so only the state says which weights came from the source."""

    def begun(state: Any = None) -> Distillation:
        distiller = Distillation({"finetune": {"l2_sp": {"weight": 0.5}}}, student_model=network())
        distiller.pretrained_model = network(9, seed=1)
        if state is not None:
            distiller.load_state_dict(state)
        distiller.on_train_begin()
        return distiller

    def saved(distiller: Distillation) -> Any:
        (point,) = (one for one in distiller._run.objective.criteria if isinstance(one, L2SP))  # type: ignore[union-attr]
        return point.state_dict()

    first = begun()
    then, goes_on = saved(first), begun(first.state_dict())
    now = saved(goes_on)
    assert now["transferred"] == then["transferred"] == sorted(BODY)
    assert all(np.array_equal(now["start"][name], one) for name, one in then["start"].items())
    assert sorted(now["start"]) == sorted(name for name in BODY if "moving" not in name)
    for one in (first, goes_on):
        one.on_train_end()
