"""Which writer a studio with these settings has. Knows both of them, so that neither has to know the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio.prompting.writers import OfflineWriter, Writer

if TYPE_CHECKING:
    from studio.core.settings import Settings
    from studio.prompting.lexicon import Lexicon


def make_writer(settings: Settings, lexicon: Lexicon | None = None) -> Writer:
    """The writer for these settings: Claude where a key is there and the studio isn't offline, behind the persistent
    cache; else the offline writer. Requests with `offline=True` never leave the machine either way.
    """
    from studio.prompting.claude import claude_writer  # imports the SDK only when a key is there

    return claude_writer(settings, lexicon) or OfflineWriter(lexicon)
