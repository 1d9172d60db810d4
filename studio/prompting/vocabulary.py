"""Words that are right as they stand: the lexicon's, English, names, and the jargon of the field.

The English list is SCOWL's (licence beside the file), with its size classes as a measure of how common a word is:
10 is the commonest few thousand, 70 what a large dictionary has. It knows no word's meaning and no grammar.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache

from rapidfuzz import process
from rapidfuzz.distance import OSA

from studio.prompting.lexicon import FOLDER, WORD, Lexicon

SUGGESTED = 40  # rarer words are known but never suggested
_ENDINGS = ("'s", "s", "ish", "like", "core", "punk", "esque", "themed", "ness", "less", "wear", "style", "est")


class Vocabulary:
    """Membership, commonness, and near words. Built once per lexicon; about 20 MB and 0.2 s."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.tags: dict[str, int] = {w: n for w, n in lexicon.words.items() if w.isalpha() and len(w) > 1}
        self.english, self.names = _english()
        self.names = self.names | listed_words("names.txt") | listed_words("given_names.txt") | lexicon.added_words
        self.jargon = listed_words("jargon.txt")
        self._deletes: dict[str, list[str]] = {}
        for word in self.tags:
            for shorter in {word, *_without_one(word)}:
                self._deletes.setdefault(shorter, []).append(word)

    def known(self, word: str) -> bool:
        """`word` (lower case) needs no correction: it is listed, or a regular form of a common word."""
        if self.listed(word):
            return True
        for ending in _ENDINGS:
            stem = word.removesuffix(ending)
            if stem != word and len(stem) >= 4 and stem[-1] != ending[0] and self._common(stem):
                return True
        return False

    def listed(self, word: str) -> bool:
        """`word` (lower case) stands in one of the lists."""
        return word in self.tags or word in self.english or word in self.names or word in self.jargon

    def compound(self, word: str) -> bool:
        """`word` is two common words in one, as in "catgirl"."""
        return any(self._common(word[:cut]) and self._common(word[cut:]) for cut in range(4, len(word) - 3))

    def _common(self, word: str) -> bool:
        return word in self.tags or self.english.get(word, 99) <= 35

    def near_tags(self, word: str) -> set[str]:
        """Words of the lexicon at one edit (insertion, deletion, substitution, swap of neighbours) and a few at two."""
        near = set(self._deletes.get(word, ()))
        for shorter in _without_one(word):
            near.update(self._deletes.get(shorter, ()))
        return near

    def near_english(self, word: str) -> set[str]:
        """Common English words at one edit that begin with its first or second letter."""
        near: set[str] = set()
        for first in {word[0], word[1]}:
            nearby = process.extract(
                word, self._buckets.get((first, len(word)), ()), scorer=OSA.distance, score_cutoff=1, limit=None
            )
            near.update(match[0] for match in nearby)
        return near

    @cached_property
    def _buckets(self) -> dict[tuple[str, int], list[str]]:
        """Words that may be suggested, by first letter and a length that is at most one off."""
        buckets: dict[tuple[str, int], list[str]] = {}
        for word, size in self.english.items():
            if size <= SUGGESTED:
                for length in range(len(word) - 1, len(word) + 2):
                    buckets.setdefault((word[0], length), []).append(word)
        return buckets

    @cached_property
    def joined(self) -> frozenset[str]:
        """Every phrase of the lexicon as its bare words, "half-closed eyes" as "half closed eyes"."""
        return frozenset(" ".join(WORD.findall(phrase)) for phrase in self.lexicon.studio_phrases)

    @cached_property
    def bracketed(self) -> frozenset[str]:
        """What stands before a bracket and inside in the studio's own tags: both of "watercolor (medium)"."""
        parts = (phrase.rstrip(")").split(" (") for phrase in self.lexicon.studio_phrases if " (" in phrase)
        return frozenset(part for both in parts for part in both)

    @property
    def by_sound(self) -> dict[str, list[str]]:
        """Lexicon and very common English words by phonetic key; made at the first call."""
        return _by_sound(self)


def _without_one(word: str) -> set[str]:
    return {word[:i] + word[i + 1 :] for i in range(len(word))}


@lru_cache(maxsize=2)
def _by_sound(vocabulary: Vocabulary) -> dict[str, list[str]]:
    from studio.prompting.phonetics import keys

    table: dict[str, list[str]] = {}
    english: Iterable[str] = (w for w, size in vocabulary.english.items() if size <= 10)
    for word in dict.fromkeys([*vocabulary.tags, *english]):
        if len(word) > 2:
            for key in keys(word):
                table.setdefault(key, []).append(word)
    return table


@lru_cache(maxsize=1)
def _english() -> tuple[dict[str, int], frozenset[str]]:
    words: dict[str, int] = {}
    names: set[str] = set()
    size = 0
    for line in (FOLDER / "words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            size = 0 if line == "# names" else int(line[2:])
        elif size:
            words[line] = size
        else:
            names.add(line)
    return words, frozenset(names)


@lru_cache(maxsize=4)
def listed_words(name: str) -> frozenset[str]:
    """The words of a text file of the lexicon, in lower case, without its lines of comment."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return frozenset(w for line in lines if not line.startswith("#") for w in WORD.findall(line.lower()))


@lru_cache(maxsize=2)  # the studio's own, and the one with people's tag lists
def vocabulary_of(lexicon: Lexicon) -> Vocabulary:
    """The vocabulary of a lexicon, built once."""
    return Vocabulary(lexicon)
