"""Written prompts that cost money, kept on disk; and what they cost.

One SQLite file for all processes of the studio. It only remembers: a damaged or unwritable file means a miss, never an
error. It doesn't know what a prompt is.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio.core.files import on_a_local_disk

log = logging.getLogger(__name__)

MAX_ROWS = 5000  # about 8 MB; the least recently used go first
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_used ON answers (used);
CREATE TABLE IF NOT EXISTS spent (
    day TEXT NOT NULL, model TEXT NOT NULL, calls INTEGER NOT NULL, tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL, cost_usd REAL NOT NULL, PRIMARY KEY (day, model)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """Calls, tokens and US dollars, summed over all days."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0


class PromptCache:
    """Text by key, bounded in rows, least recently used out first. Safe for threads and processes."""

    def __init__(self, path: Path, max_rows: int = MAX_ROWS) -> None:
        self.path = path
        self.max_rows = max_rows

    def get(self, key: str) -> str | None:
        """The text stored under `key`, or None."""
        with self._guarded(), self._connect() as db:
            row = db.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            db.execute("UPDATE answers SET used = ? WHERE key = ?", (time.time(), key))
            return str(row[0])
        return None

    def put(self, key: str, value: str) -> None:
        """Store `value`, and forget the least recently used rows beyond the bound."""
        with self._guarded(), self._connect() as db:
            db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (key, value, time.time()))
            db.execute(
                "DELETE FROM answers WHERE key IN (SELECT key FROM answers ORDER BY used DESC LIMIT -1 OFFSET ?)",
                (self.max_rows,),
            )

    def add_spent(self, model: str, tokens_in: int, tokens_out: int, cost_usd: float) -> None:
        """Count one call."""
        with self._guarded(), self._connect() as db:
            db.execute(
                "INSERT INTO spent VALUES (?, ?, 1, ?, ?, ?) ON CONFLICT (day, model) DO UPDATE SET calls = calls + 1, "
                "tokens_in = tokens_in + excluded.tokens_in, tokens_out = tokens_out + excluded.tokens_out, "
                "cost_usd = cost_usd + excluded.cost_usd",
                (time.strftime("%Y-%m-%d", time.gmtime()), model, tokens_in, tokens_out, cost_usd),
            )

    def spent(self) -> Usage:
        """Everything counted so far."""
        with self._guarded(), self._connect() as db:
            row = db.execute("SELECT SUM(calls), SUM(tokens_in), SUM(tokens_out), SUM(cost_usd) FROM spent").fetchone()
            return Usage(row[0] or 0, row[1] or 0, row[2] or 0, row[3] or 0.0)
        return Usage()

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """A connection of this call alone, in one transaction: no state is shared between threads."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.path, timeout=5)
        try:
            db.execute(f"PRAGMA journal_mode = {'WAL' if on_a_local_disk(self.path.parent) else 'DELETE'}")
            db.executescript(_SCHEMA)
            with db:
                yield db
        finally:
            db.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            log.warning("the prompt cache at %s failed: %s", self.path, error)
            if "malformed" in str(error) or "not a database" in str(error):
                with contextlib.suppress(OSError):  # another process may have moved it first
                    self.path.replace(self.path.with_suffix(".damaged"))
        except OSError as error:
            log.warning("the prompt cache at %s can't be used: %s", self.path, error)
