"""What `DistillationCallback` does to a model for the time of one fit, and its undoing.

Rules: methods are replaced on the instance only (`callback_shims`); they act while the train function
that we made is running and nowhere else, so that a fit that was interrupted leaves no model behind that
distils unasked; nothing here refers to the callback, whose end is one of the ends of a fit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import tensorflow as tf

from kdhooks.domains import adapts
from kdhooks.domains.batches import split_target
from kdhooks.errors import UsageError
from kdhooks.messages import logger
from kdhooks_tf.callback_backup import Backups
from kdhooks_tf.callback_domains import END_OF_DATA, PairedSteps, TargetBatches
from kdhooks_tf.callback_means import ComponentMeans
from kdhooks_tf.callback_shims import Shims
from kdhooks_tf.callback_target import labels
from kdhooks_tf.domains.data import columns_of
from kdhooks_tf.monitor import watching
from kdhooks_tf.replicas import strategy_of
from kdhooks_tf.stored_dataset import without_stored

_MARK = "kdhooks"
_ARGUMENTS = ("x", "y", "y_pred", "sample_weight")


class Attachment:
    """One fit of one model with one distiller.

    Args:
        model: compiled and built.
        distiller: its `kdhooks.Distillation`.
        backups: where the state is saved beside the model's.
        target: a dataset of the target domain's batches, or None.

    Attributes:
        attached: between `attach` and `detach`.
        finished: whether Keras says that the fit ended as it should.
        ended: the number of the epoch that would come next and the state of the distiller, once detached.
    """

    def __init__(self, model: Any, distiller: Any, backups: Backups, target: Any = None) -> None:
        self.attached = self.finished = False
        self._targets = _targets(distiller, target, model)
        self.ended: tuple[int, dict[str, Any]] | None = None
        self._model, self._distiller, self._backups = model, distiller, backups
        self._shims = Shims(model)
        self._means = ComponentMeans(strategy_of(model))
        self._train_function: Any = None
        self._traced_for: list[int] = []
        self._stepping = self._evaluating = self._epoch_open = False
        self._here = threading.local()  # replicas of a distribution strategy trace in threads of their own
        self._finalizers: list[Any] = []
        self._next_epoch = 0

    def attach(self) -> None:
        """Begin the distiller's run and put everything on the model."""
        self._distiller.on_train_begin(optimizer=self._model.optimizer)
        self.attached = True
        try:
            self._check_target()
            for name, make in (
                ("compute_loss", self._distilled_loss),
                ("train_step", self._step),
                ("get_metrics_result", self._metrics),
                ("evaluate", self._evaluation),
                ("train_on_batch", self._plain),
                ("fit", self._next_fit),
                ("save_weights", self._saving),
            ):
                self._shims.put(name, make)
            setattr(self._model.__dict__["train_step"], _MARK, True)
            self._make_train_function()
        except BaseException:
            self.detach()
            raise

    def _check_target(self) -> None:
        if self._targets is None and any(map(adapts, self._distiller.summed_criteria())):
            raise UsageError(
                "domain adaptation needs batches of the target domain, and this fit has none: "
                "DistillationCallback(distiller, target=dataset), or domain_adaptation.dataloader"
            )

    def detach(self) -> None:
        """Take everything off again; a second call does nothing."""
        if not self.attached:
            return
        self.attached = False
        for finalizer in self._finalizers:
            finalizer.detach()
        self._finalizers = []
        self._shims.remove()
        if not self.finished:
            self._distiller.record_interrupted()
        tracing = tf.inside_function()  # something else: a finalizer runs when the garbage collector likes to
        with tf.init_scope():
            if self._model.train_function is self._train_function:
                _make_anew(self._model)
            self._train_function = None
            try:
                self.ended = None if tracing else (self._next_epoch, self._distiller.state_dict())
            finally:
                with self._no_tables():
                    self._distiller.on_train_end()

    def end_with(self, finalizer: Any) -> None:
        """Keep a finalizer that would detach us, until that is done."""
        finalizer.atexit = False
        self._finalizers.append(finalizer)

    def begin_epoch(self, epoch: int) -> None:
        """An epoch of this number begins."""
        self._means.reset()
        self._distiller.on_epoch_begin(epoch)
        if _trained(self._model) != self._traced_for:
            self._make_train_function()  # other weights are frozen now
        self._next_epoch, self._epoch_open = epoch, True

    def end_epoch(self) -> None:
        """Close the epoch; a second call does nothing."""
        if self._epoch_open:
            self._epoch_open = False
            self._next_epoch += 1
            with self._no_tables():
                self._distiller.on_epoch_end()

    @contextmanager
    def _no_tables(self) -> Iterator[None]:
        """Keras shows the losses itself; tables are shown where they hold what Keras doesn't know."""
        if self._distiller.eval_func is not None or self._distiller.conf.settings.tuning.workspace is not None:
            yield
            return
        logger.addFilter(_is_warning)
        try:
            yield
        finally:
            logger.removeFilter(_is_warning)

    # ---- the train function ------------------------------------------------------------------------

    def _make_train_function(self) -> None:
        _make_anew(self._model)
        self._traced_for = _trained(self._model)
        inner = self._model.train_function
        if self._targets is not None:
            inner = PairedSteps(self._model, self._targets, lambda batch: setattr(self._here, "target", batch))

        def train_function(iterator: Any) -> Any:
            self._stepping = True
            ledger = self._distiller.ledger
            with ledger.border("begin"):
                pass
            try:
                logs = inner(iterator)
                with ledger.border("end"):  # that of on_step_end is seen in the tracing only
                    pass
                return logs
            except END_OF_DATA:
                raise
            except BaseException:
                self.detach()
                raise
            finally:
                self._stepping = False

        self._model.train_function = self._train_function = train_function

    # ---- methods in place of the model's -----------------------------------------------------------

    def _step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def train_step(*args: Any, **kwargs: Any) -> Any:
            if not self._stepping:
                return original(*args, **kwargs)
            args, kwargs, self._here.stored = _without_stored(args, kwargs)
            self._here.names = None
            self._here.active = True
            try:
                logs = original(*args, **kwargs)
            finally:
                self._here.active = False
            if self._here.names is None:
                raise UsageError(_never_called(self._model))
            self._distiller.on_step_end()
            if not isinstance(logs, Mapping):
                return logs
            return {**self._means.of_step(self._here.names), **logs}

        return train_step

    def _distilled_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            loss = original(*args, **kwargs)
            if not getattr(self._here, "active", False) or kwargs.get("training") is False:
                return loss
            return self._total({**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}, loss)

        return compute_loss

    def _total(self, given: Mapping[str, Any], loss: Any) -> Any:
        """The total of one batch, or of one replica's part of it."""
        x, y, output = given.get("x"), given.get("y"), given.get("y_pred")
        target_input, target_labels = getattr(self._here, "target", None) or (None, None)
        with watching() as seen:
            total = self._distiller.on_after_compute_loss(
                x,
                output,
                loss,
                target=labels(y, output),
                target_input=target_input,
                target_labels=target_labels,
                sample_weight=given.get("sample_weight"),
                **self._here.stored,
            )
        names, values = next(one for one in seen if one[0][-1] == "total")  # criteria may record as well
        first = next(one for one in tf.nest.flatten((x, output)) if one is not None)
        # "total" is what Keras' own `loss` shows
        self._means.add(names[:-1], values[:-1], tf.shape(first)[0])
        self._here.names = names[:-1]
        return total

    def _metrics(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_metrics_result() -> Any:
            """What Keras takes for the logs of an epoch of training."""
            result = original()
            if self._evaluating or getattr(self._here, "active", False) or tf.inside_function():
                return result
            return {**self._means.of_epoch(), **result}

        return get_metrics_result

    def _evaluation(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def evaluate(*args: Any, **kwargs: Any) -> Any:
            before, self._evaluating = self._evaluating, True
            try:
                return original(*args, **kwargs)
            finally:
                self._evaluating = before

        return evaluate

    def _plain(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def train_on_batch(*args: Any, **kwargs: Any) -> Any:
            """Train without distillation, which belongs to fit."""
            with self._without_train_function():
                return original(*args, **kwargs)

        return train_on_batch

    def _next_fit(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def fit(*args: Any, **kwargs: Any) -> Any:
            """Another fit while ours goes on: ours was interrupted."""
            self.detach()
            return original(*args, **kwargs)

        return fit

    def _saving(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def save_weights(filepath: Any, *args: Any, **kwargs: Any) -> Any:
            backup = self._backups.owner_of(filepath)
            if backup is not None:
                if backup.save_freq == "epoch":
                    self.end_epoch()  # it may stand before us in the list
                self._backups.save(backup, self._model, self._distiller.state_dict())
            return original(filepath, *args, **kwargs)

        return save_weights

    @contextmanager
    def _without_train_function(self) -> Iterator[None]:
        ours, self._model.train_function = self._model.train_function, None
        try:
            yield
        finally:
            self._model.train_function = ours


def is_attached(model: Any) -> bool:
    """Whether a model has an attachment of ours."""
    return hasattr(model.__dict__.get("train_step"), _MARK)


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _without_stored(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """The arguments of a train step without a teacher's outputs that came with the data, and these."""
    if args:
        data, stored = without_stored(args[0])
        return (data, *args[1:]), kwargs, stored
    data, stored = without_stored(kwargs.get("data"))
    return args, {**kwargs, "data": data} if stored else kwargs, stored


def _targets(distiller: Any, target: Any, model: Any) -> TargetBatches | None:
    """The target domain's batches: the callback's own, or the distiller's."""
    given = distiller.backend.target_loader(distiller, evaluation=False) if target is None else target
    if given is None:
        return None
    inputs, columns = columns_of(distiller, evaluation=False)
    section = distiller.conf.settings.domain_adaptation
    split = partial(split_target, inputs=inputs, input_columns=columns)
    return TargetBatches(given, strategy_of(model), split, labels=section is not None and section.target_labels)


def _trained(model: Any) -> list[int]:
    return list(map(id, model.trainable_variables))


def _make_anew(model: Any) -> None:
    model.train_function = None
    model.make_train_function()


def _never_called(model: Any) -> str:
    name = type(model).__name__
    return (
        f"{name}.train_step never calls self.compute_loss, where the distillation's loss is added: compute the loss "
        "there with self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight), or write the loop "
        "yourself and call distiller.on_after_compute_loss in it"
    )
