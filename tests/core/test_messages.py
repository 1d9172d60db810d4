"""Catalogues hold what is said, all of it and nothing else, with the same placeholders."""

from __future__ import annotations

from pathlib import Path
from string import Formatter

import polib
import pytest
from support.messages import gathered

from studio.core import i18n

CATALOGUES = sorted(i18n.LOCALE.glob("*/messages.po"))


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.parent.name)
def test_a_catalogue_holds_every_message_and_no_other(path: Path) -> None:
    """What to do where this fails: `make messages`, then translate what is without a translation."""
    entries = {(entry.msgctxt or "", entry.msgid): entry for entry in polib.pofile(str(path))}
    assert sorted(gathered().keys() - entries.keys()) == []
    assert sorted(entries.keys() - gathered().keys()) == []
    assert [key for key, entry in entries.items() if not entry.translated()] == []


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.parent.name)
def test_translations_fill_in_the_same_places(path: Path) -> None:
    for entry in polib.pofile(str(path)):
        for text in entry.msgstr_plural.values() if entry.msgid_plural else [entry.msgstr]:
            assert placeholders(text) == placeholders(entry.msgid_plural or entry.msgid), entry.msgid
