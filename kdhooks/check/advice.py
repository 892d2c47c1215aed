"""Advice in the words of the framework at hand: what a user would type."""

from __future__ import annotations

_PYTORCH = {
    "probabilities": "return the layer before the softmax, or the logarithm of the probabilities",
    "unfreeze": "parameter.requires_grad_(True) for those that shall learn",
    "mode": "student.train() before a loop of your own; fit() does it by itself",
    "statistics": "load the buffers (running_mean, running_var) together with the weights",
    "copy": "copy.deepcopy(student) makes a separate teacher",
    "optimizer of another model": "make it from student.parameters(), after any copy or conversion of the student",
    "optimizer that lacks some": "add them to a parameter group, or set requires_grad_(False)",
}

_TENSORFLOW = {
    "probabilities": "return the layer before the softmax, or say so in the criterion: from_logits: false",
    "unfreeze": "layer.trainable = True for those that shall learn",
    "mode": "student(x, training=True) in a loop of your own; fit() does it by itself",
    "statistics": "load all of model.weights, moving_mean and moving_variance among them",
    "copy": "keras.models.clone_model(student) makes a separate teacher, whose weights set_weights() gives it",
    "optimizer of another model": "build it for student.trainable_variables, after any copy of the student",
    "optimizer that lacks some": "build it for all of student.trainable_variables, or set layer.trainable = False",
}


def advice(about: str, framework: str) -> str:
    """What to do about a finding, in a framework's own names."""
    return (_TENSORFLOW if framework == "tensorflow" else _PYTORCH)[about]
