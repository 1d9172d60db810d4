"""The tags the studio knows: their categories, near-synonyms, conflicts and Japanese words.

The data is `assets/lexicon/tags/*.csv` (one file a category) and can grow by tag lists of the user's own (see
`tag_csv`). This module does not know how to write, correct or judge a prompt.

A file has the columns `tag, japanese, synonyms, group, conflicts`; lists are joined by `|`. Two tags of one group
exclude each other ("long hair", "short hair"), as do a tag and each of its `conflicts`. A conflict written `+group`
is the opposite: where that tag stands, several of the group may stand too ("two-tone hair" needs two hair colours).
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from studio.core.errors import BadInput
from studio.core.settings import ASSETS
from studio.prompting import tag_csv
from studio.prompting.syntax import ANGLE

FOLDER = ASSETS / "lexicon"
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
JAPANESE = re.compile(r"[぀-ヿ㐀-鿿豈-﫿ｦ-ﾟ々ー]+")


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag. `count` is how often a tag site has it (0 for the studio's own), `source` the file it came from."""

    name: str
    category: str
    japanese: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    group: str = ""
    conflicts: tuple[str, ...] = ()
    lifts: tuple[str, ...] = ()  # groups of which several may stand beside this tag
    count: int = 0
    source: str = "studio"


@dataclass(frozen=True, slots=True)
class Completion:
    """One line of the list under a text box. `matched` is what the typed prefix stands for: the tag or a synonym."""

    tag: str
    matched: str
    category: str
    japanese: str
    count: int


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One way to end the last tag of a text. `text` is the whole text with it, ready for the next tag."""

    tag: str
    japanese: str
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two tags that can't both be drawn."""

    first: str
    second: str
    reason: str


def normal(phrase: str) -> str:
    """The form in which phrases are compared: lower case, single spaces, no underscores between letters."""
    if "_" in phrase and any(c.isalpha() for c in phrase):
        phrase = phrase.replace("_", " ")
    return " ".join(phrase.lower().split())


def _split(cell: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (cell or "").split("|") if part.strip())


def _read(path: Path) -> list[Tag]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tags = []
    for row in rows:
        conflicts = _split(row["conflicts"])
        tags.append(
            Tag(
                name=row["tag"],
                category=path.stem.partition("_")[0],
                japanese=_split(row["japanese"]),
                synonyms=_split(row["synonyms"]),
                group=row["group"] or "",
                conflicts=tuple(c for c in conflicts if not c.startswith("+")),
                lifts=tuple(c[1:] for c in conflicts if c.startswith("+")),
            )
        )
    return tags


class Lexicon:
    """All tags, looked up by name, synonym, Japanese word or prefix. Built once, never changed."""

    def __init__(self, tags: Sequence[Tag]) -> None:
        self.tags: dict[str, Tag] = {}
        for tag in tags:
            first = self.tags.setdefault(normal(tag.name), tag)
            if first.count < tag.count:  # a tag of ours in somebody's list: only how common it is, is news
                self.tags[normal(tag.name)] = replace(first, count=tag.count)
        self._phrases: dict[str, str] = {name: name for name in self.tags}
        self._japanese: dict[str, str] = {}
        for name, tag in self.tags.items():
            for synonym in tag.synonyms:
                self._phrases.setdefault(normal(synonym), name)
            for word in tag.japanese:
                self._japanese.setdefault(word, name)
        self._longest_japanese = max(map(len, self._japanese), default=0)

    def japanese(self, tag: str) -> str:
        """The first Japanese word for a tag; "" where it has none."""
        known = self.tags.get(normal(tag))
        return known.japanese[0] if known and known.japanese else ""

    @classmethod
    def load(cls, extra_csv: Iterable[Path | str] = ()) -> Lexicon:
        """The studio's lexicon and the tags of the given A1111 autocomplete files (good rows only).

        Raises BadInput when one of the files can't be read at all; `tag_csv.read` names single bad rows.
        """
        paths = tuple(Path(path) for path in extra_csv)
        return _builtin() if not paths else cls([*_builtin().tags.values(), *_extra(paths)])

    def __len__(self) -> int:
        return len(self.tags)

    def __contains__(self, phrase: str) -> bool:
        return normal(phrase) in self._phrases

    def find(self, phrase: str) -> Tag | None:
        """The tag that a phrase names, directly or as a synonym; underscores count as spaces."""
        name = self._phrases.get(normal(phrase))
        return self.tags[name] if name is not None else None

    @property
    def phrases(self) -> Iterable[str]:
        """Every tag and synonym, in lower case."""
        return self._phrases

    @cached_property
    def words(self) -> dict[str, int]:
        """Every single word of the studio's tags and synonyms, and in how many phrases it stands.

        What people's own lists hold isn't counted: see `added_words`. Nor are the coloured garments ("red bow", "blue
        bow" ...): they say nothing about how common their words are.
        """
        counts: dict[str, int] = {}
        for phrase, name in self._phrases.items():
            if self.tags[name].source != "studio":
                continue
            more = 0 if self.tags[name].group.endswith("_color") and self.tags[name].category == "clothes" else 1
            for word in WORD.findall(phrase):
                counts[word] = counts.get(word, 1 - more) + more
        return counts

    @property
    def studio_phrases(self) -> Iterable[str]:
        """Every tag and synonym of the studio's own."""
        return (phrase for phrase, name in self._phrases.items() if self.tags[name].source == "studio")

    @cached_property
    def added_words(self) -> frozenset[str]:
        """The words of people's own tag lists: right as they stand, but nothing is corrected into one of them."""
        added = (phrase for phrase, name in self._phrases.items() if self.tags[name].source != "studio")
        return frozenset(word for phrase in added for word in WORD.findall(phrase))

    def apart(self, text: str) -> list[str]:
        """A text as the phrases that it consists of: tags of several words, longest first, and single words."""
        parts: list[str] = []
        for piece in text.split(","):
            words = normal(piece).split()
            while words:
                sizes = range(min(5, len(words)), 1, -1)
                size = next((n for n in sizes if self.find(" ".join(words[:n])) is not None), 1)
                parts.append(" ".join(words[:size]))
                words = words[size:]
        return parts

    @cached_property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """Words that stand next to each other in some phrase of the studio's own."""
        pairs = set()
        for phrase in self.studio_phrases:
            pairs |= set(itertools.pairwise(WORD.findall(phrase)))
        return frozenset(pairs)

    @cached_property
    def _sorted(self) -> list[tuple[str, str]]:
        rows = [(phrase, name) for phrase, name in self._phrases.items()]
        rows += [(word, name) for word, name in self._japanese.items()]
        rows += [  # the second and later words too, so that "eyes" finds "blue eyes"
            (phrase[start:], name)
            for phrase, name in self._phrases.items()
            if phrase == name
            for start in (i + 1 for i, c in enumerate(phrase) if c == " ")
        ]
        return sorted(rows)

    def complete(self, prefix: str, limit: int = 10) -> list[Completion]:
        """Tags for what was typed so far, best first: the exact tag, then tags that begin so, then tags with a
        later word that begins so, then synonyms. Works for Japanese prefixes too. Empty for an empty prefix.
        """
        start = normal(prefix)
        if not start or limit < 1:
            return []
        best: dict[str, tuple[tuple[int, int, int, str], str]] = {}
        for index in range(bisect_left(self._sorted, (start, "")), len(self._sorted)):
            phrase, name = self._sorted[index]
            if not phrase.startswith(start):
                break
            own, whole = name.startswith(start), phrase in self._phrases or phrase in self._japanese
            rank = 0 if phrase == start and name == start else 1 if own else 3 if whole else 2
            key = (rank, -self.tags[name].count, len(name), name)
            if name not in best or key < best[name][0]:
                best[name] = (key, name if own or not whole else phrase)
        ordered = sorted(best.items(), key=lambda item: item[1][0])[:limit]
        return [
            Completion(
                tag=self.tags[name].name,
                matched=matched,
                category=self.tags[name].category,
                japanese=next(iter(self.tags[name].japanese), ""),
                count=self.tags[name].count,
            )
            for name, (_, matched) in ordered
        ]

    def suggest(self, text: str, limit: int = 8) -> list[Suggestion]:
        """What the last tag of `text`, half-typed, may become; empty where it is whole or nothing begins so.

        In a sentence its last words count ("a girl with blue e"), in a run of Japanese its last characters.
        """
        start = max((match.end() for match in _BEFORE_TAG.finditer(text)), default=0)
        typed = text[start:]
        if "<" in typed or len(typed) > 200:
            return []
        for begin in _beginnings(typed):
            piece = typed[begin:]
            completions = [one for one in self.complete(piece, limit + 1) if normal(one.tag) != normal(piece)]
            if completions or piece in self:
                before = text[: start + begin]
                if begin and JAPANESE.match(piece):  # a tag of its own, no word of an English sentence
                    before = before.rstrip() + ", "
                return [
                    Suggestion(one.tag, one.japanese, one.count, f"{before}{self._written(one.tag)}, ")
                    for one in completions[:limit]
                ]
        return []

    def _written(self, name: str) -> str:
        """A tag as it stands in a prompt: the brackets of names ("rem (re:zero)") are no weights."""
        tag = self.find(name)
        return name if tag is None or tag.source == "studio" else re.sub(r"([()\[\]])", r"\\\1", name)

    def conflicts(self, phrases: Iterable[str]) -> list[Conflict]:
        """Pairs among these phrases that exclude each other, in their order. Unknown phrases exclude nothing."""
        tags: dict[str, Tag] = {}
        for phrase in phrases:
            tag = self.find(phrase)
            if tag is not None:
                tags.setdefault(normal(tag.name), tag)
        lifted = {group for tag in tags.values() for group in tag.lifts}
        clashes = []
        for one, two in itertools.combinations(tags.values(), 2):
            if two.name in one.conflicts or one.name in two.conflicts:
                clashes.append(Conflict(one.name, two.name, "they exclude each other"))
            elif one.group and one.group == two.group and one.group not in lifted:
                clashes.append(Conflict(one.name, two.name, f"only one {one.group.replace('_', ' ')} can be drawn"))
        return clashes

    def translate(self, text: str) -> Translation:
        """Japanese runs of `text` as tags, longest match first; everything else stays as it is.

        "青い髪の女の子, blue sky" becomes "blue hair, 1girl, blue sky". Particles between words vanish; a run that the
        lexicon doesn't know is named in `unknown` and left out.
        """
        if not JAPANESE.search(text):
            return Translation(text, (), ())
        tags: list[str] = []
        unknown: list[str] = []
        pieces: list[str] = []
        for piece in re.split(r"[,、。，\n]", text):
            if re.search(r"[(\[{<]", piece):  # inside weights only the words are exchanged, in LoRA tags nothing
                exchanged = [
                    JAPANESE.sub(lambda run: ", ".join(self._match(run.group(), tags, unknown)), part)
                    for part in ANGLE.split(piece)
                ]
                tied = itertools.zip_longest(exchanged, ANGLE.findall(piece), fillvalue="")
                pieces.append("".join(part + angle for part, angle in tied).strip())
                continue
            out, position = [], 0
            for run in JAPANESE.finditer(piece):
                out.append(piece[position : run.start()])
                position = run.end()
                out += self._match(run.group(), tags, unknown)
            out.append(piece[position:])
            pieces += [part.strip(" \u3000・「」！？!?") for part in out]
        return Translation(", ".join(dict.fromkeys(p for p in pieces if p)), tuple(tags), tuple(unknown))

    def _match(self, run: str, tags: list[str], unknown: list[str]) -> list[str]:
        """The tags of one run of Japanese, also added to `tags`; what no tag is known for is added to `unknown`.

        A single kanji counts only where no other kanji touches it: the tree of 木 isn't in 木曜日.
        """
        names: list[str] = []
        position, lost = 0, ""
        while position <= len(run):
            length = min(self._longest_japanese, len(run) - position)
            while length and run[position : position + length] not in self._japanese:
                length -= 1
            if length == 1 and (_kanji(lost[-1:]) or _kanji(run[position + 1 : position + 2])):
                length = 0
            if length or position == len(run):
                if _PARTICLES.sub("", lost):
                    unknown.append(lost)
                lost = ""
            if length:
                names.append(self.tags[self._japanese[run[position : position + length]]].name)
                position += length
            else:
                lost += run[position : position + 1]
                position += 1
        tags += names
        return names


_BEFORE_TAG = re.compile(r"[,、，。;\n|(\[{]\s*|\bBREAK\b\s*")


def _beginnings(typed: str) -> list[int]:
    """Where in `typed` the tag that is meant may begin, the longest piece first: at most five words, or Japanese ones.

    A single letter says too little, a single kanji doesn't.
    """
    words = [match.start() for match in re.finditer(r"\S+", typed)][-5:]
    run = [match.span() for match in JAPANESE.finditer(typed)][-1:]
    inside = [at for begin, end in run if end == len(typed.rstrip()) for at in range(max(begin, end - 8), end)]
    return [
        at
        for at in sorted({*words, *inside})
        if len(typed[at:].strip()) >= 2 or _kanji(typed[at : at + 1])
    ]  # fmt: skip


def _kanji(char: str) -> bool:
    return "\u4e00" <= char <= "\u9fff"


@dataclass(frozen=True, slots=True)
class Translation:
    """`text` without Japanese, the tags that stand for it, and the runs that no tag is known for."""

    text: str
    tags: tuple[str, ...]
    unknown: tuple[str, ...]


# What joins Japanese words in a description and means nothing by itself.
_PARTICLES = re.compile(
    r"^(?:の|と|が|を|で|に|は|も|な|や|へ|から|まで|い|く|て|した|して|している|してる|する|された|た|だ|です|ます|ている|てる"
    r"|いる|ある|着た|着て|着ている|持った|持つ|持って|持っている|かぶった|付けた|つけた|そうな|そう|っぽい|系|風|姿|入り|付き|下|中|上|前|横|ー|々)+$"
)


@lru_cache(maxsize=1)
def _builtin() -> Lexicon:
    return Lexicon([tag for path in sorted((FOLDER / "tags").glob("*.csv")) for tag in _read(path)])


def _extra(paths: Sequence[Path]) -> list[Tag]:
    tags = []
    for path in paths:
        file = tag_csv.read(path)
        if not file.rows:
            raise BadInput(f'No tag could be read from {path.name}; it needs lines like `blue_hair,0,12345,"aoi"`.')
        tags += added(file, path.name)
    return tags


def added(file: tag_csv.TagFile, source: str) -> list[Tag]:
    """The tags of a list of somebody's own, as they go into a lexicon."""
    return [Tag(row.name, row.category, synonyms=row.aliases, count=row.count, source=source) for row in file.rows]


@lru_cache(maxsize=1)
def layer_words() -> dict[str, Any]:
    """What each layer of a written prompt is made of: `assets/lexicon/layers.json`."""
    words: dict[str, Any] = json.loads((FOLDER / "layers.json").read_text(encoding="utf-8"))
    return words
