"""Undo typos, look-alike glyphs, sound-alikes and invisible characters in a prompt, and nothing else.

Gao et al. (2306.13103) show that one such mistake changes the picture. Each word is read, in this order, as itself,
as look-alikes of a known word, as a slip of the keyboard, and as a word of the same sound; a reading is taken only
when it clearly beats the next one, so names, trigger words and rare words stay. It suggests: what is done with the
suggestion is the page's business. It doesn't know what a sentence means, and a slip that gives another English word
is left alone.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from rapidfuzz.distance import OSA

from studio.prompting import glyphs, keyboard, phonetics
from studio.prompting.copied import copied_spans
from studio.prompting.lexicon import Lexicon
from studio.prompting.syntax import protected_spans
from studio.prompting.tag_spelling import BESIDE, SLIP, beside, count_of_people, noun_heard
from studio.prompting.vocabulary import Vocabulary, vocabulary_of

Kind = Literal["invisible", "width", "glyph", "typo", "phonetic"]

# Tuned on two thirds of the lexicon's phrases (benchmarks/prompting.py holds out the rest).
ACCEPT = {2: 3.2, 3: 2.6, 4: 2.0, 5: 1.5}  # score that a reading needs, by the letters of the word
ACCEPT_LONG = 1.2
MARGIN = 0.45  # by which it must beat the next word
ALONE = 1.2  # taken off an English word that no tag has, unless it stands in a sentence
LITTLE = 0.8  # added to the small words of a sentence
PHRASE, PAIR, TAG = 3.5, 2.0, 1.5  # added when the words around make a tag of it, when they often stand beside it
FOREIGN = 0.8  # by which a reading has to be better for each word beside it that none is known for
LONGEST = 32  # letters of a word that is still looked at
_PRIOR = {10: 2.6, 20: 2.0, 35: 1.0, 40: 0.4}  # of English words, by SCOWL's size class
# Words that a sentence is held together by: typed often, mistyped often.
_LITTLE = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "beside", "by", "for", "from", "has", "have", "he", "her", "his", "in",
    "into", "is", "it", "its", "like", "looking", "near", "no", "not", "of", "off", "on", "one", "or", "over", "she",
    "some", "that", "the", "their", "them", "then", "there", "they", "this", "through", "to", "two", "under", "very",
    "was", "wearing", "while", "who", "with", "without", "you", "your",
))  # fmt: skip
_PEOPLE = frozenset(("girl", "boy", "man", "woman", "character", "anime", "person", "face"))
# Two spellings of one word: neither makes the other doubtful.
_SAME = {"grey": "gray", "colour": "color", "coloured": "colored", "colourful": "colorful", "armour": "armor"}

_TOKEN = re.compile(r"[^\s,;:|()\[\]{}<>\"“”„«»「」『』、，。/\\=+*~^`´&#%…?_.\-–—]+")
_FULL_WIDTH = {chr(c): chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)} | {"\u3000": " "}
_FULL_WIDTH_WORD = re.compile(r"[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]+(?![぀-ヿ一-鿿])")
_ROMAN = re.compile(r"x{0,2}(?:ix|iv|v?i{1,3}|v)?(?<=..)")  # the numbers of titles, "ii" to "xxviii"
_SPACES = frozenset("\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f")


@dataclass(frozen=True, slots=True)
class Change:
    """One correction. `source == text[start:end]` of the text as typed; `confidence` is 0 to 1."""

    start: int
    end: int
    source: str
    target: str
    kind: Kind
    confidence: float


@dataclass(frozen=True, slots=True)
class Hardened:
    """The corrected text and its corrections in order; equal to the input when there are none."""

    text: str
    changes: tuple[Change, ...]


_Choice = tuple[float, str, Kind]  # score, word, kind


@dataclass(slots=True)
class _Word:
    start: int
    end: int
    source: str
    plain: str  # lower case, without invisible characters
    opening: bool  # first of its sentence: a capital says nothing
    segment: int
    choices: list[_Choice]  # best first
    copied: bool = False  # part of a tag that wasn't typed: only disguises are taken off
    joined: bool = False  # behind a hyphen, as in "tied-back"


def harden(text: str, protected: Sequence[str] = (), lexicon: Lexicon | None = None) -> Hardened:
    """Correct `text`. Words in `protected` (trigger words, names) and everything that is syntax stay as they are.

    Any string is accepted; time grows with its length (about 0.1 ms a wrong word).
    """
    vocabulary = vocabulary_of(lexicon or Lexicon.load())
    closed = protected_spans(text, protected)
    plain = _narrow(text)  # as long as `text`
    words = _words(plain, closed, vocabulary)
    changes = _characters(text, plain, closed, {i for word in words for i in range(word.start, word.end)})
    changes += [
        Change(change.start, change.end, text[change.start : change.end], change.target, change.kind, change.confidence)
        for change in _decide(words, vocabulary)
    ]
    changes += [
        Change(word.start, word.end, source, "".join(c for c in word.source if c not in glyphs.INVISIBLE), "width", 1.0)
        for word in words
        if (source := text[word.start : word.end]) != word.source and not _within(word.start, word.end, closed)
    ]
    changes.sort(key=lambda change: (change.start, -change.end, change.kind == "width"))
    return apply(text, changes)


def _narrow(text: str) -> str:
    """`text` with full-width letters, digits and signs as ASCII, character by character; in Japanese whole words."""
    if text.isascii():
        return text
    if any("\u3040" <= c <= "\u30ff" or "\u4e00" <= c <= "\u9fff" for c in text):
        return _FULL_WIDTH_WORD.sub(lambda run: "".join(_FULL_WIDTH[c] for c in run.group()), text)
    return "".join(_FULL_WIDTH.get(c, c) for c in text)


def apply(text: str, changes: Sequence[Change]) -> Hardened:
    """`text` with these changes made, for a page on which some were refused."""
    parts: list[str] = []
    kept: list[Change] = []
    position = 0
    for change in sorted(changes, key=lambda change: (change.start, -change.end)):
        if change.start < position:
            continue  # inside a word that is changed as a whole
        parts += [text[position : change.start], change.target]
        position = change.end
        kept.append(change)
    return Hardened("".join([*parts, text[position:]]), tuple(kept))


def _characters(text: str, plain: str, closed: Sequence[tuple[int, int]], in_words: Set[int]) -> list[Change]:
    """Single characters that never belong in a prompt: invisible ones, odd blanks, full-width brackets and commas.

    `plain` is the text without full-width characters; those at the places `in_words` are changed with their words.
    """
    if text.isascii():
        return [Change(i, i + 1, c, " ", "invisible", 1.0) for i, c in enumerate(text) if c < " " and c not in "\n\t\r"]
    changes = []
    for i, char in enumerate(text):
        if char.isascii() and (char >= " " or char in "\n\t\r"):
            continue
        if _within(i, i + 1, closed) and char not in glyphs.INVISIBLE:
            continue
        if char in glyphs.INVISIBLE:
            if char not in glyphs.JOINERS or not _joins(text, i):
                changes.append(Change(i, i + 1, char, "", "invisible", 1.0))
        elif char in _SPACES:
            changes.append(Change(i, i + 1, char, " ", "width", 1.0))
        elif plain[i] != char and i not in in_words:
            changes.append(Change(i, i + 1, char, plain[i], "width", 1.0))
        elif unicodedata.category(char) == "Cc":
            changes.append(Change(i, i + 1, char, " ", "invisible", 1.0))
    return changes


def _joins(text: str, i: int) -> bool:
    """A joiner between two characters that need it: emoji, Arabic and Indic letters; never beside ASCII."""
    before, after = text[i - 1 : i], text[i + 1 : i + 2]
    if text[i] in "\ufe0e\ufe0f":
        return bool(before) and unicodedata.category(before)[0] in "SN"
    return bool(before and after) and not before.isascii() and not after.isascii() and not _latin(before)


def _latin(char: str) -> bool:
    return char.isascii() or unicodedata.name(char, "").startswith(("LATIN", "FULLWIDTH", "CYRILLIC", "GREEK"))


def _within(start: int, end: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(a < end and start < b for a, b in spans)


def _words(text: str, closed: Sequence[tuple[int, int]], vocabulary: Vocabulary) -> list[_Word]:
    """Every word with its readings; those of correct words are empty."""
    words: list[_Word] = []
    segment, last, opening = 0, 0, True
    foreign = _foreign(text)
    copied = copied_spans(text, vocabulary.bracketed)
    for match in _TOKEN.finditer(text):
        between = text[last : match.start()]
        if any(c in ",;|\n、，()[]{}" for c in between):
            segment += 1
        opening = not words or any(c in ".!?\n。" for c in between)
        last = match.end()
        start, end = match.span()
        source = match.group()
        trimmed = source.rstrip("'’!")
        trimmed = (trimmed[:-2] if trimmed[-2:].lower() in ("'s", "’s") else trimmed).lstrip("'’")
        start += source.index(trimmed) if trimmed else 0
        end = start + len(trimmed)
        last = max(last, end)
        if not trimmed or _within(start, end, closed):
            words.append(_Word(start, end, trimmed, trimmed.lower(), opening, segment, [], copied=True))
            continue
        plain = trimmed.lower() if trimmed.isascii() else glyphs.unmarked(trimmed).lower()
        word = _Word(start, end, trimmed, plain.replace("’", "'"), opening, segment, [])
        word.copied, word.joined = _within(start, end, copied), between.endswith("-")
        if not _correct(word, vocabulary):
            word.choices = _readings(word, vocabulary, foreign)
        words.append(word)
    return words


def _foreign(text: str) -> bool:
    """Some words are really Cyrillic or Greek: they hold letters that look like no Latin one."""
    return any(c in "джлцщэюйзїђљњћџγδθλξπσςφψ" for c in text.lower()) if not text.isascii() else False


def _correct(word: _Word, vocabulary: Vocabulary) -> bool:
    plain, source = word.plain, word.source
    if len(source) < 2 and not (source and not source.isascii()):
        return True
    if _ROMAN.fullmatch(plain):
        return True
    if not any(c.isalpha() or (not c.isascii() and glyphs.readings(c)) for c in plain):
        return True
    if not source.isascii() or _odd_capital(source):
        return False
    if plain.isalpha() or "'" in plain:
        return vocabulary.known(plain)
    return not _leet(plain) or vocabulary.known(plain)


def _odd_capital(source: str) -> bool:
    """A capital I stands where a small L is meant, inside or before small letters."""
    return bool(re.search(r"[a-z]I|^I[a-z]", source))


def _leet(plain: str) -> bool:
    return any(c.isalpha() for c in plain) and any(c in "0123456789@$!" for c in plain)


def _readings(word: _Word, vocabulary: Vocabulary, foreign: bool) -> list[_Choice]:
    source, plain = word.source, word.plain
    if len(plain) > LONGEST or (word.copied and source.isascii()):
        return []
    people = count_of_people(glyphs.unmarked(source))
    if people == source:
        return []
    if people is not None and not (source.isascii() and (matches := _folded(word, vocabulary)) and matches[0][0] > 6):
        return [(9.0, people, "typo" if source.isascii() else "glyph")]
    if plain.isascii() and not source.isascii() and vocabulary.known(plain):
        return [(9.0, plain, "invisible")]  # only marks and invisible characters were in the way
    if any(_han(c) for c in plain if not c.isascii()):
        return []
    if vocabulary.listed(source.lower()) and not _odd_capital(source):
        return []
    if foreign and not any(c.isascii() or _full(c) for c in plain):
        return []  # a word of another language
    folded = _folded(word, vocabulary)
    if not plain.isascii() or not plain.isalpha() or _odd_capital(source):
        if folded or plain.isascii():
            return folded
        # a slip beside a look-alike: go on with its plainest reading
        options = [w for w in glyphs.expand(plain) if w.isalpha() and w.isascii()]
        if not options or word.copied or _spelled_so(source):
            return []
        return [(score - 0.8, target, "glyph") for score, target, _ in _slips(options[0], vocabulary)]
    if source[0].isupper() and not source.isupper():
        return []  # a name
    if any(c.isupper() for c in source[1:]) and (not source.isupper() or len(source) <= 5):
        return []  # a code or an abbreviation
    slips = _slips(plain, vocabulary)
    if folded:
        known = {target for _, target, _ in folded}
        slips = sorted([*folded, *(slip for slip in slips if slip[1] not in known)], reverse=True)[:6]
    if vocabulary.compound(plain):
        slips = [(score - 1.5, target, kind) for score, target, kind in slips]
    return slips


def _spelled_so(source: str) -> bool:
    """Letters with the accents of European languages and nothing stranger: a name or a loan word, not an attack."""
    return all(c.isascii() or "\u00c0" <= c <= "\u024f" or "\u1e00" <= c <= "\u1eff" for c in source)


def _full(char: str) -> bool:
    return "\uff01" <= char <= "\uff5e" or "\U0001d400" <= char <= "\U0001d7ff"


def _han(char: str) -> bool:
    return unicodedata.name(char, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL"))


def _folded(word: _Word, vocabulary: Vocabulary) -> list[_Choice]:
    """Known words that look like this one."""
    plain = word.plain
    if len(plain) == 1:
        return [(9.0, "a", "glyph")] if "a" in glyphs.readings(plain) and not _spelled_so(plain) else []
    scores: dict[str, float] = {}
    strange = not plain.isascii()
    for rank, reading in enumerate(glyphs.expand(glyphs.unmarked(word.source))):
        if glyphs.UNKNOWN in reading:
            for option in _fill(reading, vocabulary):
                scores[option] = max(scores.get(option, -9.0), 3.0 + _prior(option, vocabulary))
        elif reading != plain and vocabulary.listed(reading):
            common = reading in vocabulary.tags or vocabulary.english.get(reading, 99) <= 35
            if strange and not common and (_spelled_so(word.source) or word.source[0].isupper()):
                continue  # "Kraków", "Nguyễn"
            if strange or _leet(plain) or _odd_capital(word.source):
                weight = 6.0 if common else 2.0
            else:
                weight = 0.22 * min(len(plain), 10) - 1.7 * 1.1  # "rn" for "m" may as well be a slip
            scores[reading] = max(scores.get(reading, -9.0), weight + _prior(reading, vocabulary) - 0.02 * rank)
    if not strange and _leet(plain) and not _trustworthy_leet(plain, scores):
        return []
    return sorted(((score, option, "glyph") for option, score in scores.items()), reverse=True)


def _trustworthy_leet(plain: str, readings: dict[str, float]) -> bool:
    """Digits for letters: believable inside a word of some length, not in codes such as "v2", "ch4r" or "4k"."""
    letters = sum(c.isalpha() for c in plain)
    return bool(readings) and letters >= 2 and letters >= len(plain) / 2 and len(plain) >= 3


def _fill(pattern: str, vocabulary: Vocabulary) -> list[str]:
    """Lexicon words that fit a reading with unknown letters."""
    if pattern.count(glyphs.UNKNOWN) > max(1, len(pattern) // 3):
        return []
    regex = re.compile(pattern.replace(glyphs.UNKNOWN, "."))
    return [w for w in vocabulary.tags if len(w) == len(pattern) and regex.fullmatch(w)]


def _prior(word: str, vocabulary: Vocabulary) -> float:
    """How likely a word is in a prompt, as a log-score."""
    if word in _LITTLE:
        return 4.2
    if word in _PEOPLE:
        return 3.4
    count = vocabulary.tags.get(word)
    english = _PRIOR.get(vocabulary.english.get(word, 99), 0.0)
    if count is None:
        return english - ALONE
    return max(english, 2.2 + 0.35 * math.log(1 + min(count, 40)))


@lru_cache(maxsize=4096)
def _slips(plain: str, vocabulary: Vocabulary) -> list[_Choice]:
    """Words that `plain` can be a slip or another spelling of, best first, scored without their neighbours."""
    if len(plain) < 2 or len(plain) > 24 or not plain.isalpha():
        return []
    length = 0.22 * min(len(plain), 10)
    best: dict[str, tuple[float, Kind]] = {}
    for other in {*vocabulary.near_tags(plain), *vocabulary.near_english(plain)}:
        if len(other) > 1:
            slip = keyboard.cost(plain, other)
            best[other] = (_prior(other, vocabulary) + length - 1.7 * slip, "typo")
    spoken = phonetics.vowels(plain)
    for rank, key in enumerate(phonetics.keys(plain)):
        for other in vocabulary.by_sound.get(key, ()):
            distance = OSA.distance(plain, other)
            if distance <= max(2, len(other) // 2):
                sounds = phonetics.vowels(other)
                if plain[0] in "aeiou" and spoken[:1] != sounds[:1]:
                    continue
                missed = OSA.distance(spoken, sounds) + (0.9 if len(plain) <= 4 else 0.0)
                score = _prior(other, vocabulary) + length - (1.0, 1.4)[rank] - 0.5 * distance - 1.1 * missed
                if score > best.get(other, (-9.0, "typo"))[0]:
                    best[other] = (score, "phonetic")
    ranked = sorted(((score, other, kind) for other, (score, kind) in best.items()), reverse=True)
    return ranked[:6]


def _decide(words: list[_Word], vocabulary: Vocabulary) -> list[Change]:
    """Weigh each word's readings with its neighbours and take the clear ones."""
    changes: list[Change] = []
    segments: dict[int, list[_Word]] = {}
    for word in words:
        segments.setdefault(word.segment, []).append(word)
    for members in segments.values():
        sentence = len(members) >= 4 and sum(word.plain in _LITTLE for word in members) >= 2
        _read_beside(members, sentence, vocabulary)
        if not any(word.choices for word in members):
            continue
        unread = [word for word in members if not word.choices and not _correct(word, vocabulary)]
        strange = len(unread)  # one is a name, several are another language
        for index, word in enumerate(members):
            if word.choices:
                scored = sorted(
                    (
                        (score + _context(members, index, target, sentence, vocabulary), target, kind)
                        for score, target, kind in word.choices
                    ),
                    reverse=True,
                )
                _take(word, scored, FOREIGN * max(0, min(3, strange - 1)), changes)
    return changes


def _read_beside(members: list[_Word], sentence: bool, vocabulary: Vocabulary) -> None:
    """Give words in front of "hair", "eyes", "ears" and the like the reading that their neighbour explains."""
    for index, (word, after) in enumerate(itertools.pairwise(members)):
        if word.copied or word.joined or after.copied or not word.plain.isascii():
            continue
        if word.source[:1].isupper() != word.source.isupper():  # a name
            continue
        if (noun := noun_heard(after.plain, word.plain)) is not None and not after.choices:
            after.choices = [(9.0, noun, "phonetic")]
        nouns = [after.plain, *(target for _, target, _ in after.choices[:2])]
        noun = next((one for one in nouns if one in BESIDE), "")
        right = _correct(word, vocabulary)
        if not noun or (right and not _stands_alone(members, index, sentence)):
            continue
        if word.plain in vocabulary.lexicon.added_words or f"{word.plain} {noun}" in vocabulary.lexicon:
            continue
        if (meant := beside(word.plain, noun, right)) is not None and (meant[1] < SLIP or not word.choices):
            word.choices = [(9.0, meant[0], "phonetic" if right else "typo")]


def _stands_alone(members: list[_Word], index: int, sentence: bool) -> bool:
    """Two words that end a tag, or that a sentence names as something somebody has ("with blew hair")."""
    if not sentence:
        return index + 2 == len(members) <= 4
    return index > 0 and members[index - 1].plain in ("with", "and", "has", "having", "a", "an")


def _context(members: list[_Word], index: int, target: str, sentence: bool, vocabulary: Vocabulary) -> float:
    """What the other words of the segment say for `target`."""
    lexicon = vocabulary.lexicon
    if target in _LITTLE and len(members) < 3:
        return -2.0
    if len(members) == 1:
        return TAG if target in lexicon and len(members[0].plain) > 2 else 0.0
    if len(members) <= 5:
        plain = [word.choices[0][1] if word.choices else word.plain for word in members]
        if " ".join([*plain[:index], target, *plain[index + 1 :]]) in vocabulary.joined:
            return PHRASE
    score = ALONE if sentence and target not in vocabulary.tags else 0.0
    if target in _LITTLE:
        score = LITTLE
    if index and any((other, target) in lexicon.pairs for other in _stands_for(members[index - 1])):
        score += PAIR
    if index + 1 < len(members) and any((target, other) in lexicon.pairs for other in _stands_for(members[index + 1])):
        score += PAIR
    return min(score, 3.0)


def _stands_for(word: _Word) -> list[str]:
    return [word.plain, *(target for _, target, _ in word.choices[:3])]


def _take(word: _Word, scored: list[_Choice], more: float, changes: list[Change]) -> None:
    """Add the best reading to `changes` when it is good enough, by `more` than usual, and beats the next clearly."""
    best, target, kind = scored[0]
    rivals = [score for score, other, _ in scored[1:] if _stem(other) != _stem(target)]
    margin = best - rivals[0] if rivals else 3.0
    needed = ACCEPT.get(len(word.plain), ACCEPT_LONG) + more
    if best >= needed and margin >= MARGIN and target != word.source.lower():
        confidence = 1 / (1 + math.exp(-(best - needed + min(margin, 3.0))))
        changed = _cased(word.source, target)
        changes.append(Change(word.start, word.end, word.source, changed, kind, round(confidence, 3)))


def _stem(word: str) -> str:
    """One form for spellings and numbers of one word: "grey" and "gray", "eye" and "eyes"."""
    return _SAME.get(word, word).removesuffix("s")


def _cased(source: str, target: str) -> str:
    """`target` in the case of `source`."""
    if len(source) > 1 and source.isupper():
        return target.upper()
    first = unicodedata.normalize("NFKC", source[:1])  # a capital of another alphabet is chosen for its looks
    return target.capitalize() if first.isascii() and first.isupper() else target
