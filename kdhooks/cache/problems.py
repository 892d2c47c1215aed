"""Why a store cannot be used: one sentence each, of which the messages of this package are made."""

from __future__ import annotations

import errno
import os

from kdhooks.cache.packages import lmdb
from kdhooks.errors import KDHooksError

FOREIGN = "it holds something else, not teacher outputs of kdhooks; name another folder"
DAMAGED = "its file {file} is damaged; delete the folder, and it is filled again"
DAMAGED_AT = "its file {file} is damaged ({what}); delete the folder, and it is filled again"
TRUNCATED = "its file {file} is truncated ({size:,} of {wanted:,} bytes); delete the folder, and it is filled again"
NEWER = (
    "it is of format {found}, of a newer kdhooks, and this one reads {known}; update kdhooks, or name another folder"
)
NETWORK = "it lies on a network file system ({kind}), where mapped files lose rows; name a folder on a local disk"
REMOVED = "it was removed while it was in use"
FULL_BOUND = "it has reached its size bound of {bound:,} bytes"
FULL_DISK = "the disk is full"
SHORT_WRITE = "the disk is full, or fails"  # LMDB makes one error of both
READ_ONLY = "the folder can't be written ({reason})"


_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)


class StoreError(KDHooksError):
    """A store of teacher outputs cannot be read or written; the message says why."""


def reason_of(error: BaseException, file: str = "") -> str:
    """What an error of LMDB or of the system means for a store, as part of a sentence."""
    if isinstance(error, StoreError):
        return str(error)
    if isinstance(error, lmdb.VersionMismatchError):
        return f"its file {file} is of another version of LMDB; delete the folder, and it is filled again"
    if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PanicError)):
        return DAMAGED.format(file=file)
    number = error.errno if isinstance(error, OSError) else _number(error)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return FULL_DISK
    if number == errno.EIO:
        return SHORT_WRITE
    if number in (errno.EROFS, errno.EACCES, errno.EPERM) or isinstance(error, lmdb.ReadonlyError):
        return READ_ONLY.format(reason=os.strerror(number or errno.EROFS))
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


def on_read_only_disk(error: BaseException) -> bool:
    """Whether an error says that the whole file system can't be written."""
    return (error.errno if isinstance(error, OSError) else _number(error)) == errno.EROFS


def _number(error: BaseException) -> int:
    """The system's number of an LMDB error; 0 where it is one of LMDB's own."""
    code = int(getattr(error, "code", 0))
    if code > 0:
        return code
    # Versions of the package that keep no number have the system's words in the message.
    return next((number for number in _SYSTEM if os.strerror(number) in str(error)), 0)
