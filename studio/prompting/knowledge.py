"""What a model can draw, word by word: what it was taught, what does little, and the nearest word that works.

A model that says what it was taught (the embedded one: the tags and synonyms of its captions) is taken at its word,
with the shares of pictures in which each tag was seen, where they were measured. Of other models nobody knows that, so
only what stands in no word list counts as unknown. Doesn't know how a model is loaded.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from pydantic import BaseModel, ConfigDict

from studio.prompting.copied import is_danbooru_tag
from studio.prompting.lexicon import FOLDER, WORD, Lexicon, normal
from studio.prompting.syntax import protected_spans, segments, strip_weights
from studio.prompting.vocabulary import vocabulary_of

RELIABLE = 0.8  # share of pictures in which a word has to be seen
# Colours by the one of `COLORS` that they are nearest to.
_SHADES = {
    "crimson": "red", "scarlet": "red", "ruby": "red", "maroon": "red", "burgundy": "red", "navy": "blue",
    "azure": "blue", "sapphire": "blue", "indigo": "blue", "lime": "green", "emerald": "green", "olive": "green",
    "mint": "green", "teal": "aqua", "cyan": "aqua", "turquoise": "aqua", "violet": "purple", "lavender": "purple",
    "lilac": "purple", "magenta": "pink", "rose": "pink", "fuchsia": "pink", "gold": "yellow", "golden": "yellow",
    "amber": "yellow", "silver": "grey", "gray": "grey", "ivory": "white", "cream": "white", "beige": "brown",
    "tan": "brown", "peach": "orange", "auburn": "red", "ginger": "orange",
}  # fmt: skip
COLORS = ("aqua", "black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
# Whole backgrounds, of which a picture has one.
GROUNDS = frozenset(("sunset", "starry sky", "sky, clouds", "bokeh", "paint splatter", "simple background",
                     "gradient background", "striped background", "polka dot background", "sunburst background",
                     "circle background"))  # fmt: skip
# Words of sentences that ask for nothing by themselves.
SILENT = frozenset((
    "a", "an", "and", "anime", "are", "as", "at", "be", "beside", "by", "called", "character", "drawing", "for",
    "from", "has", "have", "he", "her", "his", "image", "in", "into", "is", "it", "its", "like", "named", "near",
    "no", "not", "of", "off", "on", "one", "or", "over", "picture", "portrait", "she", "some", "style", "that", "the",
    "their", "them", "then", "there", "they", "this", "through", "to", "two", "under", "very", "was", "wearing",
    "while", "who", "with", "without", "you", "your",
))  # fmt: skip
_PIECE = re.compile(r"[^\s,]+")


class UnknownWord(BaseModel):
    """A word that does little: why, and the nearest ones that work, each ready to stand in its place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    word: str
    reason: str
    instead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Knowledge:
    """What one model was taught. Without `tags` nobody knows.

    `synonyms`: a tag's other words in its captions; `neutral`: words of captions that ask for nothing ("masterpiece");
    `shares`: of pictures in which a tag was seen, 0 to 1; `added`: what LoRAs were taught beside it; `unreliable`: tags
    that are often missing, where nobody counted. `quality` and `negative`: what it calls good pictures and bad ones.
    """

    title: str = "This model"
    tags: frozenset[str] = frozenset()
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    neutral: frozenset[str] = frozenset()
    shares: Mapping[str, float] = field(default_factory=dict)
    added: frozenset[str] = frozenset()
    unreliable: frozenset[str] = frozenset()
    quality: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        alike = {normal(word): tag for tag, words in self.synonyms.items() for word in words}
        parts = {part.strip() for tag in self.tags for part in tag.split(",") if "," in tag}
        known = {*map(normal, self.tags), *alike, *map(normal, self.neutral), *map(normal, self.added), *parts}
        object.__setattr__(self, "_alike", alike)
        object.__setattr__(self, "_known", known)

    def knows(self, phrase: str) -> bool:
        """The model was taught this very phrase."""
        return normal(phrase) in self._known  # type: ignore[attr-defined]

    def share(self, phrase: str) -> float:
        """Share of pictures that show it, as far as that was measured: else 1, or a half of what is unreliable."""
        name = self.tag_of(phrase)
        return self.shares.get(name, 0.5 if name in self.unreliable else 1.0)

    def tag_of(self, phrase: str) -> str:
        """The tag that the model takes a phrase for; the phrase itself where there is none."""
        name = normal(phrase)
        return str(self._alike.get(name, name))  # type: ignore[attr-defined]


def unknown_words(
    text: str, knowledge: Knowledge, lexicon: Lexicon | None = None, protected: Sequence[str] = ()
) -> tuple[UnknownWord, ...]:
    """The words of `text` that do little with this model, in order, each once.

    Trigger words in `protected` and syntax are never among them. Any string is accepted.
    """
    lexicon = lexicon or Lexicon.load()
    unknown: dict[str, UnknownWord] = {}
    asked = list(phrases_of(text, knowledge, lexicon, protected))
    for phrase, known in asked:
        if known and knowledge.share(phrase) >= RELIABLE:
            continue
        if known:
            reason = "It is often missing from this model's pictures."
            if knowledge.tag_of(phrase) in knowledge.shares:
                reason = f"This model shows it in about {knowledge.share(phrase):.0%} of its pictures."
            instead = nearest(phrase, knowledge, lexicon)
            unknown.setdefault(phrase, UnknownWord(word=phrase, reason=reason, instead=instead))
        else:
            reason = "This model was never taught it."
            if not knowledge.tags:
                reason = "It stands in no word list; unless a LoRA taught it, it does little."
            instead = nearest(phrase, knowledge, lexicon)
            unknown.setdefault(phrase, UnknownWord(word=phrase, reason=reason, instead=instead))
    grounds = [phrase for phrase, known in asked if known and knowledge.tag_of(phrase) in GROUNDS]
    for phrase in dict.fromkeys(grounds[1:]):
        if phrase != grounds[0]:
            unknown.setdefault(phrase, UnknownWord(word=phrase, reason=f"There is one background: '{grounds[0]}'."))
    return tuple(unknown.values())


def known_share(
    text: str, knowledge: Knowledge, lexicon: Lexicon | None = None, protected: Sequence[str] = ()
) -> float:
    """Share of what `text` asks for that the model can draw; 1 for a text that asks for nothing."""
    lexicon = lexicon or Lexicon.load()
    phrases = list(phrases_of(text, knowledge, lexicon, protected))
    weights = [knowledge.share(phrase) if known else 0.0 for phrase, known in phrases]
    return sum(weights) / len(weights) if weights else 1.0


def sentence(words: Sequence[UnknownWord], said: str = "These words do little with this model") -> str:
    """One note about words that do little, with what could stand there instead."""
    shown = [f"'{one.word}'" + (f" (nearest: {one.instead[0]})" if one.instead else "") for one in words[:6]]
    more = f" and {len(words) - 6} more" if len(words) > 6 else ""
    return f"{said}: {', '.join(shown)}{more}."


def nearest(phrase: str, knowledge: Knowledge, lexicon: Lexicon) -> tuple[str, ...]:
    """Up to three things to say instead of `phrase`, all of them known to the model; a colour in it is kept."""
    if not knowledge.tags:
        return ()
    words = [_SHADES.get(word, word) for word in normal(phrase).split()]
    if knowledge.knows(said := " ".join(words)) and said != normal(phrase):  # "crimson hair"
        return (said,)
    if len(words) == 1 and knowledge.knows(f"{words[0]} hair"):
        return (f"{words[0]} hair,",)  # "long" of "long blue hair"
    color = next((word for word in words if word in COLORS), "")
    substitutes: list[str] = []
    for size in range(len(words), 0, -1):
        for start in range(len(words) - size + 1):
            part = " ".join(words[start : start + size])
            for option in _substitutes().get(part, ()):
                colors = [color] if color else ["white", "black", "blue"]
                substitutes += [said for one in colors for said in _said(option, one, knowledge)]
            if not substitutes:
                substitutes += _of_lexicon(part, color, knowledge, lexicon)
        substitutes = [said for said in substitutes if _all_reliable(said, knowledge)]
        if substitutes:
            break
    return tuple(dict.fromkeys(substitutes))[:3]


def _all_reliable(said: str, knowledge: Knowledge) -> bool:
    return all(knowledge.share(part.strip()) >= RELIABLE for part in said.split(",") if part.strip())


def _said(option: str, color: str, knowledge: Knowledge) -> list[str]:
    """An option of the table as the model knows it, its parts joined; nothing where one of them isn't known."""
    parts = [part.strip().replace("{color}", color) for part in option.split(";")]
    return [", ".join(parts)] if parts and all(knowledge.knows(part) for part in parts) else []


def _of_lexicon(part: str, color: str, knowledge: Knowledge, lexicon: Lexicon) -> list[str]:
    """Known tags of the same meaning, then of the same thing in another colour, then of the same group."""
    tag = lexicon.find(part)
    if tag is None:
        return []
    same = [name for name in (tag.name, *tag.synonyms) if knowledge.knows(name)]
    if same:
        return same[:1]
    colored = [f"{one} {tag.name}" for one in ((color,) if color else ("white", "black", "red"))]
    colored = [name for name in colored if knowledge.knows(name)]
    if colored or not tag.group or tag.group in ("subject", "count"):
        return colored
    return [name for name in sorted(knowledge.tags) if (other := lexicon.find(name)) and other.group == tag.group][:2]


@lru_cache(maxsize=1)
def _substitutes() -> dict[str, tuple[str, ...]]:
    with (FOLDER / "substitutes.csv").open(encoding="utf-8", newline="") as file:
        return {row["word"]: tuple(filter(None, row["instead"].split("|"))) for row in csv.DictReader(file)}


def phrases_of(
    text: str, knowledge: Knowledge, lexicon: Lexicon, protected: Sequence[str] = ()
) -> Iterator[tuple[str, bool]]:
    """What a text asks for, phrase by phrase, and whether the model was taught it."""
    for start, end in protected_spans(text, protected):
        text = text[:start] + ",".ljust(end - start) + text[end:]
    parts = [part.text.replace("\\", "") for part in segments(text)]
    whole = [part if knowledge.knows(part) or "(" not in part else strip_weights(part) for part in parts]
    for phrase in [normal(piece) for part in whole for piece in ([part] if "(" in part else part.split(","))]:
        if len(phrase) > 400 or not any(letter.isalpha() for letter in phrase):
            continue
        if "(" in phrase and knowledge.knows(phrase):
            yield phrase, True
        elif knowledge.tags:
            yield from _taught(phrase, knowledge, lexicon)
        else:
            yield from _listed(phrase, knowledge, lexicon)


def _taught(phrase: str, knowledge: Knowledge, lexicon: Lexicon) -> Iterator[tuple[str, bool]]:
    """Longest phrases first; the words between two known ones are one unknown phrase, without its small words."""
    words = [word.strip(".!?;:\"'()[]{}") for word in _PIECE.findall(phrase)]
    words = [word for word in words if word]
    rest: list[str] = []
    start = 0
    while start < len(words):
        size = next((n for n in range(min(6, len(words) - start), 0, -1)
                     if knowledge.knows(" ".join(words[start : start + n]))), 0)  # fmt: skip
        last = start + size - 1
        if size > 1 and any(
            " ".join(words[last : last + n]) in lexicon for n in range(2, min(6, len(words) - last) + 1)
        ):
            size = 0  # "pink hair ribbon" is a ribbon
        if size:
            yield from _unknown(rest)
            rest = []
            name = " ".join(words[start : start + size])
            if name not in knowledge.neutral:
                yield name, True
        else:
            rest.append(words[start])
        start += size or 1
    yield from _unknown(rest)


def _unknown(words: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Unknown words in a row as the phrases that a lexicon sees in them, else as they stand between small words."""
    for joined in " ".join(word if word not in SILENT else "\n" for word in words).split("\n"):
        phrase = joined.strip()
        if len(phrase) > 1 and any(letter.isalpha() for letter in phrase):
            yield phrase, False


def _listed(phrase: str, knowledge: Knowledge, lexicon: Lexicon) -> Iterator[tuple[str, bool]]:
    """For a model that nobody knows the words of: what is in no list of words, names or tags is unknown."""
    if phrase in lexicon or is_danbooru_tag(phrase) or knowledge.knows(phrase):
        yield phrase, True
        return
    vocabulary = vocabulary_of(lexicon)
    for word in WORD.findall(phrase):
        if word not in SILENT and len(word) > 2 and word.isalpha() and word.isascii():
            yield word, vocabulary.known(word) or vocabulary.compound(word) or knowledge.knows(word)


def taught(tags: Iterable[str], lexicon: Lexicon | None = None) -> dict[str, list[str]]:
    """A model's tags by what they are about, for a page that lists them; what no category knows comes last."""
    lexicon = lexicon or Lexicon.load()
    groups: dict[str, list[str]] = {}
    for name in sorted(tags):
        tag = lexicon.find(name.split(",")[0])
        thing = name.partition(" ")[2] if name.partition(" ")[0] in COLORS else ""
        if thing == "background":
            category = "background"
        elif name.endswith("hair tips"):
            category = "hair"
        else:
            category = tag.category if tag is not None else "clothes" if thing else "other"
        groups.setdefault(category, []).append(name)
    return dict(sorted(groups.items(), key=lambda item: item[0] == "other"))
