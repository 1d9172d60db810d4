"""A written prompt without the words that its model can't draw: left in, they spoil what it can.

A small model doesn't pass over a word that it never learned to draw: it draws something, and be it a face that melts
where glasses were asked for. Changes nothing else of a text, and nobody's prompt of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from studio.prompting.knowledge import SILENT, Knowledge, UnknownWord, phrases_of
from studio.prompting.lexicon import Lexicon
from studio.prompting.syntax import protected_spans

_CHOICE = re.compile(r"\{[^{}]*\}")  # {red|blue}: which of it is drawn goes by the seed
_MASK = re.compile("\ue000(\\d+)\ue001")  # of the private use area, which no text of a request has
_SMALL = "|".join(sorted(SILENT, key=len, reverse=True))
_AT_ENDS = re.compile(rf"^(?:\s*(?:{_SMALL})(?![^\W_]))+|(?:(?<![^\W_])(?:{_SMALL})\s*)+$", re.IGNORECASE)
# What a phrase leaves behind: brackets with nothing in them, commas at their ends.
_HOLLOW = ((r"[(\[]\s*(?::\s*[-+]?\d*\.?\d+)?\s*[)\]]", ""), (r"([(\[])\s*,\s*", r"\1"),
           (r"\s*,\s*((?::\s*[-+]?\d*\.?\d+)?[)\]])", r"\1"))  # fmt: skip


def standing(word: str) -> str:
    """A pattern for a word or phrase where it stands by itself, with blanks or underscores in it."""
    return rf"(?<![^\W_]){re.escape(word)}(?![^\W_])".replace(r"\ ", r"[ _]+")


def leave_out(
    text: str, unknown: Iterable[UnknownWord], knowledge: Knowledge, lexicon: Lexicon, protected: Sequence[str] = ()
) -> tuple[str, tuple[str, ...]]:
    """`text` without the words in `unknown`, and those that are left out of it.

    What stands in quotes, choices, LoRA tags and `protected` stays, and so does a word inside of a phrase that the
    model knows ("dark" of "dark skin").
    """
    words = tuple(dict.fromkeys(one.word for one in unknown))
    masked: list[str] = []

    def mask(match: re.Match[str]) -> str:
        masked.append(match.group())
        return f"\ue000{len(masked) - 1}\ue001"

    spans = [(start, end) for start, end in protected_spans(text, protected) if not text[start:end].startswith(":")]
    for start, end in reversed(_apart(spans)):
        masked.append(text[start:end])
        text = f"{text[:start]}\ue000{len(masked) - 1}\ue001{text[end:]}"
    text = _CHOICE.sub(mask, text)
    known = {phrase for phrase, taught in phrases_of(text, knowledge, lexicon) if taught} - set(words)
    if known:
        either = "|".join(map(standing, sorted(known, key=len, reverse=True)))
        text = re.sub(either, mask, text, flags=re.IGNORECASE)
    left: set[str] = set()
    parts = []
    for part in text.split(","):
        rest = part
        for word in sorted(words, key=len, reverse=True):
            rest, times = re.subn(standing(word), " ", rest, flags=re.IGNORECASE)
            left |= {word} if times else set()
        if rest != part:
            rest = re.sub(r"\s+", " ", _AT_ENDS.sub("", re.sub(r"\s+", " ", rest).strip()))
        if any(letter.isalnum() for letter in rest) or any(letter in rest for letter in "()[]\ue000") or rest == part:
            parts.append(rest.strip())
    while _MASK.search(text := ", ".join(parts)):  # a phrase may hold another mask
        parts = [_MASK.sub(lambda match: masked[int(match[1])], text)]
    for pattern, instead in _HOLLOW:
        text = re.sub(pattern, instead, text)
    text = re.sub(r"(?:\s*,)+\s*", ", ", text).strip(" ,")
    return text, tuple(word for word in words if word in left)


def _apart(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted spans with those that overlap joined."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
