"""Prompts for a teacher that draws its own training latents, and for measuring a student.

They are built as the studio's offline writer builds them (core, emotion, style, what the person adds, quality), from
the same word lists, so that a student practises what it will be asked. Knows words only: no model, no tokenizer.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

from studio.core.settings import ASSETS
from studio.core.specs import EMOTIONS, STYLES, Emotion, Style

EMPTY = 0.05  # share without a prompt: whoever sets guidance above 1 later needs that branch of the student too
_COLOURS = ("black", "brown", "blonde", "red", "orange", "pink", "purple", "blue", "aqua", "green", "grey", "white")
_EYES = ("blue", "green", "brown", "red", "purple", "yellow", "pink", "aqua", "grey", "orange")
_LENGTHS = ("short hair", "medium hair", "long hair")
_HAIR = (
    "straight hair", "wavy hair", "bob cut", "twintails", "ponytail", "spiky hair", "messy hair", "twin braids",
    "double bun", "blunt bangs", "swept bangs", "parted bangs", "hair between eyes",
)  # fmt: skip
_WORN: dict[str, tuple[str, ...]] = {
    "casual": ("hoodie", "t-shirt", "striped shirt", "sweater"),
    "formal": ("jacket, suit, necktie", "vest, dress shirt, necktie", "sailor collar, serafuku"),
    "artistic": ("kimono", "dress, frills", "scarf"),
    "realistic": ("coat", "turtleneck", "t-shirt", "striped shirt"),
}
_MORE = (
    "glasses", "hair ribbon", "hairclip", "cat ears", "hat", "headphones", "hair flower", "earrings", "choker",
    "freckles", "looking at viewer", "upper body", "ahoge",
)  # fmt: skip
_BACKGROUNDS = (
    "simple background", "gradient background", "circle background", "polka dot background", "striped background",
    "sky, clouds", "petals", "starry sky", "bokeh", "sunset",
)  # fmt: skip


@dataclass(frozen=True)
class LabelledPrompt:
    """A prompt and what it asks for; both None where it asks for nothing in particular."""

    text: str
    emotion: Emotion | None = None
    style: Style | None = None


@cache
def _words() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((ASSETS / "lexicon" / "layers.json").read_text(encoding="utf-8"))
    return data


def compose(rng: random.Random, emotion: Emotion, style: Style, least: int = 0) -> str:
    """One prompt for this emotion and style; `least` or more other words about the character are drawn from `rng`."""
    words = _words()
    parts = [rng.choice(("1girl", "1boy")), *words["core"]]
    for layer in (words["emotion"][emotion], words["style"][style]):
        first = list(layer["first"])
        if rng.random() < 0.5:  # the writer's other seeds exchange synonyms
            first[-1] = rng.choice(layer["more"])
        parts += first
    looks = [f"{rng.choice(_COLOURS)} hair", f"{rng.choice(_EYES)} eyes", rng.choice(_LENGTHS), rng.choice(_HAIR)]
    looks += [f"{rng.choice(_COLOURS)} {rng.choice(_WORN[style])}", rng.choice(_BACKGROUNDS)]
    looks += rng.sample(_MORE, 2)
    parts += rng.sample(looks, rng.randint(least, len(looks)))  # many people add a word or two, some add nothing
    parts += words["quality"][rng.choice(("draft", "standard", "standard", "high"))]
    return ", ".join(dict.fromkeys(parts))


def training(count: int, seed: int) -> list[str]:
    """`count` prompts with every emotion and style equally often; prompt k depends on (seed, k) only."""
    prompts = []
    for k in range(count):
        rng = random.Random(f"distill {seed} {k}")
        emotion, style = EMOTIONS[k % len(EMOTIONS)], STYLES[k // len(EMOTIONS) % len(STYLES)]
        prompts.append("" if rng.random() < EMPTY else compose(rng, emotion, style))
    return prompts


def measuring(count: int) -> list[LabelledPrompt]:
    """`count` prompts to measure with, the same for every run; characters detailed enough not to be in `training`."""
    prompts = []
    for k in range(count):
        emotion, style = EMOTIONS[k % len(EMOTIONS)], STYLES[k // len(EMOTIONS) % len(STYLES)]
        prompts.append(LabelledPrompt(compose(random.Random(f"measure {k}"), emotion, style, least=4), emotion, style))
    return prompts
