"""How many jobs ended how, for the figures of a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Total:
    """Jobs of one kind that ended in one state, since this process began."""

    jobs: int = 0
    seconds: float = 0.0  # from their first turn to their end
    cached: int = 0  # pictures that were there already
