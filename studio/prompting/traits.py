"""What a person left open about a character, decided once: so that every picture shows the same one.

A model that isn't told the colour of the hair takes another one with every emotion, whatever the seed. Knows words and
a seed, no picture.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from functools import lru_cache

from studio.core.specs import Style
from studio.prompting.lexicon import Lexicon
from studio.prompting.writers import ATTIRE, tags_in

# Groups of the lexicon that make a face somebody's, and common words of each; natural ones are drawn more often.
TRAITS: dict[str, tuple[str, ...]] = {
    "hair_color": (
        "black hair", "brown hair", "blonde hair", "red hair", "pink hair", "blue hair", "purple hair", "white hair",
        "aqua hair", "green hair",
    ),
    "hair_length": ("short hair", "medium hair", "long hair"),
    "eye_color": ("blue eyes", "green eyes", "brown eyes", "red eyes", "purple eyes", "yellow eyes"),
    "skin": ("fair skin", "fair skin", "pale skin", "tan", "brown skin"),
    "hairdo": ("straight hair", "straight hair", "wavy hair", "messy hair", "ponytail", "twintails", "bob cut"),
}  # fmt: skip
# What is worn in a style, by whom: for both, for girls alone.
CLOTHES: dict[Style, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "casual": (("hoodie", "t-shirt", "striped shirt", "sweater"), ()),
    "formal": (
        ("jacket, suit, necktie", "vest, dress shirt, necktie"),
        ("sailor collar, serafuku", "bow, white shirt"),
    ),
    "artistic": (("kimono", "scarf"), ("dress, frills",)),
    "realistic": (("coat", "turtleneck", "t-shirt", "striped shirt"), ()),
}
COLORS = ("black", "white", "red", "blue", "green", "pink", "purple", "yellow", "brown", "grey")
# Another group of the lexicon that says the same.
_SAID_BY = {"hairdo": ("hair_texture",)}
FACE = ("hair_color", "eye_color", "skin")  # what no line of a drawing shows


@lru_cache(maxsize=1)
def _lexicon() -> Lexicon:
    return Lexicon.load()


def decide_traits(
    prompt: str, seed: int, style: Style = "casual", groups: Collection[str] = (*TRAITS, "clothes")
) -> dict[str, str]:
    """What is decided for each of `groups` that `prompt` says nothing about: {group: words}, the same for a seed.

    The words of "clothes" may be several tags with commas between them.
    """
    rng = random.Random(seed)
    tags = [tag for tag in tags_in(prompt, _lexicon()) if tag.name not in ATTIRE]
    said = {tag.group for tag in tags if tag.group} | {"clothes" for tag in tags if tag.category == "clothes"}
    # All of them are drawn, so that one more that is said changes none of the others.
    chosen = {group: rng.choice(words) for group, words in TRAITS.items()}
    both, girls = CLOTHES[style]
    boy = any(tag.name == "1boy" for tag in tags)
    chosen["clothes"] = f"{rng.choice(COLORS)} {rng.choice(both if boy else both + girls)}"
    return {
        group: words
        for group, words in chosen.items()
        if group in groups and not said & {group, *_SAID_BY.get(group, ())}
    }
