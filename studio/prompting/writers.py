"""Who writes prompts: one protocol, the offline writer behind it, and the fixed template to compare with.

A prompt has four layers - core, emotion, style, quality - and each says its thing in several near-synonyms, so that
losing one token to a typo, a look-alike glyph or a sound-alike does not lose the meaning (the attack surface that
Gao et al., 2306.13103, describe). The offline writer knows only the lexicon; it doesn't understand sentences and
never calls anything. `claude.ClaudeWriter` is the other writer.
"""

from __future__ import annotations

import itertools
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from studio.core.specs import Emotion, EveryWord, Quality, Seed, Style, Text
from studio.prompting import phrases
from studio.prompting.knowledge import Knowledge, UnknownWord
from studio.prompting.lexicon import JAPANESE, WORD, Lexicon, Tag, layer_words, normal
from studio.prompting.syntax import balance, repair_brackets, segments, strip_weights
from studio.prompting.validation import assess

# What is worn in a style only: who asks for one of these in another style gets it, and the style gives way.
OUTFITS: dict[Style, frozenset[str]] = {
    "casual": frozenset(("hoodie", "t-shirt", "striped shirt", "sweater")),
    "formal": frozenset(("suit", "jacket", "vest", "dress shirt", "serafuku", "white shirt")),
    "artistic": frozenset(("kimono", "dress")),
    "realistic": frozenset(("coat", "turtleneck", "t-shirt", "striped shirt")),
}
# Words of a style's layer that say what is worn.
ATTIRE = frozenset(("casual clothes", "casual", "formal wear", "formal", "everyday style"))
# What is worn beside clothes, by its last word.
TRIMMINGS = frozenset((
    "scarf", "shawl", "bow", "bowtie", "necktie", "ascot", "neckerchief", "belt", "sash", "obi", "suspenders",
    "buttons",
    "zipper", "pocket", "hood", "up", "socks", "shoes", "boots", "sneakers", "loafers", "heels", "sandals", "geta",
    "barefoot", "sleeves", "collar", "trim", "frills", "lace", "thighhighs", "kneehighs", "pantyhose", "leggings",
))  # fmt: skip
RECOMMENDED_CONFIDENCE = 0.8  # from here on a prompt just runs
TEMPLATE_VERSION = 2  # part of the cache's key: raise it when the same request should be written anew
WriterName = Literal["claude", "offline", "fixed"]


class PromptRequest(BaseModel):
    """What a prompt should say. `trigger_words` belong to loaded LoRAs and are never touched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    emotion: Emotion = "happy"
    style: Style = "casual"
    quality: Quality = "standard"
    text: Text = ""
    every_word: EveryWord = False
    seed: Seed = 0  # 0 writes the plain form; other seeds choose other near-synonyms
    offline: bool = False
    model: Annotated[str, Field(max_length=1024)] = ""  # whose words count; "": the studio's default
    trigger_words: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(default=(), max_length=64)


class Layers(BaseModel):
    """The parts of a positive prompt, in the order in which they stand; `text` is the person's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    core: tuple[str, ...]
    emotion: tuple[str, ...]
    style: tuple[str, ...]
    text: str = ""
    quality: tuple[str, ...]


class PromptResult(BaseModel):
    """A written prompt. `confidence` is 0 to 1; below `RECOMMENDED_CONFIDENCE` the notes say why.

    `unknown_words` are those of the person's text that do little with the model (see `confidence.judged`), `left_out`
    those of them that aren't in the prompt (see `leaving_out.leave_out`). Tokens and cost are those of this call: zero
    when it came from the cache or was written offline.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Layers
    positive_prompt: str
    negative_prompt: str
    confidence: float = Field(ge=0, le=1)
    notes: tuple[str, ...] = ()
    unknown_words: tuple[UnknownWord, ...] = ()
    left_out: tuple[str, ...] = ()
    writer: WriterName
    cached: bool = False
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0

    @property
    def doubtful(self) -> bool:
        """Too unsure to be drawn without a word: below `RECOMMENDED_CONFIDENCE`."""
        return self.confidence < RECOMMENDED_CONFIDENCE


class Writer(Protocol):
    """Turns a request into a prompt. Never raises for anything that a person or a network did."""

    def write(self, request: PromptRequest) -> PromptResult: ...

    def use(self, lexicon: Lexicon) -> None:
        """Know these words from now on."""


def clean_text(text: str) -> str:
    """The person's text as it may stand in a prompt: no control or invisible characters, no blank or doubled commas.

    Everything else stays literally as typed, weights and capitals too.
    """
    kept = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs", "Co", "Cn"))
    if not any(unicodedata.category(c)[0] in "LNSP" for c in kept):
        return ""  # only blanks, marks and zero-width characters
    kept = re.sub(r"\s+", " ", kept)
    return re.sub(r"(?:\s*,)+\s*", ", ", kept).strip(" ,")


def subject_of(text: str, lexicon: Lexicon) -> tuple[str, ...]:
    """Who is in the picture according to the text: ("1girl", "solo"), ("1boy", "solo") or the tag for several people.

    The default is a girl; "girl" wins over "boy" only where it is named first.
    """
    data = layer_words()["subject"]
    plain = strip_weights(text)
    tags = [tag for part in segments(plain) if (tag := lexicon.find(part.text))]
    for several in (tag.name for tag in tags if tag.name in data["several"]):
        return (several,)
    names = [tag.name for tag in tags if tag.name in ("1girl", "1boy", "1other")]
    if not names:
        words = WORD.findall(plain.lower())
        phrases = [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]
        people = [hit.name for phrase in phrases if (hit := lexicon.find(phrase))]
        names = [name for name in people if name in ("1girl", "1boy", "1other")]
        names = names or [_GENDERED[name] for name in people if name in _GENDERED]
    distinct = list(dict.fromkeys(names))
    if len(distinct) > 1:
        return tuple(distinct)
    return (distinct[0] if distinct else data["default"], "solo")


# Tags that say who is drawn without one of the counting tags.
_GENDERED = {
    "bishounen": "1boy", "cat boy": "1boy", "prince": "1boy", "king": "1boy", "butler": "1boy", "beard": "1boy",
    "mustache": "1boy", "bishoujo": "1girl", "cat girl": "1girl", "princess": "1girl", "queen": "1girl",
    "maid": "1girl", "witch": "1girl", "nun": "1girl", "shrine maiden": "1girl", "magical girl": "1girl",
}  # fmt: skip


def assemble(layers: Layers) -> str:
    """The positive prompt: all layers joined, no phrase twice, and the person's text literally in its place."""
    typed = {normal(part.text) for part in segments(layers.text)}
    before: list[str] = []
    for word in (*layers.core, *layers.emotion, *layers.style):
        if word not in typed and word not in before:
            before.append(word)
    after = [w for w in dict.fromkeys(layers.quality) if w not in typed and w not in before]
    return ", ".join([*before, *([layers.text] if layers.text else []), *after])


class OfflineWriter:
    """Writes from the lexicon alone. Equal requests give equal prompts."""

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        self.lexicon = lexicon or Lexicon.load()

    def use(self, lexicon: Lexicon) -> None:
        """Know these words from now on."""
        self.lexicon = lexicon

    def write(self, request: PromptRequest) -> PromptResult:
        data = layer_words()
        typed = read_text(request, self.lexicon)
        core = [*typed.subject, *(word for word in data["core"] if word != "solo")]
        style = _choose(data["style"][request.style], request.seed, "style", 2)
        layers = Layers(
            core=without_contradicted(core, typed.text, self.lexicon),
            emotion=_choose(data["emotion"][request.emotion], request.seed, "emotion", 4),
            style=()
            if _dressed_otherwise(request, typed.text, self.lexicon)
            else without_contradicted(style, typed.text, self.lexicon),
            text=typed.text,
            quality=tuple(data["quality"][request.quality]),
        )
        confidence, doubts = assess(typed.text, layers.emotion, self.lexicon, request.trigger_words)
        return PromptResult(
            layers=layers,
            positive_prompt=assemble(layers),
            negative_prompt=negative_for(request.quality, typed.text),
            confidence=round(min(1.0, max(0.0, confidence - typed.penalty)), 2),
            notes=(*typed.notes, *doubts),
            writer="offline",
        )


@dataclass(frozen=True, slots=True)
class TypedText:
    """The person's text as it goes into the prompt, and what had to be done to it."""

    text: str
    subject: tuple[str, ...]  # see `subject_of`
    notes: tuple[str, ...]
    penalty: float  # taken off the confidence


def read_text(request: PromptRequest, lexicon: Lexicon) -> TypedText:
    """Japanese becomes tags, "pink twintails" two, brackets get their partners; all else stays literally as typed."""
    notes: list[str] = []
    penalty = 0.0
    text = request.text
    kept = [word for word in request.trigger_words if JAPANESE.search(word) and word in text]
    for word in kept:
        text = text.replace(word, " ")
    translated = lexicon.translate(text)
    text = ", ".join([*kept, translated.text]) if kept else translated.text
    subject = subject_of(text, lexicon)
    if translated.tags:
        subjects = ("1girl", "1boy")  # the core layer says it at the front
        text = ", ".join(part for part in text.split(", ") if part not in subjects or part not in translated.tags)
        notes.append("Translated from Japanese: " + ", ".join(dict.fromkeys(translated.tags)) + ".")
    if translated.unknown:
        penalty += 0.1 + 0.4 * len(translated.unknown) / (len(translated.unknown) + len(translated.tags))
        words = ", ".join(f"「{word}」" for word in dict.fromkeys(translated.unknown))
        notes.append(f"No tag is known for {words}; left out of the prompt.")
    text, apart = phrases.split_hair_phrases(clean_text(text), lexicon)
    notes += [f"'{phrase}' is written as tags: {tags}." for phrase, tags in apart.items()]
    wrong = balance(text)
    if wrong:
        penalty += 0.1
        text = repair_brackets(text)
        notes.append(f"The brackets didn't match and were repaired: {wrong[0]}.")
    return TypedText(text, subject, tuple(notes), penalty)


def negative_for(quality: Quality, text: str, words: Sequence[str] = ()) -> str:
    """The negative prompt of a quality level, or `words`, without what the person asks for ("monochrome", "text")."""
    wanted = {normal(part.text) for part in segments(text)}
    return ", ".join(word for word in words or layer_words()["negative"][quality] if word not in wanted)


def in_words_of(result: PromptResult, knowledge: Knowledge, quality: Quality) -> PromptResult:
    """A written prompt with what its model calls good pictures and bad ones in place of the writer's words for them."""
    changes: dict[str, object] = {}
    if knowledge.quality and result.layers.quality:
        layers = result.layers.model_copy(update={"quality": knowledge.quality})
        changes |= {"layers": layers, "positive_prompt": assemble(layers)}
    if knowledge.negative:
        changes["negative_prompt"] = negative_for(quality, result.layers.text, knowledge.negative)
    return result.model_copy(update=changes)


def without_contradicted(words: Iterable[str], text: str, lexicon: Lexicon) -> tuple[str, ...]:
    """`words` of a layer but for those that the person's text says otherwise: clothes where it names clothes, and what
    can't be drawn beside one of its tags.
    """
    typed = list(dict.fromkeys(tags_in(text, lexicon)))
    dressed = any(tag.category == "clothes" and tag.name.split()[-1] not in TRIMMINGS for tag in typed)
    kept = []
    for word in words:
        tag = lexicon.find(word)
        if tag is not None and tag not in typed:
            if dressed and (tag.category == "clothes" or word in ATTIRE):
                continue
            if any(clash.first == tag.name or clash.second == tag.name
                   for clash in lexicon.conflicts([*(one.name for one in typed), tag.name])):  # fmt: skip
                continue
        elif dressed and word in ATTIRE:
            continue
        kept.append(word)
    return tuple(kept)


def _dressed_otherwise(request: PromptRequest, text: str, lexicon: Lexicon) -> bool:
    """The text names clothes of other styles alone, and the style is the default one: nobody chose it."""
    if request.style != PromptRequest.model_fields["style"].default:
        return False
    worn = {tag.name for tag in tags_in(text, lexicon) if tag.category == "clothes"}
    worn |= {name.partition(" ")[2] for name in worn}
    own = OUTFITS[request.style]
    return bool(worn & frozenset().union(*OUTFITS.values()) - own) and not worn & own


def tags_in(text: str, lexicon: Lexicon) -> Iterator[Tag]:
    """The tags that a text names, in tags of its own or in sentences, longest phrases first."""
    for part in segments(strip_weights(text)):
        words = [word.strip(".!?;:\"'") for word in normal(part.text).split()]
        start = 0
        while start < len(words):
            for size in range(min(5, len(words) - start), 0, -1):
                if (tag := lexicon.find(" ".join(words[start : start + size]))) is not None:
                    yield tag
                    start += size - 1
                    break
            start += 1


def _choose(options: dict[str, list[str]], seed: int, layer: str, count: int) -> tuple[str, ...]:
    """The first words for seed 0; else the word that names the thing and a seeded choice among its near-synonyms."""
    if seed == 0:
        return tuple(options["first"][:count])
    lead, *rest = [*options["first"], *options["more"]]
    return (lead, *random.Random(f"{layer}-{seed}").sample(rest, count - 1))


def fixed_template(request: PromptRequest) -> PromptResult:
    """The plain template that experiments compare with: one word for the emotion, one for the style, no redundancy."""
    data = layer_words()
    text = clean_text(request.text)
    layers = Layers(
        core=(data["subject"]["default"], "anime character", "detailed face"),
        emotion=(request.emotion,),
        style=(f"{request.style} style",),
        text=text,
        quality=("masterpiece", "best quality"),
    )
    subject = subject_of(text, Lexicon.load())[0]
    layers = layers.model_copy(update={"core": (subject, *layers.core[1:])})
    return PromptResult(
        layers=layers,
        positive_prompt=assemble(layers),
        negative_prompt=", ".join(data["fixed"]["negative"]),
        confidence=RECOMMENDED_CONFIDENCE,
        notes=("Written from the fixed template.",),
        writer="fixed",
    )
