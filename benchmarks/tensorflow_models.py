"""The Keras models of the TensorFlow benchmarks, channels last; weights are drawn from a seed.

The residual networks are those of He et al. 2016, section 4.2: three stages of n blocks with 16, 32 and 64 channels,
6n + 2 layers; where a block changes the shape its shortcut is a 1x1 convolution (option B).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def _block(x: Any, width: int, stride: int, name: str) -> Any:
    shortcut = x
    if stride != 1 or x.shape[-1] != width:
        shortcut = layers.Conv2D(width, 1, stride, use_bias=False)(x)
    x = layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
    return layers.ReLU(name=name)(layers.BatchNormalization()(x) + shortcut)


def resnet(depth: int, seed: int, *, size: int = 32, classes: int = 100, width: int = 16) -> Any:
    """A residual network of `depth` layers; [N, size, size, 3] to [N, classes]. Stages end in `stage1` to `stage3`."""
    keras.utils.set_random_seed(seed)
    blocks = (depth - 2) // 6
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(width, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for stage in range(1, 4):
        for block in range(blocks):
            name = f"stage{stage}" if block == blocks - 1 else f"stage{stage}_{block}"
            x = _block(x, width * 2 ** (stage - 1), 2 if stage > 1 and block == 0 else 1, name)
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def mlp(hidden: int, seed: int) -> Any:
    """Two layers, 64 to 10; the hidden one is called `hidden`."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((64,))
    x = layers.Dense(hidden, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(10)(x))


def copied(model: Any) -> Any:
    """A model of its own with the same weights."""
    made = keras.models.clone_model(model)
    made.set_weights(model.get_weights())
    return made
