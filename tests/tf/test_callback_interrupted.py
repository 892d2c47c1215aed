"""Fits that end early: whatever ends them, nothing of ours goes on acting in the model."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks_tf import DistillationCallback
from tests.tf.callback_models import compiled, data, distiller, equal, features, fit, nothing_of_ours, student, teacher

# Keras converts its own variables in a way that NumPy 2 complains of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


class Stops(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises on an event, as a user's key or a bug in another callback does."""

    def __init__(self, error: type[BaseException], event: str = "on_train_batch_end", at: int = 1) -> None:
        super().__init__()

        def event_function(number: Any = None, logs: Any = None) -> None:
            number = 0 if event == "on_test_begin" else number
            if number == at:
                raise error

        setattr(self, event, event_function)


def calls(teacher_model: Any) -> float:
    return float(teacher_model.get_layer("counter").calls.numpy().sum())


def plain_afterwards(model: Any, teacher_model: Any) -> None:
    """A later fit without the callback is a plain one."""
    before = calls(teacher_model)
    reference = compiled(student(dropout=0.0))
    reference.set_weights(model.get_weights())
    compiled(model, keras.optimizers.SGD(0.1))
    compiled(reference, keras.optimizers.SGD(0.1))
    assert sorted(fit(model, epochs=1)) == ["loss"]
    fit(reference, epochs=1)
    assert equal(model, reference)
    assert calls(teacher_model) == before
    assert nothing_of_ours(model)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("event", ["on_train_batch_end", "on_epoch_begin", "on_epoch_end", "on_test_begin"])
def test_another_callback_raises(error: type[BaseException], event: str) -> None:
    teacher_model, model = teacher(counter=True), compiled(student(dropout=0.0))
    callback = DistillationCallback(distiller(teacher_model=teacher_model))
    with pytest.raises(error):
        stop = Stops(error, event, 0 if event == "on_test_begin" else 1)
        fit(model, callback, stop, validation_data=data())
    plain_afterwards(model, teacher_model)
    # and the very callback distils again
    history = fit(model, callback)
    assert "distillation/KL" in history
    assert nothing_of_ours(model)


def test_the_next_fit_is_plain_without_a_new_compile_too() -> None:
    """The function that the interrupted fit had made is not used again."""
    teacher_model, model = teacher(counter=True), compiled(student())
    callback = DistillationCallback(distiller(teacher_model=teacher_model))
    kept: list[BaseException] = []
    try:
        fit(model, callback, Stops(RuntimeError))
    except RuntimeError as error:
        kept.append(error)  # and with it all frames of the fit, as an interactive session keeps the last ones
    ran = calls(teacher_model)
    assert ran > 0
    assert not nothing_of_ours(model)  # nobody could know yet that the fit is over
    model.evaluate(*data(), verbose=0)
    model.predict(data()[0], verbose=0)
    assert sorted(model.train_on_batch(*data(), return_dict=True)) == ["loss"]
    model.train_step((tf.constant(data()[0]), tf.constant(data()[1])))
    assert calls(teacher_model) == ran
    assert sorted(fit(model)) == ["loss"]
    assert calls(teacher_model) == ran
    assert nothing_of_ours(model)
    assert kept


def test_the_end_of_the_fits_callbacks_ends_us() -> None:
    model = compiled(student())
    callback = DistillationCallback(distiller())
    with pytest.raises(RuntimeError):
        fit(model, callback, Stops(RuntimeError))
    gc.collect()
    assert nothing_of_ours(model)
    assert "distillation/KL" in fit(model, callback)


def test_the_end_of_the_callback_ends_us() -> None:
    """As in a loop that calls the events itself and forgets the last."""
    model = compiled(student())
    callback = DistillationCallback(distiller())
    callback.set_model(model)
    callback.on_train_begin()
    assert not nothing_of_ours(model)
    del callback
    gc.collect()
    assert nothing_of_ours(model)


def test_an_end_in_the_middle_of_tracing_something_else() -> None:
    """The garbage collector runs when it likes to."""
    model = compiled(student())
    callback = DistillationCallback(distiller())
    kept: list[Any] = []
    try:
        fit(model, callback, Stops(RuntimeError))
    except RuntimeError as error:
        kept.append(error)

    @tf.function
    def another() -> Any:
        kept.clear()
        callback.detach()
        return tf.constant(1.0)

    another()
    assert nothing_of_ours(model)
    assert "distillation/KL" in fit(model, callback, initial_epoch=1)


def test_data_that_raises() -> None:
    x, y = data()

    def rows() -> Iterator[Any]:
        yield x[:8], y[:8]
        raise ValueError("the disk is gone")

    model = compiled(student())
    with pytest.raises(ValueError, match="the disk is gone"):
        fit(model, DistillationCallback(distiller()), x=rows(), steps_per_epoch=3)
    gc.collect()
    assert nothing_of_ours(model)


def test_a_step_that_raises_ends_us_at_once() -> None:
    model = compiled(student(), run_eagerly=True)
    callback = DistillationCallback(distiller())
    kept: list[BaseException] = []

    class Breaks(keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            raise KeyboardInterrupt

    compiled(model, loss=Breaks(), run_eagerly=True)
    try:
        fit(model, callback)
    except KeyboardInterrupt as error:
        kept.append(error)
    assert nothing_of_ours(model)
    assert kept


def test_a_with_block_and_detach() -> None:
    model = compiled(student())
    kept: list[BaseException] = []
    try:
        with DistillationCallback(distiller()) as callback:
            fit(model, callback, Stops(KeyboardInterrupt))
    except KeyboardInterrupt as error:
        kept.append(error)
    assert nothing_of_ours(model)
    try:
        fit(model, callback, Stops(KeyboardInterrupt))
    except KeyboardInterrupt as error:
        kept.append(error)
    assert not nothing_of_ours(model)
    callback.detach()
    callback.detach()
    assert nothing_of_ours(model)
    assert len(kept) == 2


def test_detach_in_the_middle_of_a_fit_leaves_a_plain_fit() -> None:
    teacher_model, model = teacher(counter=True), compiled(student())
    callback = DistillationCallback(distiller(teacher_model=teacher_model))

    class Detaches(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            callback.detach()

    history = fit(model, callback, Detaches(), epochs=3)
    assert calls(teacher_model) == 3.0
    assert (len(history["loss"]), len(history["distillation/KL"])) == (3, 1)


def test_a_fit_that_goes_on_after_an_interruption() -> None:
    one = distiller(features())
    model, callback = compiled(student()), DistillationCallback(one)
    with pytest.raises(KeyboardInterrupt):
        fit(model, callback, Stops(KeyboardInterrupt, "on_epoch_begin", 2), epochs=4)
    matcher = [np.array(variable) for variable in one.parameters()]
    first: list[Any] = []

    class First(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if not first:
                first.append(one.step)

    history = fit(model, callback, First(), epochs=4, initial_epoch=2)
    assert first == [6]
    assert (one.step, len(history["loss"])) == (12, 2)
    assert matcher


def test_a_fit_that_fails_to_begin_leaves_nothing() -> None:
    model = compiled(student())
    one = distiller()

    def fails(_: Any) -> None:
        raise RuntimeError("not today")

    handle = one.register_hook("on_train_begin", fails)
    with pytest.raises(RuntimeError, match="not today"):
        fit(model, DistillationCallback(one))
    assert nothing_of_ours(model)
    handle.remove()
    assert "distillation/KL" in fit(model, DistillationCallback(one))
