"""`DistillationCallback`: distils a compiled Keras model inside the user's own ``model.fit``.

What is done to the model for the time of one fit, and undone, stands in `callback_attachment`; this
file only says when. Keras calls no callback when a fit is interrupted, so the end is found in several
ways: see `DistillationCallback.detach`.
"""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any

import keras

from kdhooks.errors import ModelError, UsageError
from kdhooks.messages import logger
from kdhooks_tf.callback_attachment import Attachment, is_attached
from kdhooks_tf.callback_backup import Backups, callback_lists
from kdhooks_tf.callback_domains import check_target

# The student that each distiller got from a fit and not from the user: another fit may give it another one.
_taken: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


class DistillationCallback(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """Distils in ``student.fit(data, callbacks=[DistillationCallback(distiller)])``; the student stays the user's own.

    The model's compile keeps its meaning. What is trained is the total of its loss and the
    distillation's, and so is ``loss`` in the logs; ``val_loss`` is the model's own. The unweighted
    components stand beside it, as means over the epoch so far: ``distillation/CE``, ``distillation/KL``.
    Losses are computed in training only: ``evaluate()``, ``predict()`` and validation run no teacher.

    Functions registered with `Distillation.register_hook` on the events of an epoch are called in every
    epoch, and those on the events of a step when Keras traces the step (in every step with
    ``run_eagerly=True``).

    With a model from the scope of a `tf.distribute.MirroredStrategy` all of it works on every replica.
    With a `tf.distribute.MultiWorkerMirroredStrategy` Keras' own `fit` fails, before it calls any callback:
    it reduces the first batch over the replicas, where TensorFlow takes no value of a single local replica
    ("Attempt to convert a value (PerReplica:{...}) ..."). Write a loop with `Distillation` there.

    A later fit with the same callback starts anew, or continues where ``initial_epoch`` is the number of
    the epoch that would come next. A ``keras.callbacks.BackupAndRestore`` in the same fit, before or after
    this callback, keeps the distillation's state in its own directory and resumes from it.

    Args:
        distiller: a `kdhooks.Distillation`; where it has no student_model it takes the model of the fit.
        target: for domain adaptation, a ``tf.data.Dataset`` of the target domain's batches, inputs alone or
            ``(inputs, labels)``, of any size. It begins anew where it ends; each step takes one batch.

    Raises:
        ModelError: Keras runs on another backend than TensorFlow.
        UsageError: `target` is no dataset of batches.

    Example:
        >>> import keras, numpy
        >>> from kdhooks import Distillation
        >>> from kdhooks_tf import DistillationCallback
        >>> student, teacher = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in range(2))
        >>> student.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x, y = numpy.ones((8, 4), "float32"), numpy.zeros(8, "int32")
        >>> callback = DistillationCallback(Distillation(teacher_model=teacher))
        >>> history = student.fit(x, y, verbose=0, callbacks=[callback]).history
        >>> sorted(history)
        ['distillation/CE', 'distillation/KL', 'loss']
    """

    def __init__(self, distiller: Any, *, target: Any = None) -> None:
        super().__init__()
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise ModelError(
                f"DistillationCallback needs Keras on TensorFlow, and this Keras runs on {backend}: "
                "set KERAS_BACKEND=tensorflow before keras is imported"
            )
        self.distiller = distiller
        self.target = None if target is None else check_target(target)
        self._attachment: Attachment | None = None
        self._ended: tuple[int, dict[str, Any]] | None = None
        self._backups = Backups(())
        self._first_epoch = True

    # ---- Keras' events -----------------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        """Attach to the model.

        Raises:
            UsageError: a model that is not compiled, or not the distiller's student.
            ModelError: a model that is not built, where layers inside of it are looked at.
        """
        self.detach()
        model = self.model
        self._check(model)
        lists = callback_lists()
        self._backups = Backups(one for each in lists for one in each.callbacks)
        attachment = Attachment(model, self.distiller, self._backups, self.target)
        attachment.attach()
        self._attachment, self._first_epoch = attachment, True
        # An interrupted fit leaves no trace but its objects' end: the list's, or ours.
        for one in (self, *lists):
            attachment.end_with(weakref.finalize(one, attachment.detach))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Tell the distiller; continue a saved state before the first epoch."""
        attachment = self._working()
        if attachment is None:
            return
        if self._first_epoch:
            self._continue(epoch)
            self._first_epoch = False
        attachment.begin_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tell the distiller."""
        attachment = self._working()
        if attachment is not None:
            attachment.end_epoch()

    def on_train_end(self, logs: Any = None) -> None:
        """Detach from the model."""
        if self._attachment is not None:
            self._attachment.finished = True
        self.detach()

    # ---- the end -----------------------------------------------------------------------------------

    def detach(self) -> None:
        """Take everything of ours off the model; a second call does nothing.

        Called at the end of a fit. Keras calls nothing when a fit is interrupted; then this happens when a
        step raised, when the fit's callbacks are garbage, at the model's next fit, or at the end of a ``with``
        block, whichever comes first. Until then ``evaluate()``, ``predict()``, ``save()`` and
        ``train_on_batch()`` are the model's own already.
        """
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.detach()
            self._ended = attachment.ended

    def __enter__(self) -> DistillationCallback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    # ---- within ------------------------------------------------------------------------------------

    def _working(self) -> Attachment | None:
        return self._attachment if self._attachment is not None and self._attachment.attached else None

    def _check(self, model: Any) -> None:
        name = model.name
        if not model.compiled:
            raise UsageError(f"the model {name!r} is not compiled: model.compile(...) comes before fit()")
        if is_attached(model):
            raise UsageError(f"the model {name!r} has a DistillationCallback in this fit already: give one")
        student = self.distiller.student_model
        if student is None or (student is not model and _taken.get(self.distiller) is student):
            self.distiller.student_model = _taken[self.distiller] = model
        elif student is not model:
            raise UsageError(
                f"this fit trains the model {name!r}, and the distiller's student_model is another model, "
                f"{student.name!r}: fit that one, or leave student_model unset"
            )

    def _continue(self, epoch: int) -> None:
        """Put back the state of a backup, or of our earlier fit that this one continues."""
        state = self._backups.state_for(self.model)
        fresh = self.distiller.state_dict()
        if state is not None:
            logger.info("distillation resumes at step %d, from %s", state["step"], self._backups.directory)
        elif self._ended is not None and epoch and self._ended[0] == epoch:
            state = {**self._ended[1], "rng": fresh["rng"]}  # the same process: its generators go on
        if state is not None:
            # Keras begins an epoch from its first batch, also after a backup in the middle of one.
            self.distiller.load_state_dict({**state, "steps_in_epoch": 0, "monitor": fresh["monitor"]})
        elif epoch and self.params and self.params.get("steps"):
            self.distiller.on_step_begin(epoch * self.params["steps"])  # so that schedules stand where they would
