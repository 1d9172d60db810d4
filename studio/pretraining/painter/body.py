"""The body that clothes have to fit: torso, neck, and the cloth over them.

This module does not know garments but for how low each is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import skia

from .colors import RGB, luminance
from .curves import mirrored, polygon, quadratic, ribbon, smooth
from .scene import SIDES, Scene

NECKLINES = {  # how much wider than the neck, and how low; all others close at the neck
    "t-shirt": (22, 168), "striped shirt": (22, 168), "hoodie": (16, 176), "frilled dress": (42, 192),
    "tank top": (44, 196),
}  # fmt: skip
CLOSED_NECKLINE = (8, 150)
BARE_COLLARBONES = ("t-shirt", "striped shirt", "frilled dress")
PALE = 0.8  # on cloth of this luminance or more, white trimmings take the accessory's colour


@dataclass(frozen=True)
class Body:
    """What the clothes have to fit."""

    scene: Scene
    neck: float  # half width
    breadth: float  # of the shoulders, relative to a girl's
    torso: skia.Path
    cloth: RGB
    line: RGB  # of lines on the cloth

    @property
    def trim(self) -> RGB:
        """White, or what can be told from white cloth."""
        return self.scene.palette.white_cloth if luminance(self.cloth) < PALE else self.scene.palette.accessory

    def stripe(self, y: float, color: RGB, width: float = 11) -> None:
        reach = 170 * self.breadth
        with self.scene.canvas.clipped(self.torso):
            curve = quadratic((-reach, y - 8), (0, y + 12), (reach, y - 8), 10)
            self.scene.canvas.fill(ribbon(curve, np.full(10, width)), color, 0.95)


def body_of(scene: Scene) -> Body:
    neck, breadth = (27.0, 1.0) if scene.girl else (37.0, 1.22)
    cloth = scene.palette.cloth
    if luminance(cloth) > 0.93 and scene.spec.outfit == "suit":  # or the shirt would vanish in it
        cloth = scene.palette.toned((226, 228, 236))
    m = breadth
    torso = mirrored(
        [(neck - 2, 90), (neck - 2, 118), (neck + 6, 132), (neck + 26, 146), (104 * m, 162), (140 * m, 184),
         (156 * m, 232), (162 * m, 320)]
    )  # fmt: skip
    return Body(scene, neck, breadth, torso, cloth, scene.palette.line_of(cloth))


def draw_neck(body: Body) -> None:
    scene, neck = body.scene, body.neck
    palette, canvas = scene.palette, scene.canvas
    if scene.spec.outfit in BARE_COLLARBONES:
        outline = [(neck, 60), (neck - 1, 110), (neck + 6, 134), (neck + 24, 150), (neck + 34, 215)]
    elif scene.spec.outfit == "tank top":  # the shoulders too
        m = body.breadth
        outline = [(neck, 60), (neck - 1, 110), (neck + 6, 132), (neck + 26, 146), (104 * m, 162), (138 * m, 184),
                   (152 * m, 232), (158 * m, 320)]  # fmt: skip
    else:
        outline = [(neck, 60), (neck - 1, 110), (neck + 2, 136), (neck + 6, 150), (neck + 6, 215)]
    path = mirrored(outline)
    canvas.shape(path, palette.skin, palette.skin_shade, line=palette.skin_line)
    with canvas.clipped(path), canvas.placed(scene.spec.turn * 4 + 4, 22):  # shadow of the chin
        canvas.fill(scene.head.face, palette.skin_shade, 1, canvas.manner.softness * 0.6)
    for side in SIDES:
        collarbone = quadratic((side * 10, 160), (side * 34, 151), (side * 62, 153), 8)
        canvas.ink(collarbone, palette.skin_line, 0.8, 0.8)


def main_cloth(body: Body, color: RGB) -> None:
    """The torso with the outfit's neckline scooped out."""
    wider, low = NECKLINES.get(body.scene.spec.outfit, CLOSED_NECKLINE)
    x, m = body.neck + wider, body.breadth
    half = smooth([(x, 145), (104 * m, 161), (140 * m, 183), (157 * m, 232), (164 * m, 330)], 6)
    scoop = quadratic((-x, 145), (0, low * 2 - 145), (x, 145), 14)
    path = polygon(np.vstack([scoop, half, (half * (-1, 1))[::-1]]))
    body.scene.canvas.shape(path, color, light=(-14, -6))
