"""Whose a file is: what one key of the API has trained, no other key finds.

What stands in the studio's folders, and what was made on its pages or at its command line, may be used by everybody who
may use the studio; only whose it is may delete it.
"""

from __future__ import annotations

from pathlib import Path

from studio.core.errors import NotFound
from studio.core.owners import private
from studio.core.settings import Settings
from studio.runs.rundir import RunDir


def theirs(path: Path | None, owner: str, settings: Settings) -> bool:
    """Whether a model or LoRA is the result of a run of another key."""
    if path is None:
        return False
    resolved, runs = path.resolve(), settings.runs_dir.resolve()
    if not resolved.is_relative_to(runs) or resolved == runs:
        return False
    made_by = RunDir(runs / resolved.relative_to(runs).parts[0]).owner()
    return private(made_by) and made_by != owner


def check(path: Path | None, owner: str, settings: Settings, reference: str) -> None:
    """Raises `NotFound` for what is another key's, as if it weren't there."""
    if theirs(path, owner, settings):
        raise NotFound(f"There is no model or LoRA {reference[:80]!r} here.")
