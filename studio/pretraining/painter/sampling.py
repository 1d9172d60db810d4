"""Random characters that look as if somebody had chosen them.

This module does not know how a spec is drawn or worded.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .colors import COLORS, EYE_COLORS, HAIR_COLORS, SKINS
from .expressions import EXPRESSIONS
from .spec import (
    EMOTIONS,
    GAZES,
    HATS,
    LENGTHS,
    ON_TOP_OF_THE_HEAD,
    OUTFITS,
    STYLES,
    CharacterSpec,
    check_choices,
)

ACCESSORIES: dict[str, float] = {  # how often each is worn
    "glasses": 4, "cat ears": 4, "ribbon": 3, "hat": 2, "witch hat": 2, "straw hat": 2, "earrings": 3, "flower": 2,
    "headphones": 2, "hairclip": 1.5, "choker": 1.5, "halo": 1.5, "horns": 1.5, "eyepatch": 1.5, "mole": 1,
    "freckles": 1, "bandaid": 1,
}  # fmt: skip
GIRLS_ACCESSORIES = ("ribbon", "flower", "choker", "halo", "witch hat")
ON_THE_EYES = {"glasses", "eyepatch"}
GIRLS_OUTFITS = ("serafuku", "frilled dress", "bow blouse", "maid")
OUTFIT_WEIGHTS = {  # what people ask for more often, and what less; 1 for all others
    "serafuku": 2, "maid": 2, "blazer": 1.4, "hoodie": 1.6, "frilled dress": 1.4, "t-shirt": 0.7, "scarf": 0.6,
    "striped shirt": 0.5, "bow blouse": 0.7, "turtleneck": 0.5,
}  # fmt: skip
USUAL_COLORS = {"maid": "black", "armor": "grey", "suit": "black", "serafuku": "blue", "blazer": "blue"}
BACKGROUNDS: dict[str, float] = {  # how often each is drawn: what people ask for first more often
    "plain": 10, "gradient": 8, "sky": 3, "night": 3, "sunset": 2, "petals": 2, "cherry blossoms": 5, "classroom": 5,
    "city": 5, "forest": 4, "beach": 4, "snow": 4, "room": 4,
}  # fmt: skip
BACKGROUNDS_OF_STYLE = {
    "casual": BACKGROUNDS | {"circle": 1, "dots": 1, "stripes": 1, "rays": 1},
    "formal": BACKGROUNDS | {"bokeh": 1, "stripes": 1},
    "artistic": BACKGROUNDS | {"splash": 6},
    "realistic": BACKGROUNDS | {"bokeh": 2},
}


def _weighted(rng: random.Random, weights: Mapping[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


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
    pool = {name: often for name, often in ACCESSORIES.items() if girl or name not in GIRLS_ACCESSORIES}
    chosen: list[str] = []
    while rng.random() < (0.55 if not chosen else 0.25) and len(chosen) < 2:
        accessory = _weighted(rng, pool)
        if accessory in HATS | {"cat ears"} and hair_style in ("buns", "spiky"):
            continue
        if any({accessory, other} <= group for other in chosen for group in (ON_TOP_OF_THE_HEAD, ON_THE_EYES)):
            continue
        if accessory not in chosen:
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
    usual = OUTFITS[style] if rng.random() < 0.6 else pick(list(OUTFITS.values()))
    outfit = _weighted(rng, {name: OUTFIT_WEIGHTS.get(name, 1) for name in usual})
    if not girl and outfit in GIRLS_OUTFITS:
        outfit = pick(("suit", "shirt and tie", "blazer", "hoodie", "armor"))
    outfit_color = pick(list(COLORS))
    if outfit in USUAL_COLORS and rng.random() < 0.4:
        outfit_color = USUAL_COLORS[outfit]
    drawn_emotion = pick(EMOTIONS)
    emotion = fixed.get("emotion", drawn_emotion)
    hair = pick(list(HAIR_COLORS))
    background_color = pick([color for color in COLORS if color not in (hair, "black", "brown")])
    variant = rng.randrange(len(EXPRESSIONS[emotion]))
    if EXPRESSIONS[emotion][variant].eyes == "wink" and "eyepatch" in accessories:
        variant = 0
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
        ahoge=not HATS & set(accessories) and rng.random() < 0.18,
        eye_color=pick(list(EYE_COLORS)),
        skin=rng.choices(list(SKINS), (4, 9, 3, 2, 2))[0],
        outfit=outfit,
        outfit_color=outfit_color,
        accessories=accessories,
        accessory_color=pick(list(COLORS)),
        background=_weighted(rng, BACKGROUNDS_OF_STYLE[style]),
        background_color=background_color,
        gaze="viewer" if rng.random() < 0.6 else pick(GAZES[1:]),
        tilt=round(max(-12, min(12, rng.gauss(0, 5))), 1),
        turn=round(max(-0.9, min(0.9, rng.gauss(0, 0.4))), 2),
        scale=round(rng.uniform(0.93, 1.1), 3),
        dx=round(rng.gauss(0, 0.018), 3),
        dy=round(rng.gauss(0, 0.012), 3),
    )
    return replace(spec, **fixed)
