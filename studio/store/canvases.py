"""What each person has on the drawing canvas, so that a reload or a restart doesn't wipe it.

One small JSON file per owner, replaced as a whole. Doesn't know what a stroke is.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from studio.core.errors import BadInput
from studio.store.pictures import write_file

MAX_BYTES = 8 * 2**20  # some thousands of strokes


class Canvases:
    """Files in `folder`, named by a digest of the owner (who is opaque and may be anything)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, owner: str) -> Path:
        return self._folder / f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}.json"

    def save(self, data: dict[str, Any], owner: str) -> None:
        """Raises BadInput for more than 8 MB, DiskFull and its kin; what was kept before stays then."""
        text = json.dumps(data)
        if len(text) > MAX_BYTES:
            raise BadInput("The drawing has too many strokes to be kept; clear a part of it.")
        write_file(self._path(owner), text.encode())

    def load(self, owner: str) -> dict[str, Any]:
        """What was saved last; empty where there is nothing (or nothing readable)."""
        try:
            data = json.loads(self._path(owner).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}
