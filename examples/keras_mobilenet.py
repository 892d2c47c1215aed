"""A MobileNetV2 student under a ResNet50V2 teacher, both of `keras.applications`, by ``model.fit``.

    python examples/keras_mobilenet.py --imagenet                   # pretrained weights, which Keras downloads once
    python examples/keras_mobilenet.py --imagenet --images FOLDER   # your own images, a folder for each class
    python examples/keras_mobilenet.py                              # random weights, no network
    python examples/keras_mobilenet.py --quick                      # a few images, to see that it runs

First the teacher is tuned to the images, then the student learns from the labels, the teacher's logits and its last
feature map. Without a folder the images are 2,000 of FashionMNIST, enlarged. On a CPU this takes some minutes.
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.datasets import build_dataset
from kdhooks_tf import DistillationCallback

SIDE = 96
CONF = {
    "distillation": {
        "train": {
            "criterion": {
                "KnowledgeDistillationLoss": {
                    "temperature": 4.0,
                    "loss_types": ["CE", "KL"],
                    "loss_weights": [0.5, 0.5],
                },
                "IntermediateLayersKnowledgeDistillationLoss": {
                    "layer_mappings": [["out_relu", "post_relu"]],  # [N, 3, 3, 1280] and [N, 3, 3, 2048]
                    "loss_types": "MSE",
                    "loss_weights": 0.1,
                },
            }
        }
    }
}


def fashion(images: int, train: bool) -> tf.data.Dataset:
    """Enlarged images [N, 96, 96, 3] from -1 to 1, as both networks of `keras.applications` take them, and labels."""
    data = build_dataset("FashionMNIST", {"train": train, "limit": images})

    def enlarged(pixels: Any, label: Any) -> Any:
        image = tf.image.resize(tf.reshape(tf.cast(pixels, tf.float32), [28, 28, 1]), [SIDE, SIDE])
        return tf.repeat(image / 127.5 - 1, 3, axis=-1), label

    return tf.data.Dataset.from_tensor_slices((data.inputs, data.targets)).map(enlarged)


def folder(path: str, subset: str) -> tuple[tf.data.Dataset, int]:
    """Nine tenths of a folder's images, or the tenth that is left, and the number of classes."""
    data = keras.utils.image_dataset_from_directory(
        path, image_size=(SIDE, SIDE), validation_split=0.1, subset=subset, seed=0, batch_size=None
    )
    return data.map(lambda image, label: (image / 127.5 - 1, label)), len(data.class_names)


def network(backbone: Any, classes: int, imagenet: bool, eager: bool, **options: Any) -> Any:
    """A network of `keras.applications` with a new head, whose outputs are logits."""
    options |= {"include_top": False, "pooling": "avg", "input_shape": (SIDE, SIDE, 3)}
    try:
        made = backbone(weights="imagenet" if imagenet else None, **options)
    except Exception as error:  # Keras raises whatever the download did
        print(f"!! no pretrained weights for {backbone.__name__} ({error})")
        imagenet, made = False, backbone(weights=None, **options)
    if not imagenet:
        print(f"!! {backbone.__name__} begins with RANDOM weights: its accuracy says nothing of the pretrained network")
    model = keras.Model(made.input, keras.layers.Dense(classes)(made.output))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-4), loss, metrics=["accuracy"], run_eagerly=eager)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="a MobileNet under a larger teacher of keras.applications")
    parser.add_argument("--imagenet", action="store_true", help="pretrained weights, which Keras downloads")
    parser.add_argument("--images", help="a folder with a folder for each class")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    if options.images:
        (train, classes), (test, _) = (folder(options.images, subset) for subset in ("training", "validation"))
    else:
        images = 16 if options.quick else 2000
        train, test, classes = fashion(images, True), fashion(images // 2, False), 10
    train, test = train.cache().shuffle(2000).batch(8 if options.quick else 32), test.batch(32)
    epochs = 1 if options.quick else 3

    eager = options.quick  # two steps take less time than tracing one
    teacher = network(keras.applications.ResNet50V2, classes, options.imagenet, eager)
    student = network(keras.applications.MobileNetV2, classes, options.imagenet, eager, alpha=0.35)
    if not options.quick:
        teacher.fit(train, epochs=epochs, verbose=2)

    callback = DistillationCallback(Distillation(CONF, teacher_model=teacher))
    student.fit(train, epochs=epochs, verbose=2, callbacks=[callback])

    print(f"\n{'model':<12}{'parameters':>12}{'accuracy':>10}")
    for name, model in (("teacher", teacher), ("student", student)):
        accuracy = model.evaluate(test, verbose=0, return_dict=True)["accuracy"]
        print(f"{name:<12}{model.count_params():>12,}{100 * accuracy:>9.1f}%")


if __name__ == "__main__":
    main()
