"""Logins that were ended: their cookies are good for nothing any more, although they were signed here.

Kept in one small file, so that a restart and a second server know them too. Knows no password and no page.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path


class EndedLogins:
    """Digests of ended cookies and when they would have ended by themselves (seconds since 1970)."""

    def __init__(self, path: Path | None) -> None:
        """`path`: the file; None: they are known until this process ends."""
        self._path = path
        self._lock = threading.Lock()
        self._read: tuple[int, dict[str, float]] = (-1, {})

    def end(self, cookie: str, days: float) -> None:
        """Never take this cookie again. Raises OSError where that can't be written down."""
        with self._lock:
            known = {name: until for name, until in self._known().items() if until > time.time()}
            known[_digest(cookie)] = time.time() + days * 86400
            if self._path is None:
                self._read = (-1, known)
                return
            draft = self._path.with_name(f".ended.{os.getpid()}.{secrets.token_hex(4)}")
            draft.write_text(json.dumps(known), encoding="utf-8")
            os.replace(draft, self._path)

    def __contains__(self, cookie: str) -> bool:
        with self._lock:
            return _digest(cookie) in self._known()

    def _known(self) -> dict[str, float]:
        """What the file says; read again when another server has changed it."""
        with suppress(OSError, ValueError, TypeError):
            if self._path is None:
                return self._read[1]
            changed = self._path.stat().st_mtime_ns
            if changed != self._read[0]:
                self._read = (changed, dict(json.loads(self._path.read_text(encoding="utf-8"))))
        return self._read[1]


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
