"""Human-looking mistakes put into a prompt on purpose: to measure the defence, and to stress a prompt.

The three spaces of Gao et al. (2306.13103): typo (a slip of the keyboard), glyph (a look-alike character) and
phonetic (a spelling that sounds the same), on k% of the words; and their greedy search, which ranks words by what
their removal changes, perturbs the top one, and keeps the worst. Scores come from whoever asks: nothing here draws.

A mistake that makes another English word ("hair" to "hail") asks for something else: no spelling can tell. Such
results are drawn again unless `real_words` is set, and measurements count them apart.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from studio.prompting.keyboard import neighbours
from studio.prompting.lexicon import Lexicon
from studio.prompting.syntax import protected_spans
from studio.prompting.vocabulary import vocabulary_of

AttackKind = Literal["typo", "glyph", "phonetic", "mixed"]
KINDS: tuple[AttackKind, ...] = ("typo", "glyph", "phonetic")
_TRIES = 24
_TARGET = re.compile(r"(?<![^\W_])[A-Za-z]{3,}(?![^\W_])")

# Look-alikes that an attacker would use: plain, and common enough that fonts draw them.
_GLYPHS = {
    "a": ("а", "ɑ", "α", "@", "4", "á", "ａ"), "b": ("Ь", "ƅ", "8", "ḃ", "ｂ"), "c": ("с", "ϲ", "ç", "ｃ"),
    "d": ("ԁ", "ɗ", "ď", "ｄ"), "e": ("е", "ҽ", "3", "é", "ｅ"), "f": ("ƒ", "ғ", "ḟ", "ｆ"),
    "g": ("ɡ", "9", "ğ", "ｇ"), "h": ("һ", "հ", "ħ", "ｈ"), "i": ("і", "ı", "1", "í", "l", "ｉ"),
    "j": ("ј", "ʝ", "ｊ"), "k": ("κ", "к", "ķ", "ｋ"), "l": ("ӏ", "1", "I", "ł", "ｌ"), "m": ("м", "rn", "ṁ", "ｍ"),
    "n": ("ո", "ñ", "п", "ｎ"), "o": ("о", "ο", "0", "ö", "ｏ"), "p": ("р", "ρ", "þ", "ｐ"), "q": ("ԛ", "9", "ｑ"),
    "r": ("г", "ř", "ʀ", "ｒ"), "s": ("ѕ", "5", "$", "ş", "ｓ"), "t": ("т", "7", "ţ", "ｔ"),
    "u": ("υ", "ս", "ü", "ｕ"), "v": ("ν", "ѵ", "ｖ"), "w": ("ԝ", "ω", "vv", "ŵ", "ｗ"), "x": ("х", "×", "ｘ"),
    "y": ("у", "ү", "ÿ", "ｙ"), "z": ("ᴢ", "2", "ž", "ｚ"),
}  # fmt: skip
# Spellings that English readers pronounce alike, as (what stands there, what is written instead).
_SPELLINGS = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"ph", "f"), (r"f(?!f)", "ph"), (r"ck", "k"), (r"c(?=[aourlt])", "k"), (r"k(?=[aou])", "c"),
        (r"c(?=[eiy])", "s"), (r"(?<=[aeiou])s(?=[aeiou]|$)", "z"), (r"z", "s"), (r"qu", "kw"), (r"x", "ks"),
        (r"ee", "ea"), (r"ea", "ee"), (r"ai", "ay"), (r"ay", "ai"), (r"oo", "u"), (r"ou", "ow"), (r"ow", "ou"),
        (r"igh", "ie"), (r"ight", "ite"), (r"y$", "ie"), (r"ie", "ee"), (r"(?<=[^aeiou])y(?=[^aeiou])", "i"),
        (r"i(?=[^aeiou]e)", "y"), (r"(?<=[a-z]{2})er$", "ar"), (r"or$", "er"), (r"ir", "ur"), (r"ur", "er"),
        (r"er(?=[a-z])", "ur"), (r"le$", "el"), (r"tion", "shun"), (r"sion", "shun"), (r"^kn", "n"), (r"^wr", "r"),
        (r"^wh", "w"), (r"mb$", "m"), (r"([bdfglmnprst])\1", r"\1"), (r"(?<=[aeiou])([blmnprt])(?=[aeiouy])", r"\1\1"),
        (r"dge", "j"), (r"j", "g"), (r"g(?=e)", "j"), (r"aw", "au"), (r"ue$", "oo"), (r"ew", "oo"), (r"ch$", "tch"),
        (r"tch", "ch"), (r"ous$", "us"), (r"ful$", "full"), (r"(?<=[a-z]{2})ed$", "d"), (r"(?<=[^aeioucg])e$", ""),
        (r"air", "are"), (r"are$", "air"), (r"ear", "eer"), (r"eer", "ear"), (r"oa", "oe"), (r"o(?=[^aeiou]e)", "oa"),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Swap:
    """One word that was attacked; `start` and `end` are in the text before the attack."""

    start: int
    end: int
    source: str
    target: str
    kind: str


@dataclass(frozen=True, slots=True)
class Attacked:
    """An attacked prompt and what was done to it, in order."""

    text: str
    swaps: tuple[Swap, ...]


def targets(text: str, protected: Sequence[str] = ()) -> list[tuple[int, int]]:
    """Spans of the words that can be attacked: plain ASCII words of three letters or more outside syntax."""
    closed = protected_spans(text, protected)
    return [m.span() for m in _TARGET.finditer(text) if not any(a < m.end() and m.start() < b for a, b in closed)]


def attack(
    text: str,
    kind: AttackKind,
    share: float,
    seed: int,
    protected: Sequence[str] = (),
    real_words: bool = False,
) -> Attacked:
    """Perturb `share` (0 to 1) of the attackable words, at least one; equal arguments give equal attacks."""
    rng = random.Random(f"{kind}-{seed}-{text}")
    spans = targets(text, protected)
    wanted = min(len(spans), max(1, round(share * len(spans)))) if spans and share > 0 else 0
    rng.shuffle(spans)
    swaps: list[Swap] = []
    for start, end in spans:
        if len(swaps) == wanted:
            break
        one: AttackKind = rng.choice(KINDS) if kind == "mixed" else kind
        changed = perturb(text[start:end], one, rng, real_words)
        if changed is not None:
            swaps.append(Swap(start, end, text[start:end], changed, one))
    return apply(text, swaps)


def apply(text: str, swaps: Sequence[Swap]) -> Attacked:
    """`text` with these swaps made; they must not overlap."""
    ordered = sorted(swaps, key=lambda swap: swap.start)
    parts, position = [], 0
    for swap in ordered:
        parts += [text[position : swap.start], swap.target]
        position = swap.end
    return Attacked("".join([*parts, text[position:]]), tuple(ordered))


def perturb(word: str, kind: AttackKind, rng: random.Random, real_words: bool = False) -> str | None:
    """One wrong spelling of `word`, or None where this kind knows none for it."""
    for _ in range(_TRIES):
        changed = _METHODS[kind](word, rng)
        if changed is None:
            return None
        if changed.lower() != word.lower() and (real_words or not is_word(changed)):
            return changed
    return None


@lru_cache(maxsize=65536)
def is_word(word: str) -> bool:
    """The word is right as it stands in English, in the lexicon, or as a name."""
    return vocabulary_of(Lexicon.load()).listed(word.lower())


def _typo(word: str, rng: random.Random) -> str:
    index = rng.randrange(len(word))
    letter = word[index].lower()
    near = sorted(neighbours().get(letter, letter))
    how = rng.choice(("swap", "drop", "double", "replace", "insert"))
    if how == "swap":
        index = min(index, len(word) - 2)
        return word[:index] + word[index + 1] + word[index] + word[index + 2 :]
    if how == "drop":
        return word[:index] + word[index + 1 :]
    if how == "double":
        return word[:index] + word[index] + word[index:]
    if how == "replace":
        return word[:index] + rng.choice(near) + word[index + 1 :]
    return word[: index + 1] + rng.choice(near) + word[index + 1 :]


def _glyph(word: str, rng: random.Random) -> str | None:
    indices = [i for i, c in enumerate(word) if c.lower() in _GLYPHS]
    if not indices:
        return None
    chosen = rng.sample(indices, min(len(indices), rng.choice((1, 1, 2, 3))))
    letters = [rng.choice(_GLYPHS[c.lower()]) if i in chosen else c for i, c in enumerate(word)]
    if rng.random() < 0.15:
        letters.insert(rng.randrange(1, len(letters)), rng.choice("\u200b\u200d\u2060\u00ad"))
    return "".join(letters)


def _phonetic(word: str, rng: random.Random) -> str | None:
    lower = word.lower()
    choices = [(pattern, new) for pattern, new in _SPELLINGS if pattern.search(lower)]
    if not choices:
        return None
    pattern, new = rng.choice(choices)
    changed = pattern.sub(new, lower, count=1)
    if len(word) > 6 and rng.random() < 0.35:
        others = [(p, n) for p, n in choices if p is not pattern and p.search(changed)]
        if others:
            second, other = rng.choice(others)
            changed = second.sub(other, changed, count=1)
    return changed.capitalize() if word[0].isupper() else changed


def _mixed(word: str, rng: random.Random) -> str | None:
    return _METHODS[rng.choice(KINDS)](word, rng)


_METHODS: dict[str, Callable[[str, random.Random], str | None]] = {
    "typo": _typo,
    "glyph": _glyph,
    "phonetic": _phonetic,
    "mixed": _mixed,
}


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One round of the greedy search: the word, what it became, and the score afterwards."""

    swap: Swap
    score: float


SearchResult = tuple[Attacked, tuple[SearchStep, ...]]


def search(
    text: str,
    kind: AttackKind = "mixed",
    words: int = 1,
    candidates: int = 8,
    seed: int = 0,
    protected: Sequence[str] = (),
    ranked: int | None = None,
    first: Sequence[str] = (),
) -> Generator[list[str], Sequence[float], SearchResult]:
    """Gao et al.'s greedy search, which asks for scores and waits: it yields prompts and is sent how well each keeps
    its meaning (higher is better, for instance the judge's probability of the asked emotion, averaged over seeds); the
    attack makes that as low as it can.

    Ranks the words by how far the score falls without them, then perturbs up to `words` of them, worst first, keeping
    the best of `candidates` spellings of each. At most `ranked` words are ranked: those of the phrases in `first`, then
    the others as they stand. Never asks for more than `most_prompts`.
    """
    spans = _ranked(text, protected, ranked, first)
    best, *scores = yield [text, *(text[:start] + text[end:] for start, end in spans)]
    without = dict(zip(spans, scores, strict=True))
    rng = random.Random(f"greedy-{kind}-{seed}-{text}")
    kept: list[Swap] = []
    steps: list[SearchStep] = []
    for start, end in sorted(spans, key=lambda span: without[span])[:words]:
        spellings: list[tuple[str, str]] = []
        for _ in range(candidates * 3):
            one: AttackKind = rng.choice(KINDS) if kind == "mixed" else kind
            changed = perturb(text[start:end], one, rng)
            if changed is not None and changed not in [spelling for spelling, _ in spellings]:
                spellings.append((changed, one))
            if len(spellings) == candidates:
                break
        tried = [Swap(start, end, text[start:end], spelling, one) for spelling, one in spellings]
        if not tried:
            continue
        values = yield [apply(text, [*kept, swap]).text for swap in tried]
        value, swap = min(zip(values, tried, strict=True), key=lambda pair: pair[0])
        if value < best:
            best = value
            kept.append(swap)
            steps.append(SearchStep(swap, value))
    return apply(text, kept), tuple(steps)


def most_prompts(
    text: str, words: int, candidates: int, protected: Sequence[str] = (), ranked: int | None = None
) -> int:
    """How many prompts `search` asks for with these arguments, at most."""
    spans = _ranked(text, protected, ranked, ())
    return 1 + len(spans) + min(words, len(spans)) * candidates


def _ranked(text: str, protected: Sequence[str], most: int | None, first: Sequence[str]) -> list[tuple[int, int]]:
    """The words that are ranked, as they stand in the text."""
    spans = targets(text, protected)
    if most is None or len(spans) <= most:
        return spans
    likely = {word.lower() for phrase in first for word in re.findall(r"[A-Za-z]+", phrase)}
    return sorted(sorted(spans, key=lambda span: text[span[0] : span[1]].lower() not in likely)[:most])


def greedy(
    text: str,
    score: Callable[[str], float],
    kind: AttackKind = "mixed",
    words: int = 1,
    candidates: int = 8,
    seed: int = 0,
    protected: Sequence[str] = (),
    on_step: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """`search` with a `score` that answers at once, prompt by prompt. `on_step(done, total)` counts its calls and may
    raise to cancel.
    """
    total = most_prompts(text, words, candidates, protected)
    steps = search(text, kind, words, candidates, seed, protected)
    done = 0
    try:
        wanted = next(steps)
        while True:
            scores = []
            for prompt in wanted:
                scores.append(score(prompt))
                done += 1
                if on_step is not None:
                    on_step(done, total)
            wanted = steps.send(scores)
    except StopIteration as over:
        result: SearchResult = over.value
        return result
