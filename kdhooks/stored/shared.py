"""The one store of a run, that all of its teachers share; opened when the first row is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kdhooks.config import DistillationConf
from kdhooks.config.model import CacheSettings
from kdhooks.errors import KDHooksError, MissingPackageError

if TYPE_CHECKING:
    from kdhooks.cache import Codec, Store

Locate = Callable[[str, str, str], KDHooksError]
"""(path below ``distillation.cache``, what is wrong, what to do) -> the error to raise."""

_GIB = 1 << 30


class SharedStore:
    """Where the outputs of a run's teachers are.

    Args:
        settings: ``distillation.cache``.
        locate: makes errors that point at a line of it.

    Attributes:
        strict: whether a store that can't be used is an error; set before it is opened.

    Raises:
        MissingPackageError: a package that a store stands on is not installed.
    """

    def __init__(self, settings: CacheSettings, locate: Locate) -> None:
        from kdhooks.cache import packages as packages  # fails here, and not in the middle of a run

        self.settings, self.locate, self.strict = settings, locate, False
        self._store: Store | None = None
        self._keys: tuple[Any, list[bytes]] | None = None

    @property
    def store(self) -> Store:
        """The store, opened now where it is not."""
        if self._store is None:
            from kdhooks.cache import Store

            settings = self.settings
            bound = max(1, int(settings.size_bound * _GIB))
            self._store = Store(settings.path, size_bound=bound, read_only=settings.read_only, strict=self.strict)
        return self._store

    def keys(self, of: Any, make: Callable[[], list[bytes]]) -> list[bytes]:
        """The keys of a batch, made once for all teachers that get the very same input.

        Args:
            of: the input.
            make: makes them.
        """
        if self._keys is None or self._keys[0] is not of:
            self._keys = of, make()
        return self._keys[1]

    def forget(self) -> None:
        """Let go of the last batch."""
        self._keys = None

    def codec(self, *, logits: bool, pooled: bool = False) -> Codec:
        """How logits, or features, are stored.

        Args:
            logits: which of them.
            pooled: whether they are maps of as many axes as are averaged.
        """
        from kdhooks.cache import Codec

        said = self.settings
        if logits:
            return Codec(said.dtype, said.top_k)
        return Codec(said.feature_dtype or said.dtype, pool=said.pool if pooled else None)

    @property
    def lossy(self) -> bool:
        """Whether outputs come back otherwise than they were computed."""
        said = self.settings
        return said.top_k is not None or {said.dtype, said.feature_dtype or said.dtype} != {"float32"}

    def flush(self) -> None:
        """Write what waits."""
        if self._store is not None:
            self._store.flush()

    def close(self) -> None:
        """Write what waits and let go of the files; a later use opens it again."""
        store, self._store, self._keys = self._store, None, None
        if store is not None:
            store.close()


def shared_store(conf: DistillationConf, *, follows_student: bool) -> SharedStore | None:
    """The store that ``distillation.cache`` asks for, not opened yet; None where there is none.

    Args:
        conf: the configuration.
        follows_student: whether the teacher is an average of the student.

    Raises:
        ConfigError: the teacher changes at every step, or a package is missing.
    """
    settings, path = conf.settings.distillation.cache, "distillation.cache"
    if settings is None:
        return None
    if follows_student:
        message = "a teacher with ema changes at every step, so its outputs can't be stored"
        raise conf.problem(path, message, "Leave cache or distillation.teacher.ema out.", of_key=True)
    try:
        return SharedStore(settings, lambda key, message, advice: conf.problem(f"{path}.{key}", message, advice))
    except MissingPackageError as error:
        raise conf.problem(path, str(error), of_key=True) from None
