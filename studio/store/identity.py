"""Whether the database file is still the one that was opened: somebody may restore a back-up over it meanwhile.

SQLite doesn't look: with a write-ahead log it goes on with pages that it knows, and mixes two databases. Every file
that the studio makes has a number of its own in its header (`PRAGMA application_id`).
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

SECONDS = 1.0  # between looks
_HEAD = b"SQLite format 3\0"
_ID = slice(68, 72)  # bytes of `application_id` in the header, big-endian (sqlite.org/fileformat2.html)
_lock = threading.Lock()
# Kept open while anybody here uses the file: POSIX takes back all of a process's locks on a file, SQLite's too, as soon
# as the process closes one descriptor of it.
_open: dict[tuple[int, int], tuple[int, int]] = {}  # by device and inode: descriptor, users


class Identity:
    """One opened database file. Where a system can't tell (Windows), nothing is ever said to be wrong."""

    def __init__(self, path: Path, number: int) -> None:
        self._path, self._number = path, number
        self._looked = time.monotonic()
        self._key: tuple[int, int] | None = None
        if hasattr(os, "pread"):
            with _lock:
                self._key = _key(path)
                handle, users = _open.get(self._key) or (os.open(path, os.O_RDONLY), 0)
                _open[self._key] = (handle, users + 1)

    def replaced(self) -> bool:
        """Whether another file stands there, or other bytes stand in it. Looks once a second at most."""
        if self._key is None or time.monotonic() - self._looked < SECONDS:
            return False
        self._looked = time.monotonic()
        try:
            if _key(self._path) != self._key:
                return True
            head = os.pread(_open[self._key][0], 100, 0)
        except FileNotFoundError:
            return True
        except OSError:
            return False  # the disk is away for a moment: SQLite says more
        written = int.from_bytes(head[_ID], "big")
        # 0: the number is still in the write-ahead log only, or the file is of a version that had none.
        return not head.startswith(_HEAD) or written not in (0, self._number)

    def close(self) -> None:
        if self._key is not None:
            with _lock:
                handle, users = _open[self._key]
                if users > 1:
                    _open[self._key] = (handle, users - 1)
                else:
                    del _open[self._key]
                    os.close(handle)
            self._key = None


def _key(path: Path) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino
