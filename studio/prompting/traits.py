"""What a person left open about a character, decided once: so that every picture shows the same one.

A model that isn't told the colour of the hair takes another one with every emotion, whatever the seed. Knows words and
a seed, no picture.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from functools import lru_cache

from studio.core.specs import EMOTIONS, MAX_PROMPT, Style
from studio.prompting.exchange import belonging
from studio.prompting.lexicon import Lexicon, layer_words, normal
from studio.prompting.syntax import segments, strip_weights
from studio.prompting.writers import ATTIRE, tags_in, without_contradicted

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


# --- a character that is kept ---------------------------------------------------------------------------------------

_WHO = frozenset(("subject", "hair", "eyes", "skin", "clothes", "accessory"))  # categories of the lexicon
_PASSING = frozenset(("gaze", "company"))  # groups in them that say what a character does now


@lru_cache(maxsize=1)
def _anybody() -> frozenset[str]:
    """Words that are said of everybody, and those of a mood or a style."""
    data = layer_words()
    usual = {data["subject"]["default"], "original character", "detailed eyes", *data["core"], *data["core_more"]}
    return ATTIRE.union(usual, *(belonging("emotion", emotion) for emotion in EMOTIONS))


def character_in(prompt: str, typed: str = "", lexicon: Lexicon | None = None) -> tuple[str, ...]:
    """The words of a drawn `prompt` that say who is in the picture, in order, each once: face, hair, clothes.

    What a character feels or does, and where, is left out. Of `typed`, the person's own words in it, what stands in no
    word list stays too: a name, perhaps.
    """
    lexicon = lexicon or _lexicon()
    own = {normal(part.text) for part in segments(strip_weights(typed))}
    found: list[str] = []
    for part in segments(strip_weights(prompt)):
        tags = list(tags_in(part.text, lexicon))
        if not tags and normal(part.text) in own:
            found.append(normal(part.text))
        found += [
            tag.name for tag in tags
            if tag.category in _WHO and tag.group not in _PASSING and tag.name not in _anybody()
        ]  # fmt: skip
    return tuple(dict.fromkeys(found))


def with_character(text: str, character: Sequence[str], lexicon: Lexicon | None = None) -> str:
    """`text` with those words of a kept character that it leaves open."""
    lexicon = lexicon or _lexicon()
    said = {normal(part.text) for part in segments(text)} | {tag.name for tag in tags_in(text, lexicon)}
    more = [word for word in without_contradicted(character, text, lexicon) if word not in said]
    joined = ", ".join(filter(None, (text.strip().rstrip(","), *more)))
    return joined if len(joined) <= MAX_PROMPT else text
