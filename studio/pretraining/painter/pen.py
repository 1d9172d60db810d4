"""The canvas: a skia surface and the handful of strokes everything is drawn with.

Geometry is on a plane 512 units wide and high, whatever the size in pixels. This module knows neither hair nor eyes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import skia

from .colors import RGB, shadow_of
from .curves import Point, ribbon
from .palette import Manner, Palette

UNITS = 512
SUPERSAMPLE = 1.5  # on top of skia's own anti-aliasing; the surface finish reduces again


def argb(color: RGB, alpha: float = 1.0) -> int:
    return skia.ColorSetARGB(int(255 * max(0, min(1, alpha))), *color)


def down(top: float, bottom: float, colors: Sequence[RGB]) -> skia.Shader:
    """Vertical gradient from `top` to `bottom`."""
    return skia.GradientShader.MakeLinear([(0, top), (0, bottom)], [argb(color) for color in colors])


def paint_of(
    color: RGB, alpha: float = 1, blur: float = 0, stroke: float = 0, shader: skia.Shader | None = None
) -> skia.Paint:
    """Paint for a filled area, or for a round stroke `stroke` units wide."""
    paint = skia.Paint(AntiAlias=True, Color=argb(color, alpha))
    if stroke:
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(stroke)
        paint.setStrokeCap(skia.Paint.kRound_Cap)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
    if blur > 0:
        paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, blur))
    if shader is not None:
        paint.setShader(shader)
    return paint


class Canvas:
    """`pixels` is (side, side, 4) uint8 RGBA; side is the picture's size times `SUPERSAMPLE`.

    `part` is what the next strokes belong to, one of `parts.PARTS`.
    """

    part = "background"

    def __init__(self, size: int, palette: Palette) -> None:
        side = int(size * SUPERSAMPLE)
        self.size = size
        self.palette = palette
        self.manner: Manner = palette.manner
        self.pixels = np.zeros((side, side, 4), np.uint8)
        self.surface = skia.Surface(self.pixels)
        self.skia = self.surface.getCanvas()
        self.skia.scale(side / UNITS, side / UNITS)

    @contextmanager
    def clipped(self, path: skia.Path) -> Iterator[None]:
        """Nothing outside `path` is touched."""
        self.skia.save()
        self.skia.clipPath(path, skia.ClipOp.kIntersect, True)
        yield
        self.skia.restore()

    @contextmanager
    def drawing(self, part: str) -> Iterator[None]:
        """What is drawn inside belongs to `part`."""
        before, self.part = self.part, part
        yield
        self.part = before

    @contextmanager
    def placed(self, x: float, y: float, degrees: float = 0, scale: Point = (1, 1)) -> Iterator[None]:
        """The origin is at (x, y), turned and then scaled."""
        self.skia.save()
        self.skia.translate(float(x), float(y))
        if degrees:
            self.skia.rotate(degrees)
        if scale != (1, 1):
            self.skia.scale(float(scale[0]), float(scale[1]))
        yield
        self.skia.restore()

    def paint(
        self, color: RGB, alpha: float, blur: float, stroke: float = 0, shader: skia.Shader | None = None,
        ink: bool = False,
    ) -> skia.Paint:  # fmt: skip
        """How a primitive is painted. `ink` says that it is a line and not a surface: line art keeps only those."""
        return paint_of(color, alpha, blur, stroke, shader)

    def fill(
        self, path: skia.Path, color: RGB, alpha: float = 1, blur: float = 0, shader: skia.Shader | None = None,
        ink: bool = False,
    ) -> None:  # fmt: skip
        self.skia.drawPath(path, self.paint(color, alpha, blur, 0, shader, ink))

    def oval(
        self, x: float, y: float, rx: float, ry: float, color: RGB, alpha: float = 1, blur: float = 0,
        shader: skia.Shader | None = None, ink: bool = False,
    ) -> None:  # fmt: skip
        bounds = skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry)
        self.skia.drawOval(bounds, self.paint(color, alpha, blur, 0, shader, ink))

    def band(
        self, x: float, y: float, rx: float, ry: float, color: RGB, width: float, alpha: float = 1, ink: bool = False
    ) -> None:
        """Elliptic ring, `width` units wide."""
        bounds = skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry)
        self.skia.drawOval(bounds, self.paint(color, alpha, 0, width, None, ink))

    def box(
        self, left: float, top: float, right: float, bottom: float, color: RGB, shader: skia.Shader | None = None
    ) -> None:
        self.skia.drawRect(skia.Rect.MakeLTRB(left, top, right, bottom), self.paint(color, 1, 0, 0, shader))

    def stroke(
        self, path: skia.Path, color: RGB, width: float, alpha: float = 1, blur: float = 0, ink: bool = True
    ) -> None:
        """Even line, `width` in units."""
        self.skia.drawPath(path, self.paint(color, alpha, blur, width, None, ink))

    def outline(self, path: skia.Path, color: RGB, weight: float = 1.0) -> None:
        """Contour; `weight` is relative to the style's line width."""
        width, alpha = self.manner.line_width * weight, self.manner.line_alpha
        self.stroke(path, color, width, alpha)
        if self.manner.doubled:
            with self.placed(0.25 * width, 0.25 * width):
                self.stroke(path, color, width * 0.7, alpha * 0.7)

    def ink(
        self, curve: np.ndarray, color: RGB, weight: float = 1.0, alpha: float = 1.0, head: float = 0.15,
        tail: float = 0.6, ink: bool = True,
    ) -> None:  # fmt: skip
        """Tapered pen stroke; `head` and `tail` are the shares of the length that swell and thin out."""
        t = np.linspace(0, 1, len(curve))
        profile = np.minimum(1, np.minimum((t + 0.02) / max(head, 1e-3), (1.02 - t) / max(tail, 1e-3)))
        widths = profile**0.8 * self.manner.line_width * weight
        self.fill(ribbon(curve, widths), color, self.manner.line_alpha * alpha, ink=ink)

    def shape(
        self, path: skia.Path, base: RGB, shade: RGB | None = None, light: Point = (-9, -6), weight: float = 1.0,
        line: RGB | None = None,
    ) -> None:  # fmt: skip
        """Shaded area with a contour: the shadow tone, and the base tone shifted by `light` towards the light."""
        manner = self.manner
        if shade is None:
            shade = shadow_of(base, manner.shade_depth)
        self.outline(path, line or self.palette.line_of(base), weight * 1.5)
        self.fill(path, shade)
        dx, dy = light[0] * manner.shade_reach, light[1] * manner.shade_reach
        with self.clipped(path):
            with self.placed(dx, dy):
                self.fill(path, base, blur=manner.softness)
            self.pool(path, shade)

    def pool(self, path: skia.Path, shade: RGB) -> None:
        """Pigment along the inside of the (clipped) edge, where the style is watercolour."""
        if self.manner.pooled:
            self.stroke(path, shade, 6.5, 0.38)
