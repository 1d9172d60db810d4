"""A phonetic key: words that sound alike in English get the same key.

A simplified Metaphone (L. Philips, 1990) that also keeps where vowels stand, because prompts are full of short words
whose consonants alone say too little ("hair", "hero"). It knows spelling rules only, no pronunciation dictionary.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Spelling to sound, applied in order. Upper case marks finished sounds: X = sh, J = soft g, 0 = th, K, S, F ...
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), sound)
    for pattern, sound in (
        (r"[^a-z]", ""),
        (r"^(?:kn|gn|pn)", "n"),
        (r"^wr", "r"),
        (r"^ps", "s"),
        (r"^x", "s"),
        (r"^wh", "w"),
        (r"mb$", "m"),
        (r"(?:ti|ci|si|ssi|sci)(?=on|an|ous|al|en)", "X"),
        (r"sch", "sk"),
        (r"ch(?=[rl])", "k"),
        (r"tch|ch|tsh", "C"),
        (r"sh", "X"),
        (r"ph", "f"),
        (r"gh(?=t|$|s|e?d$)", ""),
        (r"gh", "g"),
        (r"dge?(?=e|i|y|d|$)", "J"),
        (r"g(?=[eiy])", "J"),
        (r"j", "J"),
        (r"qu|kw|cw", "kw"),
        (r"q", "k"),
        (r"x", "ks"),
        (r"sc(?=[eiy])", "s"),
        (r"c(?=[eiy])", "s"),
        (r"ck|c", "k"),
        (r"z", "s"),
        (r"th", "0"),
        (r"wh", "w"),
        (r"(?<=[aeiouy])[hw](?![aeiouy])", ""),
        (r"(?<=[^aeiouyCX])h", ""),
        (r"v", "f"),
        (r"(?<=[^aeiouy])e(?=$|s$|d$)", ""),  # silent e
        (r"d(?=$)", "t"),
        (r"([a-zA-Z])\1+", r"\1"),
        (r"(?<=[^aeiouy])l$", "el"),
    )
)
_VOWELS = re.compile(r"[aeiouy]+[wh]?")
# Vowel spellings by how they mostly sound. What stands in no class is its own.
_CLASSES = {
    spelling: name
    for name, spellings in {
        "a": "a ai ay ae aa ei ey eh ah",
        "e": "e ea ee ie i y igh iy oy uy",
        "o": "o oa oe aw au oh",
        "u": "u oo ue ew ui eu",
        "w": "ou ow",
    }.items()
    for spelling in spellings.split()
}


@lru_cache(maxsize=65536)
def sound(word: str) -> str:
    """The word as sounds: capitals and consonants as in `_RULES`, its vowels still as they were spelled."""
    word = word.lower()
    for pattern, new in _RULES:
        word = pattern.sub(new, word)
    return word


@lru_cache(maxsize=65536)
def keys(word: str) -> tuple[str, ...]:
    """The phonetic key of a word with every vowel as "A", and for longer words the key of its consonants alone.

    "phlower" and "flower" share theirs. Empty parts when the word holds no letters.
    """
    full = _VOWELS.sub("A", sound(word))
    bare = full[:1] + full[1:].replace("A", "")
    return (full, "-" + bare) if len(bare) >= 3 else (full,)


@lru_cache(maxsize=65536)
def vowels(word: str) -> tuple[str, ...]:
    """The classes of its vowels in order: the same for "smile" and "smyle", not for "mako" and "miko"."""
    return tuple("r" if tail else _CLASSES.get(group, group) for group, tail in _GROUPS.findall(sound(word)))


_GROUPS = re.compile(r"([aeiouy]+[wh]?)(r(?![aeiouy]))?")
