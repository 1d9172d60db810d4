"""Requests that are sent again because their answer was lost: their sender names them, and one name is one work.

What is kept is a digest of the request as it was sent, so that one name can't stand for two requests.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from studio.core.errors import BadInput, Busy
from studio.core.specs import Spec

OTHER_REQUEST = "This idempotency key was sent with another request before; take a new one for a new request."
STARTING = "This request is being worked on; send it again in a moment."
STALE = 300.0  # seconds after which a start that told no id has ended with its process


def named_id(owner: str, name: str) -> str:
    """The id of the job that an owner named so, 16 hex digits."""
    return hashlib.sha256(f"{owner}\0{name}".encode(errors="surrogateescape")).hexdigest()[:16]


def request_digest(spec: Spec) -> str:
    """What tells two requests apart: SHA-256 of all fields as they were sent."""
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()


class StartedOnce:
    """Which run was started for a named request: a file each, below the folder of runs, for all processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, name: str, spec: Spec, start: Callable[[], str]) -> str:
        """The id of the run that `start` begins, or of the one that was begun under `name`.

        Raises `BadInput` where another request had this name, `Busy` while it is being started, and what `start` does.
        """
        file, digest = self._folder / f"{name}.json", request_digest(spec)
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                with open(file, "x", encoding="utf-8") as fresh:
                    json.dump({"digest": digest, "id": ""}, fresh)
                break
            except FileExistsError:
                if (id := self._known(file, digest)) is not None:
                    return id
        try:
            id = start()
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        done = file.with_suffix(".tmp")
        done.write_text(json.dumps({"digest": digest, "id": id}), encoding="utf-8")
        os.replace(done, file)
        return id

    def _known(self, file: Path, digest: str) -> str | None:
        try:
            age = time.time() - file.stat().st_mtime
            entry = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:  # being written just now, or cut off by a full disk or the end of its process
            entry = {}
        if entry.get("digest", digest) != digest:
            raise BadInput(OTHER_REQUEST)
        if entry.get("id"):
            return str(entry["id"])
        if age < STALE:
            raise Busy(STARTING)
        with suppress(OSError):
            file.unlink()
        return None
