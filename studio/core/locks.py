"""A lock on a file that the system frees however its process ends, on every system.

Where there is `fcntl` it is flock on the file itself, which a child process can take over (`INHERITABLE`). Windows has
no such lock; there it is filelock's, on a file beside, because Windows lets nobody read a locked one.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import TextIO

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

INHERITABLE = fcntl is not None
_LOOKS = 3  # at a lock that only one can hold: others who look have it for microseconds
_PAUSE = 0.01  # seconds


class Lock:
    """Held until `close`, or the end of the process and of those that inherited it."""

    def __init__(self, file: TextIO, beside: FileLock | None = None) -> None:
        self._file, self._beside = file, beside

    def fileno(self) -> int:
        """The descriptor to hand over to a child process, where locks are `INHERITABLE`."""
        return self._file.fileno()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, text: str) -> None:
        """Replace what the file says."""
        self._file.truncate(0)
        self._file.write(text)
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        if self._beside is not None:
            self._beside.release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _beside(path: Path) -> FileLock:
    return FileLock(path.with_name(path.name + ".held"), thread_local=False)


def take(path: Path, patience: float = 0.0) -> Lock | None:
    """Lock `path`, which is made where it isn't there; None where it is held for `patience` seconds longer.

    Raises OSError where it can't be written.
    """
    deadline = time.monotonic() + patience
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - its owner closes it
    try:
        beside = None if INHERITABLE else _beside(path)
        while not _try(file, beside):
            if time.monotonic() >= deadline:
                file.close()
                return None
            time.sleep(_PAUSE)
    except BaseException:
        file.close()
        raise
    return Lock(file, beside)


def _try(file: TextIO, beside: FileLock | None) -> bool:
    try:
        if beside is None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            beside.acquire(blocking=False)
    except (BlockingIOError, Timeout):
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether anybody holds the lock on `path`; not where there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            if INHERITABLE:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
                return False
    except FileNotFoundError:
        return False
    beside = _beside(path)
    for _ in range(_LOOKS):
        try:
            beside.acquire(blocking=False)
        except Timeout:
            time.sleep(_PAUSE)
        else:
            beside.release()
            return False
    return True


def remove(path: Path) -> None:
    """Delete a lock that nobody holds, with the file beside it."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".held").unlink(missing_ok=True)
