"""Which file system a folder lies on, and whether memory-mapped files are safe there."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/mounts")

_NETWORK = frozenset(
    (
        *(
            "9p",
            "acfs",
            "afs",
            "autofs",
            "beegfs",
            "ceph",
            "cifs",
            "coda",
            "davfs",
            "fhgfs",
            "gfs",
            "gfs2",
            "glusterfs",
        ),
        *("gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs"),
        "wekafs",
    )
)
_LOCAL_FUSE = frozenset({"fuse.ext2", "fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.ntfs", "fuse.ntfs-3g", "fuseblk"})


def network_file_system(folder: Path, mounts: Path | None = None) -> str | None:
    """The kind of the network file system that a folder lies on, or None on a local one.

    Where the system has no list of mounts (macOS, Windows) nothing is known, and None is the answer.

    Args:
        folder: need not exist yet.
        mounts: the list of mounts, in the form of ``/proc/mounts``.
    """
    try:
        text = (mounts or MOUNTS).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    kind = _kind_of(str(folder.resolve()), text)
    remote = kind in _NETWORK or (kind.startswith("fuse") and kind not in _LOCAL_FUSE)
    return kind if remote else None


def _kind_of(folder: str, text: str) -> str:
    """The file system of the deepest mount point above a folder; of two on one point the later one covers."""
    best, kind = -1, ""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), fields[1]).rstrip("/")
        if (folder == point or folder.startswith(f"{point}/")) and len(point) >= best:
            best, kind = len(point), fields[2]
    return kind
