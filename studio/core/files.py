"""Opening what somebody else named: a regular file, and without waiting for whatever else stands under that name.

And what a file system is: whether it is a disk of this machine.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from io import BufferedReader
from pathlib import Path

import psutil

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

# File systems behind which another program or machine keeps the files: Google Drive's is "fuse.drive"
_ELSEWHERE = ("fuse", "nfs", "cifs", "smb", "9p", "afs", "davfs", "drvfs", "sshfs", "webdav", "osxfuse", "macfuse")


def open_regular(path: Path, follow: bool = True) -> BufferedReader:
    """Open a regular file for reading bytes. Raises OSError, also for anything but a regular file.

    A FIFO would wait for a writer and a terminal may hand out another one: neither is opened at all. What is put there
    between the look and the opening doesn't make it wait, and is refused by a second look. `follow`: links too.
    """
    _regular(os.stat(path, follow_symlinks=follow).st_mode, path)
    handle = os.open(path, _FLAGS | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    try:
        _regular(os.fstat(handle).st_mode, path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, limit: int | None = None, follow: bool = True) -> bytes:
    """All of a regular file. Raises OSError as `open_regular`, and for one of more than `limit` bytes."""
    with open_regular(path, follow) as file:
        data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def _regular(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Files of these suffixes (in lower case, with the point) below `folder`, in order; letter case doesn't matter.

    Linked folders are followed, each once: a circle of links ends.
    """
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found += [Path(place) / name for name in names if os.path.splitext(name)[1].lower() in suffixes]
    return sorted(found)


def is_text(path: Path) -> bool:
    """Whether a path is text in UTF-8; file systems keep bytes, and nothing can be written about other ones."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def lexically_below(path: Path, folder: Path) -> bool:
    """Whether a path's own spelling, with every `..` taken out, leads below `folder`. Asks no file system.

    So links inside of `folder` may lead where they like: whoever put them there owns it.
    """
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def on_a_local_disk(path: Path) -> bool:
    """Whether what lies there is kept by this machine's own kernel: not on a network folder or a mounted cloud drive.

    Only there processes share memory over a file, as SQLite's write-ahead log needs. True where nothing is known.
    """
    real = Path(os.path.realpath(path))
    mounts = [mount for mount in psutil.disk_partitions(all=True) if real.is_relative_to(mount.mountpoint)]
    if not mounts:
        return True
    mount = max(reversed(mounts), key=lambda each: len(each.mountpoint))  # of two on one place the later one hides
    return not mount.fstype.lower().startswith(_ELSEWHERE) and "remote" not in mount.opts.split(",")
