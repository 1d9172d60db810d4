"""What one picture shows: the closed vocabulary of every factor, and `CharacterSpec`.

This module does not know how a factor looks or how it is worded in a caption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .colors import COLORS, EYE_COLORS, HAIR_COLORS, SKINS
from .expressions import EXPRESSIONS, Expression

GENDERS = ("girl", "boy")
EMOTIONS = tuple(EXPRESSIONS)
STYLES = ("casual", "formal", "artistic", "realistic")
HAIR_STYLES = ("straight", "wavy", "bob", "twintails", "ponytail", "spiky", "messy", "braids", "buns")
BANGS = ("blunt", "choppy", "swept", "parted", "crossed", "micro")
LENGTHS = ("short", "medium", "long")
OUTFITS: dict[str, tuple[str, ...]] = {  # style: what is usually worn in it
    "casual": ("hoodie", "t-shirt", "striped shirt", "sweater", "tank top", "track jacket"),
    "formal": ("suit", "shirt and tie", "serafuku", "bow blouse", "blazer", "maid"),
    "artistic": ("kimono", "frilled dress", "scarf"),
    "realistic": ("coat", "turtleneck", "t-shirt", "striped shirt", "armor"),
}
ALL_OUTFITS = tuple(dict.fromkeys(outfit for outfits in OUTFITS.values() for outfit in outfits))
ACCESSORIES = (
    "glasses", "ribbon", "hairclip", "cat ears", "hat", "headphones", "flower", "earrings", "choker", "halo", "horns",
    "mole", "freckles", "bandaid", "witch hat", "straw hat", "eyepatch",
)  # fmt: skip
BACKGROUNDS = (
    "plain", "gradient", "circle", "dots", "stripes", "sky", "petals", "night", "bokeh", "splash", "sunset", "rays",
    "cherry blossoms", "classroom", "city", "forest", "beach", "snow", "room",
)  # fmt: skip
HATS = {"hat", "witch hat", "straw hat"}
ON_TOP_OF_THE_HEAD = HATS | {"cat ears", "headphones", "ribbon", "halo", "horns"}
GAZES = ("viewer", "left", "right", "up", "down")

CHOICES: dict[str, tuple[str, ...]] = {
    "gender": GENDERS,
    "emotion": EMOTIONS,
    "style": STYLES,
    "hair_color": tuple(HAIR_COLORS),
    "tip_color": ("", *HAIR_COLORS),
    "hair_length": LENGTHS,
    "hair_style": HAIR_STYLES,
    "bangs": BANGS,
    "eye_color": tuple(EYE_COLORS),
    "skin": tuple(SKINS),
    "outfit": ALL_OUTFITS,
    "outfit_color": tuple(COLORS),
    "accessory_color": tuple(COLORS),
    "background": BACKGROUNDS,
    "background_color": tuple(COLORS),
    "gaze": GAZES,
}
RANGES: dict[str, tuple[float, float]] = {
    "tilt": (-30.0, 30.0),
    "turn": (-1.0, 1.0),
    "scale": (0.5, 2.0),
    "dx": (-0.5, 0.5),
    "dy": (-0.5, 0.5),
}


def check_choices(values: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the field, for a value outside its vocabulary."""
    for name, value in values.items():
        allowed = CHOICES.get(name)
        if allowed is not None and value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


@dataclass(frozen=True)
class CharacterSpec:
    """Every factor of one picture; `variant` picks one of the emotion's expressions.

    Raises ValueError, naming the field, for a value outside its vocabulary or range.
    """

    gender: str = "girl"
    emotion: str = "happy"
    style: str = "casual"
    variant: int = 0
    hair_color: str = "brown"
    tip_color: str = ""  # second hair colour at the tips, "" for none
    hair_length: str = "long"
    hair_style: str = "straight"
    bangs: str = "choppy"
    ahoge: bool = False
    eye_color: str = "blue"
    skin: str = "fair skin"
    outfit: str = "hoodie"
    outfit_color: str = "blue"
    accessories: tuple[str, ...] = ()
    accessory_color: str = "red"
    background: str = "plain"
    background_color: str = "aqua"
    gaze: str = "viewer"
    tilt: float = 0.0  # degrees
    turn: float = 0.0  # -1 (to picture left) .. 1
    scale: float = 1.0
    dx: float = 0.0  # share of the picture's width
    dy: float = 0.0

    def __post_init__(self) -> None:
        check_choices({name: getattr(self, name) for name in CHOICES})
        for name, (low, high) in RANGES.items():
            if not (math.isfinite(getattr(self, name)) and low <= getattr(self, name) <= high):
                raise ValueError(f"{name} must be from {low:g} to {high:g}, not {getattr(self, name)!r}")
        for accessory in self.accessories:
            if accessory not in ACCESSORIES:
                raise ValueError(f"accessories must be among {', '.join(map(repr, ACCESSORIES))}, not {accessory!r}")
        count = len(EXPRESSIONS[self.emotion])
        if not 0 <= self.variant < count:
            raise ValueError(f"variant must be from 0 to {count - 1} for {self.emotion!r}, not {self.variant!r}")

    @property
    def shows_ahoge(self) -> bool:
        """Whether the stray lock is there and under no hat."""
        return self.ahoge and not HATS & set(self.accessories)

    @property
    def headdress(self) -> bool:
        """Whether a maid's headdress is worn: nothing else is in its place."""
        return self.outfit == "maid" and not ON_TOP_OF_THE_HEAD & set(self.accessories)

    @property
    def expression(self) -> Expression:
        return EXPRESSIONS[self.emotion][self.variant]
