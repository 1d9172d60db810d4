"""The same drawing as bare lines: a canvas on which surfaces are white paper, shading is nothing and ink is black.

This module does not know what is drawn; a drawing tells ink from surfaces by how it calls the canvas.
"""

from __future__ import annotations

from dataclasses import replace

import skia

from .colors import RGB
from .palette import WHITE, Palette
from .pen import Canvas, paint_of
from .spec import CharacterSpec

BLACK: RGB = (0, 0, 0)
SURFACE = 0.9  # what is at least this opaque hides the lines behind it
FAINT = 0.5  # strokes up to this alpha are texture


def line_palette(spec: CharacterSpec) -> Palette:
    """The spec's palette with the pen of line art: full black, without shading. Keeps how the style builds a face."""
    palette = Palette(spec)
    palette.manner = replace(
        palette.manner,
        line_width=max(2.0, palette.manner.line_width),
        line_alpha=1.0,
        softness=0.0,
        doubled=False,
        pooled=False,
    )
    return palette


class LineCanvas(Canvas):
    """White to begin with; everything on it is black or white."""

    def __init__(self, size: int, palette: Palette) -> None:
        super().__init__(size, palette)
        self.skia.clear(skia.ColorWHITE)

    def paint(
        self, color: RGB, alpha: float, blur: float, stroke: float = 0, shader: skia.Shader | None = None,
        ink: bool = False,
    ) -> skia.Paint:  # fmt: skip
        if ink:
            return paint_of(BLACK, 1 if alpha > FAINT else 0, stroke=stroke)
        return paint_of(WHITE, 1 if alpha >= SURFACE and not blur else 0, stroke=stroke)
