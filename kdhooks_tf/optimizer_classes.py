"""Optimizers with the mathematics, the options and the defaults that ``torch.optim`` has under the same names.

Rules: the same YAML means the same steps in both frameworks, so the velocity of `SGD` holds no learning rate, the
``weight_decay`` of all but `AdamW` is added to the gradient, and ``eps`` stands outside of the corrected root. They are
ordinary Keras optimizers otherwise: ``learning_rate`` can be assigned, ``get_config`` makes another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

Tensor = Any


class _Optimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """What all have: options by name, checked, and slots of the variables."""

    def __init__(self, learning_rate: Any, weight_decay: float, name: str, **options: Any) -> None:
        super().__init__(learning_rate, name=name)
        for option, value in options.items():
            setattr(self, option, value)
        self.decay = float(_at_least("weight_decay", weight_decay))
        self._options = options

    def get_config(self) -> dict[str, Any]:
        """What makes another optimizer of this kind."""
        base = super().get_config()
        kept = {key: base[key] for key in ("name", "learning_rate")}
        return {**kept, "weight_decay": self.decay, **self._options}

    def _add(self, variables: Any, *names: str) -> None:
        self._slots: dict[str, Any] = {name: self.add_optimizer_variables(variables, name) for name in names}

    def _slot(self, name: str, variable: Any) -> Any:
        return self._slots[name][self._get_variable_index(variable)]

    def _gradient(self, gradient: Any, variable: Any) -> Tensor:
        """The gradient, dense, with the decay of the weights added."""
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)
        return gradient + self.decay * variable if self.decay else gradient


@keras.saving.register_keras_serializable("kdhooks")
class SGD(_Optimizer):
    """Stochastic gradient descent: ``v = momentum v + (1 - dampening) g``, ``w = w - learning_rate v``.

    The first velocity is the first gradient; with ``nesterov`` the step is ``g + momentum v``.

    Args:
        learning_rate: a number, or a schedule of Keras.
        momentum: of the velocity.
        dampening: what the velocity does not take of a gradient.
        weight_decay: this times the weight is added to its gradient.
        nesterov: look ahead (Sutskever et al. 2013); with momentum and without dampening only.
        name: of the optimizer.

    Raises:
        ValueError: an option that makes no sense.

    Example:
        >>> weight = keras.Variable([1.0])
        >>> SGD(0.1, momentum=0.9).apply([tf.constant([2.0])], [weight])
        >>> round(float(weight[0]), 4)
        0.8
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        name: str = "SGD",
    ) -> None:
        _at_least("momentum", momentum)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(
            learning_rate, weight_decay, name, momentum=momentum, dampening=dampening, nesterov=bool(nesterov)
        )

    def build(self, variables: Any) -> None:
        """Make the velocities."""
        if not self.built:
            super().build(variables)
            self._add(variables, *(["velocity"] if self.momentum else []))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable."""
        gradient = self._gradient(gradient, variable)
        if self.momentum:
            velocity = self._slot("velocity", variable)
            taken = 1 - self.dampening
            if self.dampening:  # the first velocity is the whole gradient
                taken = tf.where(self.iterations.value == 0, 1.0, taken)
            velocity.assign(self.momentum * velocity + tf.cast(taken, variable.dtype) * gradient)
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
        variable.assign_sub(tf.cast(learning_rate, variable.dtype) * gradient)


@keras.saving.register_keras_serializable("kdhooks")
class Adam(_Optimizer):
    """Adam (Kingma and Ba 2015): ``w = w - learning_rate m' / (sqrt(v') + eps)`` with corrected moments m' and v'.

    Args:
        learning_rate: a number, or a schedule of Keras.
        betas: of the two moments.
        eps: outside of the root.
        weight_decay: this times the weight is added to its gradient.
        amsgrad: divide by the largest second moment so far (Reddi et al. 2018).
        name: of the optimizer.

    Raises:
        ValueError: an option that makes no sense.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        name: str = "Adam",
    ) -> None:
        if not isinstance(betas, (list, tuple)) or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, not {betas!r}")
        super().__init__(
            learning_rate, weight_decay, name, betas=tuple(betas), eps=_at_least("eps", eps), amsgrad=bool(amsgrad)
        )

    def build(self, variables: Any) -> None:
        """Make the moments."""
        if not self.built:
            super().build(variables)
            self._add(variables, "mean", "square", *(["largest"] if self.amsgrad else []))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable."""
        gradient, rate = self._gradient(gradient, variable), tf.cast(learning_rate, variable.dtype)
        steps = tf.cast(self.iterations.value + 1, variable.dtype)
        one, two = (tf.cast(beta, variable.dtype) for beta in self.betas)
        mean, square = self._slot("mean", variable), self._slot("square", variable)
        mean.assign(mean + (1 - one) * (gradient - mean))
        square.assign(two * square + (1 - two) * tf.square(gradient))
        second = square
        if self.amsgrad:
            second = self._slot("largest", variable)
            second.assign(tf.maximum(tf.convert_to_tensor(second), tf.convert_to_tensor(square)))
        below = tf.sqrt(tf.convert_to_tensor(second)) / tf.sqrt(1 - two**steps) + self.eps
        variable.assign_sub(rate / (1 - one**steps) * (mean / below))


@keras.saving.register_keras_serializable("kdhooks")
class AdamW(Adam):
    """Adam with a decay of the weights apart from the gradient (Loshchilov and Hutter 2019).

    Args:
        learning_rate: a number, or a schedule of Keras.
        betas: of the two moments.
        eps: outside of the root.
        weight_decay: the weight is first multiplied by ``1 - learning_rate * weight_decay``.
        amsgrad: divide by the largest second moment so far.
        name: of the optimizer.

    Raises:
        ValueError: an option that makes no sense.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        name: str = "AdamW",
    ) -> None:
        super().__init__(learning_rate, betas, eps, weight_decay, amsgrad, name)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable."""
        variable.assign(variable * (1 - tf.cast(learning_rate, variable.dtype) * self.decay))
        super().update_step(gradient, variable, learning_rate)

    def _gradient(self, gradient: Any, variable: Any) -> Tensor:
        return tf.cast(tf.convert_to_tensor(gradient), variable.dtype)


@keras.saving.register_keras_serializable("kdhooks")
class RMSprop(_Optimizer):
    """RMSprop (Hinton 2012): ``w = w - learning_rate g / (sqrt(v) + eps)``.

    Args:
        learning_rate: a number, or a schedule of Keras.
        alpha: of the mean of squares v.
        eps: outside of the root.
        weight_decay: this times the weight is added to its gradient.
        momentum: of a velocity of the steps.
        centered: take the squared mean of the gradient from v (Graves 2013).
        name: of the optimizer.

    Raises:
        ValueError: an option that makes no sense.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        name: str = "RMSprop",
    ) -> None:
        options = {"alpha": _at_least("alpha", alpha), "eps": _at_least("eps", eps), "centered": bool(centered)}
        super().__init__(learning_rate, weight_decay, name, momentum=_at_least("momentum", momentum), **options)

    def build(self, variables: Any) -> None:
        """Make the means."""
        if not self.built:
            super().build(variables)
            more = [*(["velocity"] if self.momentum else []), *(["mean"] if self.centered else [])]
            self._add(variables, "square", *more)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable."""
        gradient, square = self._gradient(gradient, variable), self._slot("square", variable)
        square.assign(self.alpha * square + (1 - self.alpha) * tf.square(gradient))
        variance = tf.convert_to_tensor(square)
        if self.centered:
            mean = self._slot("mean", variable)
            mean.assign(mean + (1 - self.alpha) * (gradient - mean))
            variance = variance - tf.square(tf.convert_to_tensor(mean))
        step = gradient / (tf.sqrt(variance) + self.eps)
        if self.momentum:
            velocity = self._slot("velocity", variable)
            velocity.assign(self.momentum * velocity + step)
            step = tf.convert_to_tensor(velocity)
        variable.assign_sub(tf.cast(learning_rate, variable.dtype) * step)


def _at_least(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
    return value
