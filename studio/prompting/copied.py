"""Tags that were copied from somewhere, not typed: no spelling is corrected in them.

An underscore, a bracket that belongs to a name ("rem (re:zero)") or a capital is a sign of it, and so is a phrase that
stands among the most used tags of Danbooru (`assets/lexicon/danbooru_tags.txt.gz`, most used first). These are only
looked up: none of them is ever suggested.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Collection
from functools import lru_cache

from studio.prompting.lexicon import FOLDER, normal
from studio.prompting.syntax import segments

LONGEST_TAG = 6  # words of a tag with capitals; what is longer is a sentence
_TOKEN = re.compile(r"[^\s,;|]+")
# "name (series)": an opening bracket behind a word, and no weight before it closes
_OF_A_SERIES = re.compile(r"[^\W_]['’!.]?[\s_]\\?\((?![^()]*:\s*[-+]?(?:\d*\.)?\d+\s*\\?\))[^()]*\\?\)")
_CAPITAL = re.compile(r"(?<![^\s\-\"'(])[A-HJ-Z][^\W\d_A-Z]")  # an "I" may be an "l" in disguise
_SENTENCE = frozenset(("a", "an", "and", "the", "with", "in", "on", "at", "of", "is", "are", "her", "his", "to"))


@lru_cache(maxsize=1)
def danbooru_tags() -> tuple[str, ...]:
    """The most used tags of Danbooru with their underscores, most used first."""
    with gzip.open(FOLDER / "danbooru_tags.txt.gz", "rt", encoding="utf-8") as file:
        return tuple(file.read().split())


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    return frozenset(normal(tag) for tag in danbooru_tags())


def is_danbooru_tag(phrase: str) -> bool:
    """`phrase` is one of them; case, underscores and backslashes before brackets don't count."""
    return normal(phrase.replace("\\", "")) in _known()


def copied_spans(text: str, common: Collection[str] = ()) -> list[tuple[int, int]]:
    """Where copied tags stand in `text`, in order; spans may overlap.

    What people type themselves in front of a bracket or inside ("watercolor (medium)") is in `common`.
    """
    spans = []
    if "_" in text:
        spans = [m.span() for m in _TOKEN.finditer(text) if "_" in m.group() and any(c.isalnum() for c in m.group())]
    if "(" in text:
        series = [_whole_tag(text, *match.span()) for match in _OF_A_SERIES.finditer(text)]
        spans += [(start, end) for start, end in series if not _typed(text[start:end], common)]
    for part in segments(text):
        if len(part.text) <= 128 and (is_danbooru_tag(part.text) or _has_capital(part.text, part.start == 0)):
            spans.append((part.start, part.end))
    return sorted(spans)


def _typed(tag: str, common: Collection[str]) -> bool:
    before, _, inside = tag.replace("\\", "").partition("(")
    return normal(before) in common or normal(inside.rstrip(") ")) in common


def _whole_tag(text: str, start: int, end: int) -> tuple[int, int]:
    """The span back to the comma, bracket or line that the tag begins behind."""
    while start > 0 and text[start - 1] not in ",;|\n([{，、":
        start -= 1
    return start, end


def _has_capital(tag: str, opening: bool) -> bool:
    """A tag written as a name is: with a capital that isn't that of a sentence, and not all in capitals."""
    words = tag.split()
    if len(words) > LONGEST_TAG or tag.isupper() or _SENTENCE & set(words):
        return False
    return any(_CAPITAL.match(word) for word in (words[1:] if opening else words))
