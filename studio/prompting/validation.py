"""How much a prompt can be trusted before anything is drawn: four scores from 0 (no problem) to 10, and a repair.

Ambiguity: words with two meanings in pictures, or with none. Conflicts: tags that exclude each other, and brackets
that don't close. Rare words: what neither the lexicon nor common English knows. Attackability: how much is lost when
one word is misread, which is much where a thing is said only once (the redundancy argument against Gao et al.,
2306.13103). All of it from word lists: it knows no model's real vocabulary and doesn't understand sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from studio.prompting.harden import harden
from studio.prompting.knowledge import Knowledge, UnknownWord, unknown_words
from studio.prompting.lexicon import WORD, Lexicon, layer_words, normal
from studio.prompting.syntax import Segment, balance, protected_spans, repair_brackets, segments, strip_weights
from studio.prompting.vocabulary import Vocabulary, vocabulary_of

# CLIP reads 77 tokens at a time, two of which are its own marks; a tag is about 2.5 tokens with its comma.
CHUNK_WORDS = 55
READ_AT_MOST = 20_000  # characters; what stands behind them is not looked at

# Words that draw something else as easily as what was meant, when they stand alone in a tag.
_TWO_MEANINGS = frozenset((
    "band", "bangs", "bark", "bat", "bow", "box", "bright", "cape", "cast", "cell", "chest", "china", "clip", "coat",
    "cold", "cool", "crane", "cross", "crown", "dark", "date", "deck", "draw", "dress", "duck", "fair", "fall", "fan",
    "fire", "fly", "glass", "glasses", "hood", "hot", "iris", "jam", "kid", "lead", "light", "lines", "match", "mole",
    "nail", "orange", "palm", "park", "pen", "pitcher", "point", "pound", "pupil", "ring", "rock", "rose", "ruler",
    "sash", "seal", "shade", "ship", "spring", "star", "stick", "suit", "tank", "tan", "tie", "top", "train", "trunk",
    "watch", "wave", "well", "wind", "wink", "yard",
))  # fmt: skip
# Words that say nothing that can be drawn.
_VAGUE = frozenset((
    "amazing", "awesome", "bad", "best", "better", "cool", "epic", "fantastic", "fine", "good", "great", "incredible",
    "interesting", "nice", "perfect", "special", "stuff", "super", "thing", "things", "very", "whatever", "wonderful",
))  # fmt: skip


class Aspect(BaseModel):
    """One score, 0 (no problem) to 10, with the words at fault and why in a sentence ("" when there is nothing)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: float = Field(ge=0, le=10)
    words: tuple[str, ...] = ()
    reason: str = ""


class Validation(BaseModel):
    """The four scores of one prompt and a better wording; `repaired` equals the prompt when none is proposed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    ambiguity: Aspect
    conflicts: Aspect
    rare_words: Aspect
    attackability: Aspect
    repaired: str
    writer: Literal["claude", "offline"] = "offline"
    note: str = ""  # why Claude's opinion is missing

    @property
    def worst(self) -> float:
        """The highest of the four scores."""
        return max(part.score for part in (self.ambiguity, self.conflicts, self.rare_words, self.attackability))


def validate(
    prompt: str,
    protected: Sequence[str] = (),
    lexicon: Lexicon | None = None,
    knowledge: Knowledge | None = None,
) -> Validation:
    """Judge a prompt offline. Words in `protected` (trigger words) are never at fault. Any string is accepted.

    With the `knowledge` of a model its own words count: what it was never taught is rare, holds up no emotion, and is
    exchanged for the nearest word in the repair.
    """
    lexicon = lexicon or Lexicon.load()
    vocabulary = vocabulary_of(lexicon)
    prompt_read = prompt[:READ_AT_MOST]
    plain = strip_weights(_blanked(prompt_read, protected))
    parts = list(dict.fromkeys(normal(part.text) for part in segments(plain)))
    ambiguity = _ambiguity(parts, plain)
    taught = [part for part in parts if knowledge is None or not knowledge.tags or knowledge.knows(part)]
    attackable, _ = _attackability(taught if taught else parts, lexicon, vocabulary)
    unknown = unknown_words(prompt_read, knowledge, lexicon, protected) if knowledge and knowledge.tags else ()
    return Validation(
        prompt=prompt,
        ambiguity=ambiguity,
        conflicts=_conflicts(parts, prompt_read, lexicon),
        rare_words=_rare(plain, prompt_read, protected, vocabulary, unknown),
        attackability=attackable,
        repaired=_repaired(_exchanged(prompt_read, unknown), protected, vocabulary) + prompt[READ_AT_MOST:],
    )


def _exchanged(prompt: str, unknown: Sequence[UnknownWord]) -> str:
    """`prompt` with the nearest known words in the places of those that do nothing."""
    for one in unknown:
        if one.instead:
            pattern = rf"(?<![^\W_]){re.escape(one.word)}(?![^\W_])".replace(r"\ ", r"[ _]+")
            prompt = re.sub(pattern, one.instead[0].replace("\\", r"\\"), prompt, flags=re.IGNORECASE)
    return prompt


def assess(
    text: str, emotion: Sequence[str], lexicon: Lexicon, protected: Sequence[str] = ()
) -> tuple[float, list[str]]:
    """Confidence (0 to 1) that a prompt of `text` and these emotion words shows what was asked, and why not more."""
    confidence, notes = 0.95, []
    plain = strip_weights(text)
    clashes = lexicon.conflicts([emotion[0], *(part.text for part in segments(plain))])
    if clashes:
        confidence -= min(0.4, 0.2 * len(clashes))
        notes += [f"'{clash.first}' and '{clash.second}' don't go together: {clash.reason}." for clash in clashes[:3]]
    changes = harden(text, protected, lexicon).changes
    if changes:
        confidence -= min(0.3, 0.1 * len(changes))
        meant = ", ".join(f"'{change.target}' for '{change.source}'" for change in changes[:4] if change.source.strip())
        notes.append(
            f"There may be mistakes in the text: {meant}." if meant else "There are invisible characters in the text."
        )
    if len(plain.split()) > CHUNK_WORDS:
        confidence -= 0.05
        notes.append("A long text: its later words weigh less.")
    return confidence, notes


def _blanked(text: str, protected: Sequence[str]) -> str:
    """`text`, as long as before, without what nobody may judge or change; words between two parts still part them."""
    for start, end in protected_spans(text, protected):
        parting = "," if text[start:end] in ("BREAK", "AND") else " "
        text = text[:start] + parting.ljust(end - start) + text[end:]
    return text


def _ambiguity(parts: list[str], plain: str) -> Aspect:
    double = [part for part in parts if part in _TWO_MEANINGS]
    vague = [word for word in dict.fromkeys(WORD.findall(plain.lower())) if word in _VAGUE]
    vague = [word for word in vague if not any(word in part.split() and len(part.split()) > 1 for part in parts)]
    said = [f"{', '.join(double)} can mean two things"] if double else []
    said += [f"{', '.join(vague)} can't be drawn"] if vague else []
    empty = [] if parts else ["the prompt says nothing"]
    score = min(10.0, 2.0 * len(double) + 1.5 * len(vague) + 10.0 * len(empty))
    return Aspect(score=score, words=(*double, *vague), reason=_sentence([*said, *empty]))


def _conflicts(parts: list[str], prompt: str, lexicon: Lexicon) -> Aspect:
    clashes = lexicon.conflicts(parts[:200])
    wrong = balance(prompt)
    words = list(dict.fromkeys(word for clash in clashes for word in (clash.first, clash.second)))
    said = [f"'{clash.first}' and '{clash.second}': {clash.reason}" for clash in clashes[:3]] + wrong[:2]
    return Aspect(score=min(10.0, 3.0 * len(clashes) + 2.0 * len(wrong)), words=tuple(words), reason=_sentence(said))


def _rare(
    plain: str, prompt: str, protected: Sequence[str], vocabulary: Vocabulary, untaught: Sequence[UnknownWord]
) -> Aspect:
    slips = {change.source.lower() for change in harden(prompt, protected, vocabulary.lexicon).changes}
    words = [word for word in dict.fromkeys(WORD.findall(plain.lower())) if len(word) > 2 and word.isalpha()]
    unknown = [word for word in words if word not in slips and not vocabulary.known(word)]
    rare = [
        word
        for word in words
        if word not in slips and word not in unknown and word not in vocabulary.tags
        and (word in vocabulary.names or vocabulary.english.get(word, 0) >= 55)
    ]  # fmt: skip
    wrong = sorted(slip for slip in slips if slip.strip())
    never = [one.word for one in untaught if one.word not in slips]
    unknown = [word for word in unknown if not any(word in phrase.split() for phrase in never)]
    rare = [word for word in rare if not any(word in phrase.split() for phrase in never)]
    said = [f"{', '.join(wrong[:5])} looks like a mistake"] if wrong else []
    said += [f"no model is sure to know {', '.join(unknown[:5])}"] if unknown else []
    said += [f"this model shows little of {', '.join(never[:5])}"] if never else []
    said += [f"{', '.join(rare[:5])}: rare words or names"] if rare else []
    score = min(10.0, 2.5 * len(slips) + 2.0 * len(never) + 1.5 * len(unknown) + 0.7 * len(rare))
    return Aspect(score=round(score, 1), words=(*wrong, *never, *unknown, *rare), reason=_sentence(said))


def _attackability(parts: list[str], lexicon: Lexicon, vocabulary: Vocabulary) -> tuple[Aspect, list[str]]:
    """How much hangs on single words, and near-synonyms that would hold the emotion up."""
    moods = {name: {*words["first"], *words["more"]} for name, words in layer_words()["emotion"].items()}
    said = {
        name: [part for part in parts if part in words or _names(part, name, lexicon)] for name, words in moods.items()
    }
    present = {name: words for name, words in said.items() if words}
    if not present:
        return Aspect(score=2.0, reason="No emotion is named.") if parts else Aspect(score=0.0), []
    name, words = max(present.items(), key=lambda item: len(item[1]))
    alone = {1: 7.0, 2: 4.5, 3: 2.0}.get(len(words), 0.5)
    fragile = [word for word in words if _has_neighbours(word, vocabulary)]
    score = min(10.0, alone + 2.0 * len(fragile) / len(words))
    missing = [word for word in layer_words()["emotion"][name]["first"] if word not in parts][: max(0, 4 - len(words))]
    reason = ""
    if len(words) < 3:
        reason = f"'{name}' hangs on {'one word' if len(words) == 1 else 'two words'}; one slip can lose it."
    elif fragile:
        reason = f"One letter makes another word of {', '.join(fragile)}."
    return Aspect(score=round(score, 1), words=tuple(words), reason=reason), missing


def _names(part: str, emotion: str, lexicon: Lexicon) -> bool:
    tag = lexicon.find(part)
    return tag is not None and tag.name == emotion


@lru_cache(maxsize=4096)
def _has_neighbours(word: str, vocabulary: Vocabulary) -> bool:
    """Another common English word is one letter away ("calm" and "clam")."""
    return len(word) > 1 and word.isalpha() and bool(vocabulary.near_english(word) - {word, word + "s"})


def _repaired(prompt: str, protected: Sequence[str], vocabulary: Vocabulary) -> str:
    """Mistakes undone, brackets closed, the later of two conflicting tags taken out, the emotion said more often.

    Each step reads what the one before it left: what is added goes with what stays, not with what was taken out.
    """
    lexicon = vocabulary.lexicon
    text = repair_brackets(harden(prompt, protected, lexicon).text)
    for _ in range(4):  # a tag that allowed two hair colours may itself be gone now
        clashing = _later(text, protected, lexicon)
        if not clashing:
            break
        for part in reversed(segments(_blanked(text, protected))):
            tag = lexicon.find(part.text)
            if tag is not None and tag.name in clashing:
                text = _without(text, part)
    plain = strip_weights(_blanked(text, protected))
    parts = list(dict.fromkeys(normal(part.text) for part in segments(plain)))
    _, missing = _attackability(parts, lexicon, vocabulary)
    missing = [word for word in missing if not _clashes(word, parts, lexicon)]
    return ", ".join([text, *missing] if text else missing) if missing else text


def _later(text: str, protected: Sequence[str], lexicon: Lexicon) -> set[str]:
    """The tags (by name) that exclude one which stands before them and stays."""
    parts = [normal(part.text) for part in segments(strip_weights(_blanked(text, protected)))]
    gone: set[str] = set()
    for clash in lexicon.conflicts(list(dict.fromkeys(parts))[:200]):
        if clash.first not in gone:
            gone.add(clash.second)
    return gone


def _clashes(word: str, parts: Sequence[str], lexicon: Lexicon) -> bool:
    tag = lexicon.find(word)
    return tag is not None and any(tag.name in (c.first, c.second) for c in lexicon.conflicts([*parts[:200], word]))


def _without(text: str, part: Segment) -> str:
    """`text` without one of its segments, the weight around it and a comma beside it."""
    start, end = part.start, part.end
    if weight := re.compile(r"\+{1,4}|-{2,4}").match(text, end):
        end = weight.end()
    before, after = _OPENED.search(text[:start]), _CLOSED.match(text, end)
    if before and after and not balance(text[before.start() : after.end()]):  # "(sad:1.2)", not "(sad, red hair)"
        start, end = before.start(), after.end()
    head, tail = text[:start], text[end:]
    if comma := re.match(r"\s*[,、，]\s*", tail):
        return head + tail[comma.end() :] if head.strip() else tail[comma.end() :]
    bare = head.rstrip()
    return (bare[:-1].rstrip() if bare.endswith((",", "、", "，")) else head) + tail


_OPENED = re.compile(r"[(\[{]+$")
_CLOSED = re.compile(r"(?:\s*:\s*[-+]?(?:\d*\.)?\d+)?[)\]}]+")


def _sentence(said: Sequence[str]) -> str:
    text = "; ".join(said)
    return text[:1].upper() + text[1:] + "." if text else ""
