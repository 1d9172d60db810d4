"""The tags of a caption as text: split, added, taken away, replaced, counted."""

from __future__ import annotations

from collections.abc import Iterable


def split_tags(caption: str) -> list[str]:
    """The comma-separated tags of a caption, without blanks and repetitions, in order."""
    return list(dict.fromkeys(tag for tag in (part.strip() for part in caption.split(",")) if tag))


def add_tags(caption: str, tags: str, first: bool = False) -> str:
    """With `tags` (comma-separated) at the end, or `first`; a tag that is there already stays where it is."""
    here, new = split_tags(caption), split_tags(tags)
    new = [tag for tag in new if tag not in here]
    return ", ".join(new + here if first else here + new)


def remove_tags(caption: str, tags: str) -> str:
    """Without `tags` (comma-separated, exact, letter case doesn't matter)."""
    unwanted = {tag.lower() for tag in split_tags(tags)}
    return ", ".join(tag for tag in split_tags(caption) if tag.lower() not in unwanted)


def replace_tag(caption: str, old: str, new: str) -> str:
    """With the whole tag `old` replaced by `new` (which may be several tags), never a part of a tag."""
    replaced = [new if tag.lower() == old.strip().lower() else tag for tag in split_tags(caption)]
    return ", ".join(split_tags(", ".join(replaced)))


def tag_counts(captions: Iterable[str]) -> dict[str, int]:
    """How many captions have each tag, the most common first."""
    counts: dict[str, int] = {}
    for caption in captions:
        for tag in split_tags(caption):
            counts[tag] = counts.get(tag, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
