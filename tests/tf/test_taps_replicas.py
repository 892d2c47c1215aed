"""Each replica of a strategy captures its own values, also where replicas take turns within a forward."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import keras, numpy as np, tensorflow as tf
from keras import layers

from kdhooks_tf.taps import Taps
from kdhooks_tf.teacher_taps import TeacherTaps

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    shared = layers.BatchNormalization(synchronized=True, name="norm")  # waits for the other replica
    student = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="first"), shared, layers.Dense(2, name="head")])
    teacher = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="first"), layers.Dense(2, name="head")])
taps, wanted = Taps(student), ("first", False)
taps.attach([wanted, ("norm", True), ("", False)])
other = TeacherTaps(teacher)
other.attach([wanted])

def replica(x):
    for _ in range(2):
        with tf.GradientTape():
            output = student(x, training=True)
        other.run(frozenset([wanted]), x, training=False)
        first, given, root = (slot.read() for slot in taps.slots.values())
        assert len(first) == len(given) == len(root) == len(other.slots[wanted].read()) == 1
        found = [
            first[0] - tf.matmul(x, student.get_layer("first").kernel), first[0] - given[0], root[0] - output,
            other.slots[wanted].read()[0] - tf.matmul(x, teacher.get_layer("first").kernel),
        ]
        taps.release()
        other.release()
    return tf.reduce_max([tf.reduce_max(tf.abs(one)) for one in found]), tf.shape(root[0])[0]

data = tf.data.Dataset.from_tensor_slices(np.random.rand(6, 3).astype("float32")).batch(6)
for batch in strategy.experimental_distribute_dataset(data):
    for step in (tf.function(lambda x: strategy.run(replica, args=(x,))), lambda x: strategy.run(replica, args=(x,))):
        worst, rows = step(batch)
        assert max(float(one) for one in worst.values) < 1e-6, worst
        assert [int(one) for one in rows.values] == [3, 3]
print("fine")
"""


def test_values_of_replicas_do_not_mix() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr[-2000:]
