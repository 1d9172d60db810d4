"""Keys of the HTTP API: who has one, until when. Only digests are kept, so that whoever reads the database has no key.

A key is 32 random bytes, which nobody guesses: one round of SHA-256 hides it as well as a slow hash would.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Any

from studio.core.errors import BadInput, NotFound
from studio.core.owners import KEY
from studio.core.views import KeyView
from studio.store.database import Database

START = "studio_"  # so that a key that was left lying about is known for one
LONGEST_NAME = 64


class Keys:
    """The keys of one home."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, name: str, days: float | None = None, per_minute: int | None = None, per_day: int | None = None
    ) -> str:
        """A new key, which is told this once. Keys of one name are one owner's. Raises `BadInput`.

        `days`: how long it is good for; None: until it is revoked. `per_minute`: requests that it may send; `per_day`:
        pictures that its owner may have drawn in 24 hours. 0: any number; None: as the settings say.
        """
        name = " ".join(name.split())
        if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
            raise BadInput(f"A key needs a name of at most {LONGEST_NAME} characters: whose it is.")
        if days is not None and not 0 < days <= 36500:
            raise BadInput("A key is good for more than 0 and at most 36500 days.")
        if any(limit is not None and not 0 <= limit <= 10**9 for limit in (per_minute, per_day)):
            raise BadInput("A limit is a number from 0 (none) to 1,000,000,000.")
        key = START + secrets.token_urlsafe(32)
        now = time.time()
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO keys (digest, name, created, expires, per_minute, per_day) VALUES (?, ?, ?, ?, ?, ?)",
                (_digest(key), name, now, None if days is None else now + days * 86400, per_minute, per_day),
            )
        return key

    def list(self) -> list[KeyView]:
        """All keys, the newest first; those that are over too."""
        return [_view(row) for row in self._database.rows("SELECT * FROM keys ORDER BY created DESC")]

    def revoke(self, name: str) -> int:
        """End all keys of this name, or the one whose id this is; how many. Raises `NotFound`."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE keys SET revoked = ? WHERE revoked IS NULL AND (name = ? OR substr(digest, 1, 8) = ?)",
                (time.time(), name, name),
            ).rowcount
        if not changed:
            raise NotFound(f"There is no key {name[:80]!r} that could be revoked.")
        return int(changed)

    def find(self, key: str) -> KeyView | None:
        """What is known of a key; None for none, and for one that is over."""
        if not key.startswith(START):
            return None
        rows = self._database.rows("SELECT * FROM keys WHERE digest = ?", _digest(key))
        return view if rows and (view := _view(rows[0])).state == "valid" else None

    def owner(self, key: str) -> str | None:
        """Whose key this is; None for none, and for one that is over."""
        view = self.find(key)
        return owner_of(view.name) if view else None

    def per_day(self, owner: str) -> int | None:
        """How many pictures this owner may have drawn in a day, as the newest of their keys says."""
        return next((key.per_day for key in self.list() if key.state == "valid" and owner_of(key.name) == owner), None)

    def any(self) -> bool:
        """Whether there was ever a key: then nobody comes in without one."""
        return bool(self._database.rows("SELECT 1 FROM keys LIMIT 1"))


def owner_of(name: str) -> str:
    """The owner that all keys of this name stand for."""
    return KEY + hashlib.sha256(f"name:{name}".encode()).hexdigest()[:24]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def _view(row: Any) -> KeyView:
    over = row["expires"] is not None and row["expires"] <= time.time()
    return KeyView(
        id=row["digest"][:8],
        name=row["name"],
        created=row["created"],
        expires=row["expires"],
        per_minute=row["per_minute"],
        per_day=row["per_day"],
        state="revoked" if row["revoked"] else "expired" if over else "valid",
    )
