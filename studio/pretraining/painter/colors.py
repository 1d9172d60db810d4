"""Named colours and colour arithmetic.

Colours are 8-bit sRGB triples. This module does not know what is painted with them.
"""

from __future__ import annotations

RGB = tuple[int, int, int]

HAIR_COLORS: dict[str, RGB] = {
    "black": (62, 58, 78),
    "brown": (134, 86, 62),
    "light brown": (186, 136, 96),
    "blonde": (246, 212, 122),
    "red": (202, 62, 62),
    "orange": (240, 142, 70),
    "pink": (248, 164, 190),
    "purple": (146, 104, 192),
    "blue": (74, 112, 204),
    "aqua": (112, 206, 214),
    "green": (98, 174, 116),
    "grey": (158, 162, 178),
    "white": (236, 234, 244),
}
EYE_COLORS: dict[str, RGB] = {
    "blue": (58, 124, 226),
    "green": (60, 170, 96),
    "brown": (142, 86, 52),
    "red": (214, 54, 62),
    "purple": (146, 82, 208),
    "yellow": (236, 178, 44),
    "pink": (236, 104, 160),
    "aqua": (52, 190, 204),
    "grey": (130, 138, 156),
    "orange": (238, 124, 44),
}
SKINS: dict[str, tuple[RGB, RGB]] = {  # base, shadow
    "pale skin": ((255, 237, 229), (239, 197, 197)),
    "fair skin": ((255, 230, 212), (243, 188, 172)),
    "tan": ((243, 200, 162), (218, 150, 118)),
    "brown skin": ((200, 144, 106), (160, 100, 78)),
    "dark skin": ((146, 98, 76), (108, 66, 58)),
}
COLORS: dict[str, RGB] = {  # clothes, accessories and backgrounds
    "white": (248, 248, 250),
    "black": (58, 58, 70),
    "grey": (158, 164, 176),
    "red": (216, 72, 76),
    "blue": (74, 120, 206),
    "green": (92, 168, 120),
    "yellow": (248, 212, 98),
    "pink": (248, 166, 192),
    "purple": (152, 112, 196),
    "orange": (246, 156, 84),
    "brown": (150, 108, 82),
    "aqua": (126, 212, 216),
}
INK: RGB = (52, 36, 52)


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """`first` moved towards `second` by `share` (0..1), per channel."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def luminance(color: RGB) -> float:
    """Perceived brightness, 0 (black) .. 1 (white)."""
    return (0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]) / 255


def saturate(color: RGB, factor: float) -> RGB:
    """Colour with its distance from its own grey multiplied by `factor`, clipped to 0..255."""
    grey = luminance(color) * 255
    red, green, blue = (int(max(0, min(255, grey + (channel - grey) * factor))) for channel in color)
    return red, green, blue


def shadow_of(color: RGB, depth: float = 0.3) -> RGB:
    """Cel shadow: darker, drifting to violet-blue, slightly more saturated."""
    red, green, blue = (int(channel * 0.45) for channel in color)
    return saturate(mix(color, mix((70, 50, 130), (red, green, blue), 0.45), depth), 1.08)
