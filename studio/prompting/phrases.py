"""Phrases that say several things about hair, taken apart: "long pink twintails" is "long hair, pink hair, twintails".

A model learns tags; a colour in front of a hairdo is one that it never saw. Knows the lexicon and writes nothing of its
own.
"""

from __future__ import annotations

from studio.prompting.lexicon import Lexicon, normal

_OF_HAIR = ("hair_color", "hair_length", "hair_texture")


def split_hair_phrases(text: str, lexicon: Lexicon) -> tuple[str, dict[str, str]]:
    """`text` with every such phrase as its tags, and which became what.

    Only whole phrases between commas of which every word is about hair; brackets, weights and tags stay as they are.
    """
    became: dict[str, str] = {}
    parts = text.split(",")
    for index, part in enumerate(parts):
        phrase = normal(part)
        if not phrase or any(letter in part for letter in "()[]{}<>:\\") or lexicon.find(phrase) is not None:
            continue
        tags = _about_hair(phrase.split(), lexicon)
        if len(tags) > 1:
            became[phrase] = ", ".join(tags)
            parts[index] = part[: len(part) - len(part.lstrip())] + became[phrase]
    return ",".join(parts), became


def _about_hair(words: list[str], lexicon: Lexicon) -> list[str]:
    """The tags that `words` mean together; [] where one of them is about something else."""
    end = len(words)
    head = next((k for k in range(end) if (tag := lexicon.find(" ".join(words[k:]))) and tag.group == "hairdo"), None)
    if head is None:
        if words[-1] != "hair":
            return []
        head, last = end - 1, []
    else:
        last = [" ".join(words[head:])]
    tags: list[str] = []
    start = 0
    while start < head:
        for stop in range(head, start, -1):
            name = " ".join(words[start:stop]) + " hair"
            if (tag := lexicon.find(name)) is not None and tag.group in _OF_HAIR:
                tags.append(tag.name)
                start = stop
                break
        else:
            return []
    return [*tags, *last]
