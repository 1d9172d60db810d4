"""A prompt for another emotion or style: all tags of the old one out, those of the new one in their place.

Whoever wrote the prompt may have used other words than this studio's writer would: the lexicon says which belong to an
emotion. Knows no request and writes nothing of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from studio.prompting.lexicon import Lexicon, layer_words, normal
from studio.prompting.syntax import CLOSERS, OPENERS, segments


@lru_cache
def belonging(layer: Literal["emotion", "style"], value: str) -> frozenset[str]:
    """Every phrase that says `value` ("happy", "casual"): the words of its layer and all synonyms of these tags."""
    words = layer_words()[layer][value]
    names = {normal(word) for word in (*words["first"], *words["more"])}
    if layer == "emotion":
        names.add(value)
    lexicon = Lexicon.load()
    for tag in [lexicon.find(word) for word in names]:
        if tag is not None:
            names |= {normal(name) for name in (tag.name, *tag.synonyms)}
    return frozenset(names)


def says(prompt: str, layer: Literal["emotion", "style"], value: str) -> bool:
    """Whether a tag of the prompt says `value`."""
    return any(normal(segment.text) in belonging(layer, value) for segment in segments(prompt))


def replace_layer(prompt: str, layer: Literal["emotion", "style"], old: str, new: str, tags: Sequence[str]) -> str:
    """`prompt` with `tags`, which say `new`, where the first tag of `old` stood; at the end where there was none.

    What says both of them stays. Brackets around several tags stay around those that are left.
    """
    gone = belonging(layer, old) - belonging(layer, new) - {normal(tag) for tag in tags}
    added = {normal(tag) for tag in tags}
    kept: list[str] = []
    position: int | None = None
    opened = ""  # brackets that a tag which is gone opened around others
    for part in prompt.split(","):
        written = segments(part)
        said = {normal(segment.text) for segment in written}
        if said and said <= gone:
            position = len(kept) if position is None else position
            before, after = part[: written[0].start].strip(), part[written[-1].end :].strip()
            closed = sum(letter in CLOSERS for letter in after)
            opened += "".join(letter for letter in before if letter in OPENERS)
            inside = min(closed, len(opened))
            opened = opened[: len(opened) - inside]
            if closed > inside and kept:
                kept[-1] += after
        elif not (said and said <= added):
            kept.append(opened + part.strip())
            opened = ""
    position = len(kept) if position is None else position
    return ", ".join(part for part in [*kept[:position], *tags, *kept[position:]] if part)
