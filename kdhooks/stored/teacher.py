"""What stands before a teacher: rows that are stored are read, and only the others go through the model.

Rules: whatever is served went through the codec, so that a run from an empty store and one from a full store see the
same numbers. A store never stops a training: where it can't be used, or a batch can't be stored, the teacher runs as
if there were no store, and that is said once. Mistakes of the user (a row without a key, too few `sample_ids`,
``top_k`` of too few classes) are errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.criterion import Criterion, Step
from kdhooks.errors import ConfigError, DataError, KDHooksError, LayerError, ModelError, UsageError
from kdhooks.hooks import Hook
from kdhooks.messages import logger
from kdhooks.nests import arrays_in
from kdhooks.pairs.selection import tensors_of
from kdhooks.stored.batches import Tokens, picked, rows_in
from kdhooks.stored.known import KnownByBackend
from kdhooks.stored.looks import LOGITS, Wants, wants_of
from kdhooks.stored.measured import Measured
from kdhooks.stored.served import Served
from kdhooks.stored.shared import SharedStore
from kdhooks.stored.together import InCompany

if TYPE_CHECKING:
    from kdhooks.stored.rows import Rows

Tensor = Any


class StoredTeacher(Hook, InCompany, KnownByBackend):
    """A teacher whose outputs are stored; a backend says what its tensors and models are.

    What is not said here is the teacher's own: its model, its state, what captures its layers.

    Args:
        live: the teacher, which runs where rows are missing.
        name: of the teacher.
        shared: the store of the run.

    Attributes:
        live: the teacher.
    """

    def __init__(self, live: Any, name: str, shared: SharedStore) -> None:
        self.live, self.name, self.shared = live, name, shared
        self._criteria: Sequence[Criterion] | None = None
        self._wants: Wants | None = None
        self._off = ""  # why it runs without the store
        self._together_off = False  # whether all ranks that run it together know that
        self._version: Any = None
        self._looked = False  # whether the weights are known to be those of `_version`, in this epoch
        self._rows: dict[str, Rows] = {}
        self._served: Served | None = None
        self._computed: Served | None = None  # a whole batch without the codec, for one that can't be stored
        self._measured = Measured(shared, name) if shared.lossy else None

    def __getattr__(self, name: str) -> Any:
        if name == "live":  # a copy that is being made has no attributes yet
            raise AttributeError(name)
        return getattr(self.live, name)

    # ---- events ------------------------------------------------------------------------------------

    def follow_criteria(self, criteria: Sequence[Criterion]) -> None:
        """Store what these criteria look at; without this call the teacher runs as if there were no store."""
        self._criteria = criteria

    def on_train_begin(self) -> None:
        """The teacher begins; the store is opened when it is used first."""
        self._wants, self._off, self._version, self._looked = None, "", None, False
        self._together_off = False
        self._rows, self._served = {}, None
        self.live.on_train_begin()

    def on_epoch_begin(self, epoch: int) -> None:
        """Look whether the weights are still the same."""
        self._looked = False
        self.live.on_epoch_begin(epoch)

    def on_step_begin(self, step: int) -> None:
        """The teacher's own."""
        self.live.on_step_begin(step)

    def on_after_compute_loss(self) -> None:
        """Say what the codec does to the losses, as long as that is measured; let go of the step."""
        if self._measured is not None and self._served is not None and self._criteria is not None:
            self._measured.compare(self._served, self._criteria, self.name, self.value_of)
        self.release()
        self.live.on_after_compute_loss()

    def on_step_end(self) -> None:
        """The teacher's own."""
        self.live.on_step_end()

    def on_epoch_end(self) -> None:
        """Write the rows that wait."""
        self._looked = False
        self.shared.flush()
        self.live.on_epoch_end()

    def on_train_end(self) -> None:
        """Write the rows that wait, close the store, and end the teacher, also after an error."""
        try:
            self.release()
            self.shared.close()
        finally:
            self._rows = {}
            self.live.on_train_end()

    def release(self) -> None:
        """Let go of the step's outputs."""
        self._served = None
        self.shared.forget()
        if self._measured is not None:
            self._measured.forget()
        self.live.release()

    # ---- a step ------------------------------------------------------------------------------------

    @property
    def taps(self) -> Any:
        """What criteria read the teacher's layers from, after a call."""
        return self.live.taps if self._served is None else self._served

    def __call__(self, value: Any, step: Step | None = None) -> Any:
        """The teacher's logits for an input; where nothing is stored, its own output."""
        served = self.serve(value, step)
        return self.live(value, step) if served is None else served.output

    def features(self, value: Any, layers: frozenset[Any], step: Step | None = None) -> None:
        """Layers of the teacher, for `taps` to read."""
        if self.serve(value, step) is None:
            self.live.features(value, layers, step)

    def serve(self, value: Any, step: Step | None) -> Served | None:
        """The outputs of a step, read or computed; None where the teacher has to run without the store."""
        if self._served is not None and self._served.step is step:
            return self._served
        self._served = None
        rows = None if step is None else self._rows_of(value)
        if step is not None and self._criteria is not None and not self._together_off and self.company() is not None:
            self._served = self._served_together(value, step, rows)
            self._together_off = bool(self._off)
            return self._served
        if step is None or rows is None:
            return None
        try:
            self._served = self._read(value, step, rows)
        except (ConfigError, UsageError):
            raise
        except (LayerError, ModelError):  # the teacher runs again without the store, and fails with a better message
            return None
        except DataError as error:
            rows.skip(error)
            self._served = self._computed
        except KDHooksError as error:
            self._stop(str(error))
        finally:
            self._computed = None
        return self._served

    def _read(self, value: Any, step: Step, rows: Rows) -> Served:
        with step.ledger.part("cache"):
            batch = rows.batch(value, step)
            found = rows.lookup(batch)
        step.ledger.count("hits", batch.rows - len(found.missing))
        step.ledger.count("misses", len(found.missing))
        if not len(found.missing):
            with step.ledger.part("cache"):
                return self._shown(found.rows, batch.tokens, value, step)
        computed = self.compute(value, step, found.missing, rows)
        with step.ledger.part("cache"):
            return self._shown(rows.complete(found, batch, computed), batch.tokens, value, step)

    def fill(self, value: Any, step: Step) -> tuple[int, int]:
        """Store what is missing of a batch, and serve nothing: how many rows it has, and how many were computed.

        Raises:
            StoreError: they can't be stored.
            DataError: they are of other shapes than those that are stored.
        """
        from kdhooks.cache import StoreError

        rows = self._rows_of(value)
        store = self.shared.store
        if rows is None:
            raise StoreError(f"the outputs of the {self.name} {self._kind} can't be stored: {self._off}")
        batch = rows.batch(value, step)
        missing = rows.lookup(batch)
        if len(missing.missing):
            rows.complete(missing, batch, self.compute(value, step, missing.missing, rows))
        self._computed = None
        self.release()
        reason = store.problem or store.write_problem
        if reason:
            raise StoreError(f"{store.path}: {reason}")
        return batch.rows, len(missing.missing)

    @property
    def spaces(self) -> tuple[str, ...]:
        """The names of the spaces that were used in this run."""
        return tuple(rows.outputs.space.name for rows in self._rows.values())

    def compute(self, value: Any, step: Step, places: NDArray[np.intp], rows: Rows) -> dict[str, NDArray[Any]]:
        """What the model says of some rows, by names of a row, [M, ...]."""
        wants, count = rows.wants, rows_in(value)
        every = len(places) == count
        some = value if every or self.whole_batches() else picked(value, count, lambda one: self.take(one, places))
        outputs: dict[str, Tensor] = {}
        output: Any = None
        if wants.output:
            output = self.live(some, step)
            outputs[LOGITS] = self.logits(output, wants.keys)
        else:
            self.live.features(some, wants.layers, step)
        for look in wants.looks:
            outputs |= look.named(tensors_of(look.tap, self.live.taps, look.calls, self.values))
        self._computed = Served(step, self._kind, outputs, output) if every else None
        if self._measured is not None:
            self._measured.exact = self._computed
        arrays = {name: self.array(tensor) for name, tensor in outputs.items()}
        self.live.release()
        for name, array in arrays.items():
            if array.ndim == 0 or len(array) != rows_in(some):
                raise DataError(f"{name} has shape {list(array.shape)}, and the batch has {rows_in(some)} rows")
        return arrays if some is not value or every else {name: array[places] for name, array in arrays.items()}

    def _shown(self, said: Mapping[str, Any], tokens: Tokens | None, value: Any, step: Step) -> Served:
        """Stored values as tensors beside the batch; padding counts in no loss."""
        from kdhooks.cache import Tokens as OfTokens
        from kdhooks.cache import TopK

        beside = next(arrays_in(value))
        outputs: dict[str, Tensor] = {}
        by_tokens: set[str] = set()
        for name, held in said.items():
            if isinstance(held, OfTokens):
                if tokens is None:
                    raise DataError(f"{name} is stored by tokens, and the batch has none")
                by_tokens.add(name)
                held = held.padded(tokens.kept)
            outputs[name] = self.dense(held, beside) if isinstance(held, TopK) else self.tensor(held, beside)
        if by_tokens and tokens is not None and tokens.padded:
            narrow = self.narrowing(tokens.mask)
            for key in self._keys_of(by_tokens):
                step.held[self.name, key] = narrow
        return Served(step, self._kind, outputs)

    def _keys_of(self, names: set[str]) -> list[Any]:
        """The layers, as they are captured, of outputs by name; None for the logits."""
        looks = () if self._wants is None else self._wants.looks
        layers = [look.tap.key for look in looks if look.found(dict.fromkeys(names))]
        return [*([None] if LOGITS in names else []), *layers]

    @property
    def _kind(self) -> str:
        return type(self.live.model).__name__

    # ---- which rows --------------------------------------------------------------------------------

    def _rows_of(self, value: Any) -> Rows | None:
        """Where the outputs of the teacher, as it is now, are; None where it runs without the store."""
        if self._criteria is None or self._off or self.shared.store.problem:
            return None
        if next(arrays_in(value), None) is None:
            raise UsageError("distillation.cache: the teacher's input holds no tensor, so its rows have no keys")
        if not self._looked and not self._may_be_stored():
            return None
        effect = self.effect(value)
        if effect not in self._rows and not self._open(effect):
            return None
        return self._rows[effect]

    def _may_be_stored(self) -> bool:
        """Find out once an epoch whether the weights were changed; then other rows are meant, if any can be."""
        version, self._looked = self.version(), True
        if version != self._version:
            self._version, self._rows = version, {}
            reason = self.obstacle()
            if reason:
                self._stop(reason)
        return not self._off

    def _open(self, effect: str) -> bool:
        from kdhooks.stored.rows import Rows

        try:
            wants = self._wants = self._wants or wants_of(self._criteria or (), self.name)
        except UsageError as error:
            self._stop(str(error))
            return False
        about = {"teacher": self._kind, "name": self.name, "precision": effect}
        self._rows[effect] = Rows(self, wants, self.fingerprint(effect, wants), about)
        return True

    def _stop(self, reason: str) -> None:
        self._off = reason
        logger.warning(
            "the outputs of the %s %s are not stored: %s. It runs at every step.", self.name, self._kind, reason
        )
