"""Random characters that look as if somebody had chosen them.

This module does not know how a spec is drawn or worded.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from .colors import COLORS, EYE_COLORS, HAIR_COLORS, SKINS
from .expressions import EXPRESSIONS
from .spec import ACCESSORIES, EMOTIONS, GAZES, LENGTHS, OUTFITS, STYLES, CharacterSpec, check_choices

BOYS_ACCESSORIES = (
    "glasses", "hat", "headphones", "earrings", "hairclip", "cat ears", "horns", "mole", "freckles", "bandaid",
)  # fmt: skip
ON_TOP_OF_THE_HEAD = {"hat", "cat ears", "headphones", "ribbon", "halo", "horns"}
BACKGROUNDS_OF_STYLE = {
    "casual": ("plain", "gradient", "circle", "dots", "stripes", "sky", "petals", "rays"),
    "formal": ("plain", "gradient", "night", "bokeh", "stripes"),
    "artistic": ("splash", "splash", "splash", "petals", "sky", "sunset"),
    "realistic": ("gradient", "gradient", "bokeh", "bokeh", "plain", "sky", "sunset", "night"),
}


def _girls_hair(rng: random.Random) -> tuple[str, str, str]:
    style = rng.choice(
        ("straight", "straight", "wavy", "wavy", "bob", "twintails", "twintails", "ponytail", "ponytail", "messy",
         "braids", "buns")
    )  # fmt: skip
    lengths = {
        "bob": "short",
        "twintails": rng.choice(("medium", "long", "long")),
        "ponytail": rng.choice(("medium", "long")),
        "braids": rng.choice(("medium", "long")),
        "messy": rng.choice(LENGTHS),
        "buns": rng.choice(("short", "medium")),
    }
    length = lengths.get(style, rng.choice(("medium", "long", "long")))
    return style, length, rng.choice(("blunt", "choppy", "choppy", "swept", "parted", "crossed"))


def _boys_hair(rng: random.Random) -> tuple[str, str, str]:
    style = rng.choice(("straight", "spiky", "spiky", "messy", "messy", "wavy", "ponytail"))
    length = "short"
    if style == "ponytail":
        length = "long"
    elif style != "spiky" and rng.random() < 0.2:
        length = "medium"
    return style, length, rng.choice(("choppy", "choppy", "swept", "swept", "parted", "crossed", "micro"))


def _accessories(rng: random.Random, girl: bool, hair_style: str) -> tuple[str, ...]:
    pool = list(ACCESSORIES if girl else BOYS_ACCESSORIES)
    chosen: list[str] = []
    while rng.random() < (0.55 if not chosen else 0.25) and len(chosen) < 2:
        accessory = rng.choice(pool)
        if accessory in ("cat ears", "hat") and hair_style in ("buns", "spiky"):
            continue
        if accessory in chosen or (accessory in ON_TOP_OF_THE_HEAD and ON_TOP_OF_THE_HEAD & set(chosen)):
            continue
        chosen.append(accessory)
    return tuple(sorted(chosen))


def sample_spec(rng: random.Random, **fixed: Any) -> CharacterSpec:
    """A coherent random character; keyword arguments pin factors.

    Raises TypeError for a keyword that is no factor, ValueError for a value outside its vocabulary.
    """
    check_choices(fixed)
    pick = rng.choice
    drawn_gender = "girl" if rng.random() < 0.66 else "boy"
    girl = fixed.get("gender", drawn_gender) == "girl"
    drawn_style = pick(STYLES)
    style = fixed.get("style", drawn_style)
    hair_style, length, bangs = _girls_hair(rng) if girl else _boys_hair(rng)
    accessories = _accessories(rng, girl, hair_style)
    outfit = pick(OUTFITS[style]) if rng.random() < 0.8 else pick(pick(list(OUTFITS.values())))
    if not girl and outfit in ("serafuku", "frilled dress", "bow blouse"):
        outfit = pick(("suit", "shirt and tie", "kimono"))
    drawn_emotion = pick(EMOTIONS)
    emotion = fixed.get("emotion", drawn_emotion)
    hair = pick(list(HAIR_COLORS))
    background_color = pick([color for color in COLORS if color not in (hair, "black", "brown")])
    variant = rng.randrange(len(EXPRESSIONS[emotion]))
    tip = ""
    if rng.random() < 0.15 and (length != "short" or hair_style == "bob") and hair_style not in ("braids", "buns"):
        tip = pick([color for color in HAIR_COLORS if color != hair])
    spec = CharacterSpec(
        gender="girl" if girl else "boy",
        emotion=emotion,
        style=style,
        variant=variant,
        hair_color=hair,
        tip_color=tip,
        hair_length=length,
        hair_style=hair_style,
        bangs=bangs,
        ahoge="hat" not in accessories and rng.random() < 0.18,
        eye_color=pick(list(EYE_COLORS)),
        skin=rng.choices(list(SKINS), (4, 9, 3, 2, 2))[0],
        outfit=outfit,
        outfit_color=pick(list(COLORS)),
        accessories=accessories,
        accessory_color=pick(list(COLORS)),
        background=pick(BACKGROUNDS_OF_STYLE[style]),
        background_color=background_color,
        gaze="viewer" if rng.random() < 0.6 else pick(GAZES[1:]),
        tilt=round(max(-12, min(12, rng.gauss(0, 5))), 1),
        turn=round(max(-0.9, min(0.9, rng.gauss(0, 0.4))), 2),
        scale=round(rng.uniform(0.93, 1.1), 3),
        dx=round(rng.gauss(0, 0.018), 3),
        dy=round(rng.gauss(0, 0.012), 3),
    )
    return replace(spec, **fixed)
