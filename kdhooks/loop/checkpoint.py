"""The checkpoint file of a run: written whole or not at all.

Rules: a checkpoint is written to a temporary file of the same folder, forced to the disk, and then put in the
place of the former one, so that a reader sees the one or the other whenever the process or the machine stops.
Only rank 0 writes. Every record is held against its checksum before a single one is used; what a checkpoint
holds is compared with the run that wants to continue before anything is changed.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdhooks.errors import CheckpointError

VERSION = 1
_FORMAT = "kdhooks checkpoint"


class CheckpointFile:
    """One file, a zip archive, that is replaced again and again; backends say how content becomes bytes.

    Args:
        path: of the file; its folder is made when it is first written.

    Attributes:
        keys: what every checkpoint of the backend holds.
    """

    keys: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.tmp")

    def save(self, content: dict[str, Any], file: Any) -> None:
        """Write content into an open binary file, with checksums."""
        raise NotImplementedError

    def load(self, path: Path) -> Any:
        """The content of a file whose checksums are right, without running anything that stands in it."""
        raise NotImplementedError

    def clean(self) -> None:
        """Remove what a killed process may have left of a checkpoint that it was writing."""
        self._temporary.unlink(missing_ok=True)

    def write(self, content: Mapping[str, Any]) -> None:
        """Replace the checkpoint.

        Args:
            content: plain data and tensors only.

        Raises:
            CheckpointError: the folder can't be written; the former checkpoint is still there.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._temporary, "wb") as file:
                self.save({"format": _FORMAT, "version": VERSION, **content}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._temporary, self.path)
            _force_folder(self.path.parent)
        except BaseException as error:
            self._temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise CheckpointError(
                    f"the checkpoint {self.path} can't be written: {error.strerror or error}"
                ) from None
            raise

    def read(self) -> dict[str, Any]:
        """The checkpoint's content, on the CPU.

        Raises:
            CheckpointError: it is missing, damaged, no checkpoint of ours, or of a newer version.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                damaged = archive.testzip()
            if damaged is None:
                content = self.load(self.path)
        except FileNotFoundError:
            raise CheckpointError(f"there is no checkpoint at {self.path}") from None
        except OSError as error:
            raise CheckpointError(f"the checkpoint {self.path} can't be read: {error.strerror or error}") from None
        except Exception:  # whatever a damaged file makes of the readers of zip, pickle and tensors
            raise CheckpointError(f"{self.path} is damaged, or no checkpoint of kdhooks") from None
        if damaged is not None:
            raise CheckpointError(f"the checkpoint {self.path} is damaged: its record {damaged} has another checksum")
        return self._checked(content)

    def _checked(self, content: Any) -> dict[str, Any]:
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise CheckpointError(f"{self.path} is no checkpoint of kdhooks")
        version = content.get("version")
        if not isinstance(version, int) or version > VERSION:
            raise CheckpointError(
                f"the checkpoint {self.path} is of version {version}, and this kdhooks reads up to version {VERSION}: "
                "update kdhooks"
            )
        missing = [key for key in self.keys if key not in content]
        if missing:
            raise CheckpointError(f"the checkpoint {self.path} is damaged: it has no {', '.join(missing)}")
        return content


def _force_folder(folder: Path) -> None:
    """Make the renaming itself last; a system that can't open folders does so by itself."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def check_weights(own: Mapping[str, Any], saved: Mapping[str, Any], path: Path) -> None:
    """CheckpointError where the weights belong to another student; says the first difference of each kind.

    Args:
        own: of the student, by name.
        saved: of the checkpoint, by name.
        path: of the checkpoint.
    """
    differences = [
        *first_of("it has no {}", (name for name in own if name not in saved)),
        *first_of("it has {}, which the student has not", (name for name in saved if name not in own)),
    ]
    for name, value in own.items():
        other: Any = saved.get(name)
        if hasattr(value, "shape") and hasattr(other, "shape") and tuple(value.shape) != tuple(other.shape):
            shapes = f"{list(other.shape)} there and {list(value.shape)} here"
            differences.append(f"{name!r} is of shape {shapes}")
            break
    if differences:
        raise CheckpointError(f"the checkpoint {path} belongs to another student: {'; '.join(differences)}")


def first_of(words: str, names: Iterable[str]) -> list[str]:
    """The words with the first name in them, and how many more there are; nothing where there is none.

    >>> first_of("it has no {}", ["a", "b"])
    ["it has no 'a' and 1 more"]
    """
    found = list(names)
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [words.format(repr(found[0]) + more)] if found else []


def check_processes(size: int, ranks: Any, path: Path) -> None:
    """CheckpointError where the run has another number of processes than the saved one."""
    if len(ranks) != size:
        raise CheckpointError(
            f"the checkpoint {path} was written by {len(ranks)} processes, and this run has {size}: the order of the "
            "data would be another one"
        )
