"""A prompt for another emotion or style: all tags of the old one out, those of the new one in their place.

Whoever wrote the prompt may have used other words than this studio's writer would: the lexicon says which belong to an
emotion. Knows no request and writes nothing of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Literal

from studio.prompting.lexicon import Lexicon, layer_words, normal
from studio.prompting.syntax import CLOSERS, OPENERS, segments
from studio.prompting.writers import TRIMMINGS, tags_in


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


def with_words(prompt: str, words: str, lexicon: Lexicon) -> tuple[str, list[str]]:
    """`prompt` with `words` in place of its tags that they contradict (at its end where there are none), and these.

    Another colour of hair takes the place of the one that is there, other clothes that of all clothes: whoever changes
    a part of a picture goes on describing the rest.
    """
    typed = list(dict.fromkeys(tags_in(words, lexicon)))
    groups = {tag.group for tag in typed if tag.group}
    dressed = any(tag.category == "clothes" and tag.name.split()[-1] not in TRIMMINGS for tag in typed)
    if "hair_color" in groups:
        groups.add("tip_color")  # ends of another colour belong to the old one
    gone = []
    for segment in segments(prompt):
        tag = lexicon.find(segment.text)
        if tag is None or tag in typed:
            continue
        other = bool(tag.group) and tag.group in groups
        clothes = dressed and tag.category == "clothes"
        if other or clothes or any(tag.name in one.conflicts or one.name in tag.conflicts for one in typed):
            gone.append(segment.text)
    said = [word for part in words.split(",") if (word := part.strip())]
    return _exchanged(prompt, {normal(word) for word in gone}, said), gone


def replace_layer(prompt: str, layer: Literal["emotion", "style"], old: str, new: str, tags: Sequence[str]) -> str:
    """`prompt` with `tags`, which say `new`, where the first tag of `old` stood; at the end where there was none.

    What says both of them stays. Brackets around several tags stay around those that are left.
    """
    return _exchanged(prompt, belonging(layer, old) - belonging(layer, new) - {normal(tag) for tag in tags}, tags)


def _exchanged(prompt: str, gone: Collection[str], tags: Sequence[str]) -> str:
    """`prompt` with `tags` where the first of the `gone` ones (as `normal` has them) stood, or at its end."""
    gone, added = set(gone), {normal(tag) for tag in tags}
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
