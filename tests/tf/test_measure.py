"""What a model costs in TensorFlow: numbers that are known, and a model that is afterwards as it was."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kdhooks.config import DistillationConf
from kdhooks.config.model import DataloaderSettings, Named
from kdhooks.config.search_settings import MEASURED
from kdhooks.errors import ModelError, UsageError
from kdhooks.measurement import Measured
from kdhooks.search import measure
from kdhooks.search.measured import inputs_for
from kdhooks_tf import generators
from kdhooks_tf.backend import BACKEND
from kdhooks_tf.weights import write_weights

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def sequence(*parts: Any, shape: tuple[int | None, ...]) -> Any:
    return keras.Sequential([keras.Input(shape), *parts])


def value(model: Any, inputs: Any, metric: str, **options: Any) -> float:
    return measure(model, inputs, [metric], **options)[metric].value


def test_all_metrics_of_a_small_model(tmp_path: Path) -> None:
    model = sequence(layers.Dense(50, activation="relu"), layers.Dense(3), shape=(20,))
    costs = measure(model, np.zeros((2, 20), np.float32), batch_size=8)
    assert list(costs) == list(MEASURED)
    assert costs["parameters"] == Measured.exact(20 * 50 + 50 + 50 * 3 + 3)
    assert costs["macs"] == Measured.exact(20 * 50 + 50 * 3)
    write_weights(model, tmp_path / "model.weights.h5")
    assert costs["file_size"] == Measured.exact((tmp_path / "model.weights.h5").stat().st_size)
    assert 0 < costs["latency"].low <= costs["latency"].value <= costs["latency"].high < 1
    assert costs["throughput"] == costs["latency"].rate(8)


def test_what_is_learned_counts_once_and_statistics_do_not() -> None:
    shared = layers.Dense(4)
    model = sequence(shared, layers.BatchNormalization(), shared, layers.Dropout(0.5), shape=(4,))
    model.layers[1].trainable = False
    assert value(model, None, "parameters") == 20 + 8


# ---- multiply-accumulates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (lambda: layers.Dense(3), (20,), 60),
        (lambda: layers.Dense(3), (5, 20), 300),
        (lambda: layers.Conv1D(4, 3), (10, 2), 4 * 2 * 3 * 8),
        (lambda: layers.Conv2D(8, 3, strides=2, padding="same"), (8, 8, 3), 8 * 3 * 9 * 16),
        (lambda: layers.Conv2D(8, 3, groups=2, dilation_rate=2), (8, 8, 4), 8 * 2 * 9 * 16),
        (lambda: layers.DepthwiseConv2D(5, depth_multiplier=2), (8, 8, 6), 12 * 25 * 16),
        (lambda: layers.SeparableConv2D(8, 3), (6, 6, 4), 16 * (4 * 9 + 4 * 8)),
        (lambda: layers.Conv3D(3, 2), (4, 4, 4, 2), 3 * 2 * 8 * 27),
        (lambda: layers.Conv2DTranspose(6, 3, strides=2), (5, 5, 4), 4 * 6 * 9 * 25),
        (lambda: layers.EinsumDense("abc,cd->abd", output_shape=(None, 5)), (3, 4), 60),
        (lambda: layers.EinsumDense("...c,cd->...d", output_shape=5), (3, 4), 60),
        (lambda: layers.LSTM(16), (5, 8), 5 * 4 * 16 * (8 + 16)),
        (lambda: layers.LSTM(16, unroll=True, return_sequences=True), (5, 8), 5 * 4 * 16 * (8 + 16)),
        (lambda: layers.GRU(16), (5, 8), 5 * 3 * 16 * (8 + 16)),
        (lambda: layers.Bidirectional(layers.SimpleRNN(16)), (5, 8), 2 * 5 * 16 * (8 + 16)),
        (lambda: keras.Sequential([layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]), (8, 8, 3), 0),
    ],
)
def test_layers(make: Any, shape: tuple[int, ...], expected: int) -> None:
    assert value(sequence(make(), shape=shape), np.zeros((4, *shape), np.float32), "macs") == expected


def test_attention() -> None:
    given = keras.Input((7, 32))
    model = keras.Model(given, layers.MultiHeadAttention(4, 8)(given, given))
    assert value(model, np.zeros((1, 7, 32), np.float32), "macs") == 7 * 4 * 32**2 + 2 * 7**2 * 32


def test_sizes_that_the_model_leaves_open_are_those_of_the_inputs() -> None:
    model = sequence(layers.Conv1D(4, 3), layers.LSTM(6), shape=(None, 2))
    for length in (5, 9):
        expected = (length - 2) * (4 * 2 * 3 + 4 * 6 * (4 + 6))
        assert value(model, np.zeros((1, length, 2), np.float32), "macs") == expected


def test_turns_of_a_loop_that_xla_compiles_can_not_be_counted() -> None:
    class Turns(keras.Model):
        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(shape=(4, 4))

        def call(self, x: Any) -> Any:
            loop = tf.function(
                lambda x, kernel: tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x @ kernel), (0, x))[1],
                jit_compile=True,
            )
            return loop(x, tf.convert_to_tensor(self.kernel))

    with pytest.raises(ModelError, match=r"^macs of Turns can't be measured.* XLA compiles \w+, whose turns can't be "):
        measure(Turns(), np.zeros((1, 4), np.float32), ["macs"])


def test_the_branch_that_is_taken_counts_and_every_turn_of_a_loop() -> None:
    class Turns(keras.Model):
        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(shape=(4, 4))

        def call(self, x: Any) -> Any:
            once = tf.cond(tf.reduce_sum(x) > 0, lambda: x @ self.kernel, lambda: x)
            return tf.while_loop(
                lambda turn, state: turn < tf.cast(tf.reduce_max(x), tf.int32),
                lambda turn, state: (turn + 1, state @ self.kernel),
                (0, once),
            )[1]

    model = Turns()
    assert value(model, np.full((1, 4), 3, np.float32), "macs") == 4 * 16
    assert value(model, np.zeros((1, 4), np.float32), "macs") == 0


def test_a_convolutional_network_against_tensorflows_own_count() -> None:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    model = sequence(
        layers.Conv2D(8, 3, activation="relu"),
        layers.DepthwiseConv2D(3),
        layers.Conv2D(16, 1),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
        shape=(16, 16, 3),
    )
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(tf.TensorSpec((1, 16, 16, 3)))
    graph = convert_variables_to_constants_v2(function).graph
    statistics = [
        _flops(graph, operation)
        for operation in graph.get_operations()
        if operation.type in ("Conv2D", "DepthwiseConv2dNative", "MatMul")
    ]
    assert len(statistics) == 4
    assert 2 * value(model, np.zeros((1, 16, 16, 3), np.float32), "macs") == sum(statistics)


def _flops(graph: Any, operation: Any) -> int:
    from tensorflow.python.framework.ops import get_stats_for_node_def

    return int(get_stats_for_node_def(graph, operation.node_def, "flops").value)


# ---- memory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [64, 256])
def test_peak_memory_is_what_layers_hold_at_once(rows: int) -> None:
    model = sequence(layers.Dense(1000), layers.Dense(500), layers.Dense(2000), shape=(10,))
    peak = value(model, np.zeros((1, 10), np.float32), "peak_memory", batch_size=rows)
    assert peak == pytest.approx(4 * rows * (500 + 2000), rel=0.02)


# ---- inputs --------------------------------------------------------------------------------------------


def test_a_mapping_and_a_pair_reach_the_model_in_its_form() -> None:
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    model = keras.Model({"a": a, "b": b}, layers.Dense(1)(layers.Concatenate()([a, b])))
    inputs = {"a": np.zeros((1, 2), np.float32), "b": np.zeros((1, 3), np.float32)}
    assert value(model, inputs, "macs", batch_size=3) == 5
    both = keras.Model([a, b], layers.Dense(1)(layers.Concatenate()([a, b])))
    assert value(both, list(inputs.values()), "macs") == 5


@pytest.mark.parametrize("form", ["dataset", "weighted", "sequence", "described"])
def test_the_first_batch_of_a_loader_is_taken_as_fit_takes_it(form: str) -> None:
    x, y = np.ones((6, 3), np.float32), np.zeros(6, np.int32)

    class Data(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, number: int) -> Any:
            return x[:2], y[:2]

    loader = {
        "dataset": lambda: tf.data.Dataset.from_tensor_slices((x, y)).batch(2),
        "weighted": lambda: tf.data.Dataset.from_tensor_slices((x, y, y)).batch(2),
        "sequence": Data,
        "described": lambda: DataloaderSettings(batch_size=2, dataset=Named("dummy", {"size": 6})),
    }[form]()
    assert len(inputs_for(BACKEND, DistillationConf(), None, loader)) == 2
    assert inputs_for(BACKEND, DistillationConf(), None, []) is None
    with pytest.raises(UsageError, match=r"^a batch of this iterator would be lost: "):
        inputs_for(BACKEND, DistillationConf(), None, iter([(x, y)]))


# ---- afterwards ----------------------------------------------------------------------------------------


class Restless(keras.Model):
    """Draws numbers and counts in a variable, whatever `training` is."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dense = layers.BatchNormalization(), layers.Dense(2, activity_regularizer="l2")
        self.seeds = keras.random.SeedGenerator(3)

    def build(self, shape: Any) -> None:
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.norm.build(shape)
        self.dense.build(shape)

    def call(self, x: Any, training: bool = False) -> Any:
        self.count.assign_add(1.0)
        return self.dense(self.norm(x, training=training)) + keras.random.normal((2,), seed=self.seeds)


def state_of(model: Any) -> Any:
    return (
        [np.array(one.numpy()).tolist() for one in model.variables],
        [one.trainable for one in model.variables],
        [float(one) for one in model.losses],
        random.getstate(),
        {name: np.asarray(one, object).tolist() for name, one in generators.state().items() if name != "python"}.keys(),
        np.random.get_state()[1].tolist(),
        len(model.layers),
        model.train_function is None,
    )


def test_model_and_generators_are_as_they_were() -> None:
    model = Restless()
    model(np.ones((4, 3), np.float32), training=True)
    before = state_of(model)
    measure(model, np.ones((4, 3), np.float32), ["latency", "throughput", "parameters", "file_size"], batch_size=4)
    assert state_of(model) == before


def test_a_model_that_is_not_built_is_built_by_its_inputs() -> None:
    model = keras.Sequential([layers.Dense(3)])
    with pytest.raises(ModelError) as caught:
        measure(model, None, ["parameters"])
    assert str(caught.value) == "Sequential is not built yet: call it on a batch first, or set example_inputs"
    assert value(model, np.zeros((1, 4), np.float32), "parameters") == 15


def test_a_model_that_fails_on_its_inputs() -> None:
    model = sequence(layers.Dense(3), shape=(4,))
    before = state_of(model)
    with pytest.raises(
        ModelError, match=r"^Sequential can't be measured: it failed on an input \[2, 5\]: ValueError: "
    ):
        measure(model, np.zeros((2, 5), np.float32), batch_size=2)
    assert state_of(model) == before


def test_what_can_not_become_a_graph_is_said() -> None:
    class Eager(keras.Model):
        def call(self, x: Any) -> Any:
            return tf.numpy_function(lambda x: x, [x], tf.float32) if tf.inside_function() else x

    class Never(keras.Model):
        def call(self, x: Any) -> Any:
            return x * float(tf.reduce_sum(x))  # no number in a graph

    assert value(Eager(), np.zeros((1, 2), np.float32), "macs") == 0
    with pytest.raises(ModelError, match=r"^macs of Never can't be measured, since its graph with fixed weights "):
        measure(Never(), np.zeros((1, 2), np.float32), ["macs"])
    with pytest.raises(ModelError, match=r"^Never can't be measured: it failed on an input \[1, 2\]: TypeError: "):
        measure(Never(), np.zeros((1, 2), np.float32), ["latency"])


def test_threads_can_only_be_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "2")
    model = sequence(layers.Dense(1), shape=(2,))
    measure(model, None, ["parameters"], threads=2)
    with pytest.raises(UsageError) as caught:
        measure(model, None, ["parameters"], threads=4)
    advice = (
        "which can't be changed any more: call tf.config.threading.set_intra_op_parallelism_threads(4) when the "
        "program begins"
    )
    assert str(caught.value) == f"measure.threads is 4, and TensorFlow works with 2, {advice}"
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    with pytest.raises(UsageError) as caught:
        measure(model, None, ["parameters"], threads=4)
    words = "as many as there are processors"
    assert str(caught.value) == f"measure.threads is 4, and TensorFlow works with {words}, {advice}"


def test_twice_the_depth_takes_twice_as_long() -> None:
    def deep(count: int) -> Any:
        return sequence(*(layers.Dense(1024) for _ in range(count)), shape=(1024,))

    x = np.zeros((64, 1024), np.float32)
    found = [[value(deep(count), x, "latency", batch_size=64, repeats=10) for count in (4, 8)] for _ in range(3)]
    short, long = (min(times) for times in zip(*found, strict=True))  # other work on the machine only adds to a time
    assert 1.4 < long / short < 2.8
    assert value(deep(8), x, "macs") == 2 * value(deep(4), x, "macs")
