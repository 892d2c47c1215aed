"""The random generators of all processes in a checkpoint, so that a resumed run draws what the first would have drawn.

Rules: they are put back before the trainer makes the iterator of its dataloader, which draws a seed. Where it makes
another one at the first epoch of the resumed run, as a run that goes on does at every epoch, they are put back before
that one. Exchanged are tensors, not pickled objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdhooks.distillation import Distillation
from kdhooks.integrations.lightning_callback import state as states
from kdhooks.torch.ranks import Ranks


class Generators:
    """Of one fit.

    Attributes:
        begun: whether a fit is under way.
    """

    def __init__(self) -> None:
        self.begun = False
        self._ranks: Ranks | None = None
        self._distiller: Distillation | None = None
        self._rank = 0
        self._pending: Mapping[str, Any] | None = None

    def begin(self, trainer: Any, distiller: Distillation) -> None:
        """A fit begins, in all processes together."""
        self.begun, self._rank, self._distiller = True, trainer.global_rank, distiller
        self._ranks = Ranks.join(trainer.world_size > 1)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Put back those of this process."""
        states.check(saved)
        self._pending = states.generators_of(saved, self._rank)
        self._set()

    def on_epoch(self, trainer: Any) -> None:
        """The first epoch begins: once more, where another iterator is made now."""
        loop = trainer.fit_loop
        makes_another = not loop.epoch_loop.restarting and not getattr(loop, "is_resuming", False)
        if makes_another and trainer.current_epoch > 0:
            self._set()
        self._pending = None

    def gather(self, mine: Mapping[str, Any]) -> list[Any]:
        """Those of all processes, in their order."""
        return [mine] if self._ranks is None else list(self._ranks.gather(mine))

    def end(self) -> None:
        """The fit has ended."""
        if self._ranks is not None:
            self._ranks.leave()
        self.begun, self._ranks, self._pending = False, None, None

    def _set(self) -> None:
        if self._pending is not None and self._distiller is not None:
            self._distiller.backend.set_rng_state(self._pending)
