"""A file or folder that stands in its place whole, or not at all.

Rules: everything is written into a hidden folder beside the place, on the same disk, under its last name, and renamed
when it is finished. What stood in the place before is there until then, and after any error.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdhooks.errors import DataError, UsageError
from kdhooks.export.formats import Format

_SIGN = "saved_model.pb"
"""By which a folder is known as a SavedModel."""


def check_place(path: Path, form: Format) -> None:
    """Refuse a place before any work is done for it.

    Raises:
        UsageError: a folder stands where a file should, or a folder that is no SavedModel where one should.
        DataError: the folder can't be made or written.
    """
    if form.suffix and path.is_dir():
        raise UsageError(f"{path} is a folder: name a file, as in {path / f'student{form.suffix}'}")
    if not form.suffix and path.exists() and not (path.is_dir() and (_is_model(path) or not any(path.iterdir()))):
        what = "a folder with other things in it" if path.is_dir() else "a file"
        raise UsageError(f"{path} is {what}, which a SavedModel would replace: name a folder of its own")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=_prefix(path)):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """Gives the place to write to; what is there at the block's end goes to `path`, and nothing after an error.

    Files that stand beside it under names that begin with its own, as ONNX's external data do, come along.

    Raises:
        DataError: the folder can't be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=_prefix(path)) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            for beside in sorted(Path(folder).glob(f"{path.name}?*")):
                os.replace(beside, path.with_name(beside.name))
            _replace(temporary, path, Path(folder))
    except OSError as error:
        raise _unwritable(path, error) from None


def bytes_of(path: Path) -> int:
    """Of a file with what belongs to it, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path, *path.parent.glob(f"{path.name}.data")]
    return sum(one.stat().st_size for one in files if one.is_file())


def _replace(new: Path, path: Path, aside: Path) -> None:
    if not path.is_dir():
        os.replace(new, path)
        return
    before = aside / f"before {path.name}"  # a folder that is not empty can't be replaced in one step
    os.replace(path, before)
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(before, path)
        raise
    shutil.rmtree(before)


def _is_model(path: Path) -> bool:
    return (path / _SIGN).is_file()


def _prefix(path: Path) -> str:
    return f".{path.name}.tmp"


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} can't be written: {error.strerror or error}")
