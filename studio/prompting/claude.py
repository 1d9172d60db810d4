"""Prompts written by Claude (being written)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.prompting.writers import Writer
    from studio.settings import Settings


def claude_writer(settings: Settings) -> Writer | None:
    """The Claude writer, or None where no key is set or the studio is offline."""
    return None
