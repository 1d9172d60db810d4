"""What a person left open about a character, decided once: so that every picture of a sheet shows the same one.

A model that isn't told the colour of the hair takes another one with every emotion, whatever the seed. Knows words and
a seed, no picture.
"""

from __future__ import annotations

import random
from functools import lru_cache

from studio.prompting.lexicon import Lexicon
from studio.prompting.syntax import segments

# Groups of the lexicon that make a face somebody's, and common words of each; natural ones are drawn more often.
TRAITS: dict[str, tuple[str, ...]] = {
    "hair_color": (
        "black hair", "brown hair", "blonde hair", "red hair", "pink hair", "blue hair", "purple hair", "white hair",
        "aqua hair", "green hair",
    ),
    "hair_length": ("short hair", "medium hair", "long hair"),
    "eye_color": ("blue eyes", "green eyes", "brown eyes", "red eyes", "purple eyes", "yellow eyes"),
    "skin": ("fair skin", "fair skin", "pale skin", "tan", "brown skin"),
}  # fmt: skip


@lru_cache(maxsize=1)
def _lexicon() -> Lexicon:
    return Lexicon.load()


def decide_traits(prompt: str, seed: int) -> tuple[str, ...]:
    """One word for each of `TRAITS` that `prompt` says nothing about; the same ones for the same seed."""
    lexicon, rng = _lexicon(), random.Random(seed)
    tags = [lexicon.find(segment.text.strip()) for segment in segments(prompt)]
    said = {tag.group for tag in tags if tag is not None}
    # All of them are drawn, so that one more that is said changes none of the others.
    chosen = {group: rng.choice(words) for group, words in TRAITS.items()}
    return tuple(word for group, word in chosen.items() if group not in said)
