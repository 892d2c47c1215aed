"""What blocks of earlier candidates have learned, on disk, for later candidates with blocks of the same shape.

Rules: a file is written whole or not at all, when its candidate is done, and never again: the first candidate's block
is what all later ones begin with, so what a candidate begins with does not depend on how often its neighbours were
trained. A candidate never reads what it has written itself, so that one that was killed between writing and being
recorded comes to the same result when it is trained once more. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from kdhooks.backend import Backend
from kdhooks.criterion import teachers_by_name
from kdhooks.errors import DataError
from kdhooks.messages import logger
from kdhooks.stored.functions import function_digest

Arrays = Mapping[str, NDArray[Any]]

_VERSION = 1
_NOTE = "note"
_FINGERPRINTS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


class BlockBank:
    """A folder with the weights of blocks.

    Args:
        folder: made when something is written.
        writer: who writes, a candidate's key for instance; blocks of the same writer are not read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> first = BlockBank(folder, "a")
        >>> first.keep("layer1-0123", {"weight": np.ones(2)}, {"loss": 0.5})
        >>> first.commit()
        1
        >>> BlockBank(folder, "b").read("layer1-0123")
        {'weight': array([1., 1.])}
    """

    def __init__(self, folder: str | Path, writer: str = "") -> None:
        self.folder, self.writer = Path(folder), writer
        self._waiting: dict[str, tuple[dict[str, NDArray[Any]], dict[str, Any]]] = {}

    def read(self, key: str) -> dict[str, NDArray[Any]] | None:
        """The weights of a block by name; None where nobody else has written it, or its file is damaged."""
        path = self._path(key)
        try:
            with open(path, "rb") as opened:  # NumPy leaves a damaged file open
                file = np.load(opened, allow_pickle=False)
                note = json.loads(bytes(file[_NOTE]).decode())
                if note["version"] != _VERSION or note["writer"] == self.writer != "":
                    return None
                return {name: file[str(place)] for place, name in enumerate(note["names"])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("the block %s is left out, since its file is damaged: %s", path, error)
            return None

    def keep(self, key: str, arrays: Arrays, note: Mapping[str, Any] | None = None) -> None:
        """Hold the weights of a block until `commit`.

        Args:
            key: of `block_key`.
            arrays: by name.
            note: plain data that says where they come from.
        """
        self._waiting[key] = dict(arrays), dict(note or {})

    def commit(self) -> int:
        """Write what is held and is not there yet; returns how many blocks were written.

        Raises:
            DataError: the folder can't be written.
        """
        waiting, self._waiting = self._waiting, {}
        try:
            return sum(self._write(self._path(key), *held) for key, held in waiting.items())
        except OSError as error:
            raise DataError(f"blocks can't be written to {self.folder}: {error.strerror or error}") from None

    def discard(self) -> None:
        """Forget what is held: the candidate has failed."""
        self._waiting = {}

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    def _write(self, path: Path, arrays: dict[str, NDArray[Any]], note: dict[str, Any]) -> bool:
        if path.exists():
            return False
        said = {"version": _VERSION, "writer": self.writer, "names": list(arrays), **note}
        content = {str(place): array for place, array in enumerate(arrays.values())}
        content[_NOTE] = np.frombuffer(json.dumps(said).encode(), np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                np.savez(file, **content)  # type: ignore[arg-type,unused-ignore]
                file.flush()
                os.fsync(file.fileno())
            return _put(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _put(temporary: Path, path: Path) -> bool:
    """Give a whole file its name, unless somebody was quicker."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        os.replace(temporary, path)
    return True


def block_key(backend: Backend, student: Any, block: str, teacher: Any, trained: Mapping[str, Any]) -> str:
    """What a block of a student is found by: its name, and a digest of all that its weights depend on but the seed.

    Args:
        backend: of both models.
        student: whose block it is.
        block: the layer's name.
        teacher: that it learned from; it does not change any more.
        trained: plain data and functions: how it is trained.
    """
    state = backend.block(student, block)
    teachers = {name: _fingerprint(backend, one) for name, one in teachers_by_name(teacher).items()}
    parts = [f"blocks {_VERSION}", backend.name, state.name, state.structure, told(trained), told(teachers)]
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', state.name)[:80] or 'root'}-{digest}"


def told(value: Any) -> str:
    """Settings as text: mappings in the order of their keys, functions by what they do.

    >>> told({"b": (1, None), "a": True})
    '{"a": true, "b": [1, null]}'
    """
    return json.dumps(value, sort_keys=True, default=_told)


def _told(value: Any) -> Any:
    function: Callable[..., Any] = value
    return function_digest(function) if callable(value) else repr(value)


def _fingerprint(backend: Backend, teacher: Any) -> str:
    if teacher not in _FINGERPRINTS:
        _FINGERPRINTS[teacher] = backend.fingerprint(teacher)
    return _FINGERPRINTS[teacher]
