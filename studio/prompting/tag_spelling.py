"""Spellings that only a tag of several parts explains: counts of people, and a colour or an animal beside a part of it.

"1gril" is no word with a digit for a letter, and "blew hair" is two words of English. Here they are read as what they
stand beside. Knows tags and sounds; how sure a reading has to be, `harden` decides.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rapidfuzz.distance import OSA

from studio.prompting import glyphs, keyboard, phonetics
from studio.prompting.vocabulary import listed_words

PEOPLE = ("girl", "boy", "other", "girls", "boys", "others")
_COUNTED = re.compile(r"(\d)(.{2,12})")  # nobody counts beyond "6+girls"
_EXACT = re.compile(r"(\d+)(?:girl|boy|other)s?")

_COLORS = (
    "blue", "red", "green", "brown", "black", "white", "pink", "purple", "grey", "gray", "yellow", "orange", "silver",
    "blonde", "blond", "golden", "gold", "aqua", "teal", "violet", "crimson", "scarlet", "lavender", "amber",
)  # fmt: skip
_ANIMALS = (
    "cat", "dog", "fox", "wolf", "rabbit", "bunny", "bear", "horse", "mouse", "tiger", "cow", "sheep", "elf", "animal",
    "pointy", "kitsune",
)  # fmt: skip
BESIDE: dict[str, tuple[str, ...]] = {
    "hair": (*_COLORS, "long", "short", "medium", "curly", "wavy", "messy"),
    "eyes": (*_COLORS, "closed"),
    "eye": _COLORS,
    "ears": _ANIMALS,
    "ear": _ANIMALS,
    "tail": _ANIMALS,
    "skin": ("dark", "pale", "brown", "tan", "blue", "green", "grey", "red"),
}
_SOUNDS = {"years": "ears", "ayes": "eyes"}  # what is written for the second word
SLIP = 1.9  # cost of a slip (see `keyboard.cost`) up to which a word that is one itself counts as misspelt


def count_of_people(word: str) -> str | None:
    """ "1girl" for "1gril", "2boys" for "2bosy" and "2boy"; `word` itself where it is right; None for everything else.

    >>> count_of_people("1gril"), count_of_people("2girls"), count_of_people("2b")
    ('1girl', '2girls', None)
    """
    match = _COUNTED.fullmatch(word)
    if match is None:
        return None
    number, spelled = match.groups()
    if (exact := _EXACT.fullmatch(word.lower())) is not None:
        return word if exact[1] == "1" or word[-1] in "sS" else word + "s"
    disguised = glyphs.expand(spelled)
    meant = next((people for people in PEOPLE[::-1] if people in disguised), None)
    if meant is None and spelled.isascii() and spelled.isalpha():
        cost, meant = min((_distance(spelled.lower(), people), people) for people in PEOPLE)
        meant = meant if cost <= (1.8 if len(spelled) <= 3 else 2.75) else None
    return None if meant is None else number + meant.removesuffix("s") + ("" if number == "1" else "s")


def _distance(spelled: str, meant: str) -> float:
    """Cost of the slip; another spelling of the same sound is a cheap one."""
    if spelled == meant:
        return 0.0
    edits = OSA.distance(spelled, meant)
    if phonetics.keys(spelled)[0] == phonetics.keys(meant)[0] and edits <= 2 and spelled[0] == meant[0]:
        return 1.0
    if edits > (2 if len(meant) > 3 and len(spelled) > 3 else 1):
        return 9.0
    return keyboard.cost(spelled, meant) if edits == 1 else 2.7


@lru_cache(maxsize=4096)
def beside(first: str, noun: str, is_word: bool) -> tuple[str, float] | None:
    """What `first` stands for in front of `noun`, and how far it is from that: "green" for ("gren", "eyes"), "blue" for
    ("blew", "hair"); up to 2 for a single slip.

    `is_word`: it is right as it stands elsewhere, so that only one slip, or the very sound, may lie between. None
    where it is right, or nothing is near enough, or two things are.
    """
    targets = BESIDE.get(noun, ())
    if (
        not targets
        or first in targets
        or first in listed_words("before_hair.txt")
        or len(first) < 2
        or not first.isalpha()
    ):
        return None
    if not first.isascii():
        return None
    costs: dict[str, float] = {}
    for target in targets:
        edits = OSA.distance(first, target)
        alike = _sound(first) == _sound(target) and edits <= max(2, len(target) // 2)
        if alike:
            costs[target] = 0.8 + 0.1 * edits
        elif edits == 1:
            costs[target] = keyboard.cost(first, target)
        elif not is_word and edits == 2 and min(len(first), len(target)) >= 4:
            costs[target] = 2.6
    if not costs:
        return None
    ranked = sorted(costs, key=lambda target: costs[target])
    best = ranked[0]
    others = [costs[target] for target in ranked[1:] if not {best, target} <= {"grey", "gray", "blond", "blonde"}]
    if is_word and (
        costs[best] > SLIP + (0.6 if best in _COLORS else 0.0) or (others[:1] and others[0] < costs[best] + 0.15)
    ):
        return None
    return (best, costs[best]) if not others or others[0] >= costs[best] + 0.1 else None


def _sound(word: str) -> tuple[str, tuple[str, ...]]:
    word = re.sub("ew$", "ue", word)  # "blew"
    return phonetics.keys(word)[0], phonetics.vowels(word)


def noun_heard(word: str, before: str) -> str | None:
    """ "ears" for "years" behind an animal, "eyes" for "ayes" behind a colour; None for everything else."""
    meant = _SOUNDS.get(word)
    return meant if meant is not None and before in BESIDE[meant] else None
