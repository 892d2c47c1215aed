"""A teacher in TensorFlow whose outputs are stored; the rules are `kdhooks.stored`'s.

In eager mode a batch is looked up where it is; in a function that is traced by `stored_lookup`, each time that the
function runs. Maps [N, H, W, C] are stored as [N, C, H, W], since a codec pools the last axes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from kdhooks.criterion import Step, Term
from kdhooks.messages import logger
from kdhooks.speed import Choice
from kdhooks.stored.batches import Tokens
from kdhooks.stored.choices import KeptChoice
from kdhooks.stored.looks import LOGITS, Wants
from kdhooks.stored.served import Served
from kdhooks.stored.shared import SharedStore
from kdhooks.stored.teacher import StoredTeacher as _StoredTeacher
from kdhooks_tf.fingerprints import classes_of, options_of, processor_names, unreadable, weights_of
from kdhooks_tf.layer_mappings import VALUES
from kdhooks_tf.outputs import logits_of, map_tensors
from kdhooks_tf.tapes import stop_recording
from kdhooks_tf.teacher import Teacher, layers_of
from kdhooks_tf.weighing import outside_branches

if TYPE_CHECKING:
    from kdhooks.cache import TopK
    from kdhooks.stored.rows import Rows
    from kdhooks_tf.stored_lookup import Lookups

Tensor = Any


class _Here(threading.local):
    """What a thread's present step was served; replicas of a distribution strategy are traced in threads."""

    def __init__(self) -> None:
        self.served: Served | None = None


class StoredTeacher(_StoredTeacher):
    """A teacher that runs for rows that are not stored yet.

    Args:
        live: the teacher.
        name: of the teacher.
        shared: the store of the run.
        student: to know what it shares with the teacher.
    """

    values = VALUES

    def __init__(self, live: Teacher, name: str, shared: SharedStore, student: Any) -> None:
        self._here = _Here()
        super().__init__(live, name, shared)
        self._student = student
        self._lookups: Lookups | None = None
        self._identified: tuple[Any, str] | None = None

    @property
    def _served(self) -> Served | None:
        return self._here.served

    @_served.setter
    def _served(self, served: Served | None) -> None:
        self._here.served = served

    # ---- tensors -----------------------------------------------------------------------------------

    def array(self, tensor: Tensor) -> NDArray[Any]:
        """A tensor's values on the host; those of dtypes that NumPy has not as float32."""
        array = np.asarray(tensor)
        return array.astype(np.float32) if array.dtype.name in ("bfloat16", "float16") else array

    def tensor(self, array: NDArray[np.float32], beside: Tensor) -> Tensor:
        """An array as a tensor."""
        return tf.convert_to_tensor(array)

    def dense(self, kept: TopK, beside: Tensor) -> Tensor:
        """All logits [..., C], put together on the device: only what is stored crosses to it."""
        values, indices, rest = map(tf.convert_to_tensor, (kept.values, kept.indices, kept.rest))
        return dense_logits(values, indices, rest, kept.classes)

    def take(self, tensor: Tensor, places: NDArray[np.intp]) -> Tensor:
        """Some rows of a tensor."""
        return tf.gather(tensor, places)

    def keys(self, value: Any) -> list[bytes]:
        """The keys of a batch by its content; see `kdhooks.cache.row_keys`."""
        from kdhooks.cache import row_keys

        return row_keys(map_tensors(np.asarray, value))

    def logits(self, output: Any, keys: Sequence[str]) -> Tensor:
        """The logits, or probabilities, in what the teacher returned."""
        return logits_of(output, keys, model=self.name)

    def narrowing(self, mask: Tensor) -> Callable[[Tensor | None], Tensor]:
        """A function that takes positions of padding out of a mask."""
        positions = tf.cast(mask, tf.bool)

        def narrow(given: Tensor | None) -> Tensor:
            if given is None:
                return positions
            fits = given.shape.is_compatible_with(positions.shape)
            return tf.cast(given, tf.bool) & positions if fits else given  # else the loss says what shape it must have

        return narrow

    # ---- what it is known by -----------------------------------------------------------------------

    def effect(self, value: Any) -> str:
        """The precision that is asked for, or that of the layers' own policies."""
        choice = self.live.choice or self._settled(value)
        return str(choice.precision or "own")

    def _settled(self, value: Any) -> Choice:
        """What ``auto`` becomes: what it became in an earlier run that stored outputs, or what is chosen now."""
        from kdhooks.cache import fingerprint

        where = processor_names()
        base = fingerprint((), precision="auto", more=[self._identity(), where])
        kept = KeptChoice(self.shared.store, base, {"teacher": self._kind, "on": where})
        found = kept.read()
        if found is not None:
            self.live.adopt(found)
            logger.info("the teacher %s runs in %s, as an earlier run chose", self._kind, self.live.choice)
        choice: Choice = self.live.settle(value)
        kept.write(choice)
        return choice

    def fingerprint(self, effect: str, wants: Wants) -> str:
        """The name of this teacher's space."""
        from kdhooks.cache import fingerprint

        codecs = {LOGITS: self.shared.codec(logits=True)} if wants.output else {}
        if wants.looks:
            codecs["features"] = self.shared.codec(logits=False, pooled=self.shared.settings.pool is not None)
        return fingerprint((), precision=effect, layers=wants.names, codecs=codecs, more=[self._identity()])

    def _identity(self) -> str:
        """The teacher's weights, code and options as one name, apart from how it runs and what is stored of it."""
        from kdhooks.cache import fingerprint

        if self._identified is None or self._identified[0] != self._version:
            model = self.live.model
            own, published = classes_of(model)
            more = ["tensorflow", str(self._version), *published, *options_of(model, self.live.policy_of)]
            self._identified = self._version, fingerprint((), code=own, more=more)
        return self._identified[1]

    def version(self) -> object:
        """A digest of the weights: TensorFlow counts no versions."""
        from kdhooks.cache import fingerprint

        with tf.init_scope():
            return fingerprint(weights_of(self.live.model)) if self.live.model.built else ""

    def obstacle(self) -> str:
        """Why this teacher's outputs can't be stored."""
        model = self.live.model
        students = {id(one) for one in (*layers_of(self._student), *self._student.variables)}
        if any(id(one) in students for one in (*layers_of(model), *model.variables)):
            return "it shares layers or weights with the student, which training changes"
        probable = any(not getattr(criterion, "teacher_from_logits", True) for criterion in self._criteria or ())
        if probable and self.shared.settings.top_k is not None:
            return "top_k keeps logits, and it gives probabilities (teacher_from_logits: false)"
        if self.shared.settings.pool is not None and self._channels_first():
            return "pool averages maps [N, H, W, C], and its layers have data_format='channels_first'"
        return unreadable(model)

    def whole_batches(self) -> bool:
        """Whether the teacher is compiled: then another number of rows would be compiled anew."""
        choice = self.live.choice
        return choice is not None and choice.compile

    def value_of(self, term: Term, step: Step) -> float:
        """A term's value, without a gradient."""
        with stop_recording():
            return float((term.probe or term.compute)(step))

    # ---- events ------------------------------------------------------------------------------------

    def on_epoch_begin(self, epoch: int) -> None:
        """Look whether the weights are still the same."""
        super().on_epoch_begin(epoch)
        self.look_again()

    def on_epoch_end(self) -> None:
        """Write the rows that wait, and look whether the weights are still the same."""
        super().on_epoch_end()
        self.look_again()

    def on_train_end(self) -> None:
        """Write the rows that wait, close the store, and end the teacher."""
        self._lookups = None
        super().on_train_end()

    def look_again(self) -> None:
        """A step in a graph runs no Python of ours but the lookup; so what it needs is found outside."""
        effects = list(self._rows)
        if effects:
            self._look()
            for effect in effects:
                if effect not in self._rows:
                    self._open(effect)

    # ---- a step ------------------------------------------------------------------------------------

    def serve(self, value: Any, step: Step | None) -> Served | None:
        """The outputs of a step, read or computed; None where the teacher has to run without the store."""
        if not tf.inside_function():
            if step is not None and tf.is_tensor(step.sample_ids):
                step.sample_ids = step.sample_ids.numpy()
            with stop_recording():
                return super().serve(value, step)
        if self._served is not None and self._served.step is step:
            return self._served
        self._served = None
        if step is None:
            return None
        with outside_branches(), stop_recording():
            if self._rows_of(value) is None:
                return None
            if self._lookups is None:
                from kdhooks_tf.stored_lookup import Lookups

                self._lookups = Lookups(self)
            self._served = self._lookups.serve(value, step, self.effect(value))
        return self._served

    def rows_in_use(self, effect: str) -> Rows | None:
        """The rows of the present epoch, for a lookup; None where the teacher has to run without the store."""
        return None if self._off or self.shared.store.problem else self._rows.get(effect)

    def compute(self, value: Any, step: Step, places: NDArray[np.intp], rows: Rows) -> dict[str, NDArray[Any]]:
        """What the model says of some rows, by names of a row, [M, ...], as it is stored."""
        said = super().compute(value, step, places, rows)
        return {name: self.as_stored(name, array) for name, array in said.items()}

    def as_stored(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """An output as a row holds it."""
        return np.moveaxis(array, -1, 1) if self.is_pooled(name, array.ndim) else array

    def layers_of_outputs(self, names: set[str]) -> list[Any]:
        """The layers, as they are captured, of outputs by name; None for the logits."""
        return self._keys_of(names)

    def as_served(self, name: str, held: Any) -> Any:
        """An output as the teacher gives it."""
        return np.moveaxis(held, 1, -1) if isinstance(held, np.ndarray) and self.is_pooled(name, held.ndim) else held

    def is_pooled(self, name: str, axes: int) -> bool:
        """Whether an output is a map that is averaged."""
        pool = self.shared.settings.pool
        return pool is not None and name != LOGITS and axes == 2 + len(pool)

    def _channels_first(self) -> bool:
        return any(getattr(one, "data_format", None) == "channels_first" for one in layers_of(self.live.model))

    def _shown(self, said: Mapping[str, Any], tokens: Tokens | None, value: Any, step: Step) -> Served:
        return super()._shown({name: self.as_served(name, held) for name, held in said.items()}, tokens, value, step)


def dense_logits(values: Tensor, indices: Tensor, rest: Tensor, classes: int) -> Tensor:
    """All logits [..., C] of the k largest: the mass of the rest is spread evenly over the other classes.

    Args:
        values: [..., k].
        indices: their classes, [..., k].
        rest: the logsumexp of all others, [...].
        classes: C.
    """
    count = values.shape[-1]
    share = rest - math.log(classes - count) if classes > count else rest
    shape = tf.concat([tf.shape(rest), [classes]], 0)
    flat = [tf.reshape(one, [-1, count]) for one in (values, tf.cast(indices, tf.int32))]
    rows = tf.range(tf.shape(flat[0])[0])
    places = tf.stack([tf.repeat(rows[:, None], count, 1), flat[1]], -1)
    wide = tf.repeat(tf.reshape(share, [-1, 1]), classes, 1)
    return tf.reshape(tf.tensor_scatter_nd_update(wide, places, flat[0]), shape)
