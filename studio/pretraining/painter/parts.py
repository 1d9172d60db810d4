"""The same drawing as areas: a canvas on which every pixel says which part of the character it shows.

This module does not know what is drawn; a drawing says which part its next strokes belong to (`Canvas.part`), and skin
below the face is told by its colour.
"""

from __future__ import annotations

import numpy as np
import skia

from .colors import RGB
from .pen import Canvas, paint_of

PARTS = ("background", "hair", "skin", "eyes", "mouth", "clothes", "accessory")
FAINT = 0.5  # what covers less than this shades what lies below, and isn't seen as itself
SOFT = 2.0  # so does what is blurred by more, in canvas units
APART = 32  # grey levels between two parts


class PartCanvas(Canvas):
    """Without anti-aliasing and shade; `labels` reads it."""

    def paint(
        self, color: RGB, alpha: float, blur: float, stroke: float = 0, shader: skia.Shader | None = None,
        ink: bool = False,
    ) -> skia.Paint:  # fmt: skip
        palette, part = self.palette, self.part
        if part == "clothes" and color in (palette.skin, palette.skin_shade, palette.skin_line):
            part = "skin"
        level = APART * PARTS.index(part)
        paint = paint_of((level, level, level), 1 if alpha > FAINT and blur < SOFT else 0, stroke=stroke)
        paint.setAntiAlias(False)
        return paint


def labels(pixels: np.ndarray, size: int) -> np.ndarray:
    """The part of each pixel, (size, size) uint8, a place in `PARTS`, of a part canvas' (side, side, 4) `pixels`."""
    middles = ((np.arange(size) + 0.5) * len(pixels) / size).astype(np.int32)
    # clipping is anti-aliased whatever is drawn: an edge is what it is nearest to
    found: np.ndarray = (pixels[np.ix_(middles, middles)][..., 0].astype(np.int32) + APART // 2) // APART
    return found.astype(np.uint8)
