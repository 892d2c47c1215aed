"""A stored teacher that several processes run together: all of them run it, or none does.

A rank that has all rows of its batch would leave the others waiting in the teacher's forward. So at every step the
ranks say what they need, and the greatest need counts for all; after a forward they say whether its rows could be
stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kdhooks.criterion import Step
from kdhooks.errors import ConfigError, DataError, KDHooksError, LayerError, ModelError, UsageError
from kdhooks.stored.served import Served

if TYPE_CHECKING:
    from kdhooks.stored.rows import Rows

_NOTHING, _ROWS, _BATCH, _STORE = range(4)
"""What a rank needs: nothing, a forward for missing rows, one without the store, or never the store again."""


class InCompany:
    """The part of `kdhooks.stored.teacher.StoredTeacher` for teachers whose ranks run together; see there."""

    _off: str
    _computed: Any
    name: str

    def company(self) -> Any:
        """The ranks that run the teacher together, which know the ``worst`` of their numbers, or None."""
        return None

    def _served_together(self, value: Any, step: Step, rows: Rows | None) -> Served | None:
        """The outputs of a step, on every rank; None where all ranks run the teacher without the store."""
        this: Any = self
        found, batch, shown, need = None, None, None, _STORE if rows is None else _NOTHING
        if rows is not None:
            try:
                with step.ledger.part("cache"):
                    batch = rows.batch(value, step)
                    found = rows.lookup(batch)
                    if len(found.missing):
                        need = _ROWS
                    else:
                        shown = this._shown(found.rows, batch.tokens, value, step)
            except (ConfigError, UsageError):
                raise
            except KDHooksError as error:
                need = self._said(error, rows)
        need = this.company().worst(need)
        if rows is not None and batch is not None and found is not None and need in (_NOTHING, _ROWS):
            step.ledger.count("hits", batch.rows - len(found.missing))
            step.ledger.count("misses", len(found.missing))
            if need == _ROWS:
                shown, need = self._run_together(value, step, rows, batch, found, shown)
                need = this.company().worst(need)
        if need == _STORE and not self._off:
            this._stop("another process that runs it can't use its store")
        return shown if need in (_NOTHING, _ROWS) else None

    def _run_together(
        self, value: Any, step: Step, rows: Rows, batch: Any, found: Any, shown: Served | None
    ) -> tuple[Served | None, int]:
        """The outputs after a forward of all ranks, and what this one needs; one that had all rows runs the first."""
        this: Any = self
        missing = found.missing
        try:
            computed = this.compute(value, step, missing if len(missing) else np.arange(1), rows)
            if not len(missing):
                return shown, _NOTHING
            with step.ledger.part("cache"):
                return this._shown(rows.complete(found, batch, computed), batch.tokens, value, step), _NOTHING
        except (ConfigError, UsageError):
            raise
        except KDHooksError as error:
            return None, self._said(error, rows)
        finally:
            self._computed = None

    def _said(self, error: KDHooksError, rows: Rows) -> int:
        """What a mistake means for this step; the reason is said once."""
        this: Any = self
        if isinstance(error, (LayerError, ModelError)):  # the teacher runs without the store, and says it better
            return _BATCH
        if isinstance(error, DataError):
            rows.skip(error)
            return _BATCH
        this._stop(str(error))
        return _STORE
