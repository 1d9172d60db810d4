"""Pictures of any mode as plain RGB, on the ground on which what is drawn can be seen. Knows no file and no purpose."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Literal

from PIL import Image, ImageOps

PALE = 216  # of 255: on white paper lighter lines can hardly be seen


def background_of(image: Image.Image) -> Literal["white", "black"] | None:
    """What goes below the transparent parts of a picture; None where it has none.

    A drawing on nothing is a drawing on paper, but white chalk on nothing is drawn on a blackboard.
    """
    if not image.has_transparency_data:
        return None
    alpha = image.convert("RGBA").getchannel("A").histogram()
    pixels = image.width * image.height
    if alpha[255] == pixels:
        return None
    covered = sum(level * count for level, count in enumerate(alpha)) / 255
    visible = sum(_on(image, "white").convert("L").histogram()[:PALE])
    return "black" if covered < 0.9 * pixels and visible < 0.02 * covered else "white"


def to_rgb(image: Image.Image, below: Literal["white", "black"] | None = None) -> Image.Image:
    """RGB, turned as the camera held it, without transparency: on `below`, or on the ground that suits it."""
    with suppress(struct.error, SyntaxError, TypeError):  # damaged notes of the camera
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, 0 to 65535: Pillow's own conversion would clip it
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.has_transparency_data and (below := below or background_of(image)) is not None:
        image = _on(image, below)
    return image.convert("RGB")


def _on(image: Image.Image, colour: str) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, colour), image.convert("RGBA"))
