"""The colours of one picture and the manner in which its style draws.

This module does not know shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

from .colors import COLORS, EYE_COLORS, HAIR_COLORS, INK, RGB, SKINS, luminance, mix, saturate, shadow_of
from .spec import CharacterSpec

WHITE: RGB = (255, 255, 255)


@dataclass(frozen=True)
class Manner:
    """How a style handles line, shade and colour. Lengths are in canvas units (512 to the picture)."""

    line_width: float
    line_alpha: float
    softness: float  # blur of the edge between light and shadow
    saturation: float
    tint: float  # 0: lines are ink, 1: lines take the hue of what they surround
    doubled: bool = False  # a second, shifted pass thickens the shaded side of contours
    pooled: bool = False  # pigment pools along the inside of edges (watercolour)
    painted: bool = False  # soft modelling instead of flat cel shading
    shade_depth: float = 0.3
    shade_reach: float = 1.0  # how far the lit tone is shifted, relative to cel shading


MANNERS = {
    "casual": Manner(2.7, 1.0, 0.0, 1.12, 0.25, doubled=True),
    "formal": Manner(2.3, 1.0, 0.8, 0.85, 0.12, doubled=True),
    "artistic": Manner(2.3, 0.74, 2.0, 0.95, 0.6, pooled=True),
    "realistic": Manner(1.3, 0.55, 10.0, 0.72, 0.35, painted=True, shade_depth=0.42, shade_reach=1.8),
}


class Palette:
    """Colours of one spec under its style."""

    def __init__(self, spec: CharacterSpec) -> None:
        self.manner = MANNERS[spec.style]
        self.cool = spec.style == "formal"
        base, shade = SKINS[spec.skin]
        strength = 0.5 + 0.5 * self.manner.saturation
        self.skin, self.skin_shade = saturate(base, strength), saturate(shade, strength)
        if self.manner.painted:
            self.skin_shade = mix(self.skin, self.skin_shade, 0.85)
        self.skin_line = self.line_of(self.skin_shade)
        self.hair = self.toned(HAIR_COLORS[spec.hair_color])
        self.tip = self.toned(HAIR_COLORS[spec.tip_color]) if spec.tip_color else None
        brightness = luminance(self.hair)
        self.hair_shade = shadow_of(self.hair, 0.34 if brightness > 0.35 else 0.42)
        self.hair_light = mix(self.hair, (255, 250, 244), 0.5 if brightness < 0.8 else 0.85)
        if brightness < 0.3:
            self.hair_light = mix(self.hair, (170, 180, 230), 0.5)
        self.hair_line = mix(shadow_of(self.hair, 0.8), INK, 0.55)
        self.eye = self.toned(EYE_COLORS[spec.eye_color])
        self.cloth = self.toned(COLORS[spec.outfit_color])
        self.accessory = self.toned(COLORS[spec.accessory_color])
        self.white_cloth = self.toned((250, 250, 252))
        self.lash = mix((44, 30, 44), self.hair_line, 0.35)

    def toned(self, color: RGB) -> RGB:
        """A colour as the style renders it."""
        color = saturate(color, self.manner.saturation)
        return mix(color, (150, 170, 215), 0.07) if self.cool else color

    def line_of(self, color: RGB) -> RGB:
        """Colour of a line around an area of `color`."""
        return mix(INK, shadow_of(color, 0.8), self.manner.tint)
