"""Phrases that say two things about hair become the tags that a model was trained with."""

from __future__ import annotations

import pytest

from studio.prompting.lexicon import Lexicon
from studio.prompting.phrases import split_hair_phrases
from studio.prompting.writers import OfflineWriter, PromptRequest

LEXICON = Lexicon.load()


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("pink twintails, green eyes", "pink hair, twintails, green eyes"),
        ("1girl, long pink hair", "1girl, long hair, pink hair"),
        ("Short light brown bob cut", "short hair, light brown hair, bob cut"),
        # a tag of its own, something else in it, a weight: as it was typed
        ("low twintails, blonde hair", "low twintails, blonde hair"),
        ("pink ribbon twintails", "pink ribbon twintails"),
        ("(pink twintails:1.2), <lora:pink twintails:1>", "(pink twintails:1.2), <lora:pink twintails:1>"),
        ("a girl with pink hair, , ", "a girl with pink hair, , "),
    ],
)
def test_what_is_taken_apart_and_what_stays(typed: str, written: str) -> None:
    assert split_hair_phrases(typed, LEXICON)[0] == written
    assert split_hair_phrases(written, LEXICON) == (written, {})  # once is enough


def test_the_writer_says_so() -> None:
    said = OfflineWriter().write(PromptRequest(emotion="happy", style="casual", text="pink twintails"))
    assert {"pink hair", "twintails"} <= set(said.positive_prompt.split(", "))
    assert "'pink twintails' is written as tags: pink hair, twintails." in said.notes
