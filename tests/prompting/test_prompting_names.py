"""Lower-case names: those that are listed stay as they are, and of those that aren't, nearly all do."""

from __future__ import annotations

import hashlib

import pytest

from studio.prompting.harden import harden
from studio.prompting.lexicon import FOLDER, Lexicon
from studio.prompting.vocabulary import vocabulary_of

LINES = (FOLDER / "given_names.txt").read_text(encoding="utf-8").splitlines()
NAMES = [name for line in LINES if not line.startswith("#") for name in line.split()]


def test_the_list_is_plain() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 600
    assert all(name == name.lower() and name.replace("'", "").isalpha() for name in NAMES)
    tags = Lexicon.load().words
    assert not [name for name in NAMES if name in tags]


@pytest.mark.parametrize("prompt", ["{}", "{}, 1girl, pink hair", "a portrait of {} in the garden"])
def test_listed_names_stay(prompt: str) -> None:
    assert {"mitsuri", "holo", "stelle"} <= set(NAMES)
    assert [name for name in NAMES if harden(prompt.format(name)).changes] == []


def fold(name: str) -> int:
    """Which third a name belongs to, by the name itself: stable when the list grows."""
    return hashlib.sha256(name.encode()).digest()[0] % 3


@pytest.mark.parametrize("prompt", ["{}, 1girl, pink hair", "a portrait of {} in the garden"])
def test_names_that_were_never_listed_are_nearly_always_left_alone(
    prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each third is held out once. What is left are names one slip away from a tag, such as "holo" and "halo"."""
    vocabulary = vocabulary_of(Lexicon.load())
    names, changed = vocabulary.names, []
    for third in range(3):
        held_out = [name for name in NAMES if fold(name) == third]
        monkeypatch.setattr(vocabulary, "names", names - set(held_out))
        assert len(held_out) > 200
        assert not any(map(vocabulary.listed, held_out))
        changed += [name for name in held_out if harden(prompt.format(name)).changes]
    assert len(changed) / len(NAMES) <= 0.05, changed
