"""Neck, body and clothes.

Drawn on a body that stands upright whatever the head does; the origin is as high above the chin as on a girl's head.
This module does not know the head, but for the shadow that its outline casts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import skia

from .accessories import draw_bow, draw_choker
from .colors import RGB, luminance, mix, shadow_of
from .curves import Point, blob, mirrored, polygon, quadratic, ribbon, rotated, smooth
from .scene import SIDES, Scene

NECKLINES = {  # how much wider than the neck, and how low; all others close at the neck
    "t-shirt": (22, 168), "striped shirt": (22, 168), "hoodie": (16, 176), "frilled dress": (42, 192),
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


def _body_of(scene: Scene) -> Body:
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


def draw_body(scene: Scene) -> None:
    """Neck, clothes and the head's shadow on them."""
    body = _body_of(scene)
    canvas, neck, outfit, cloth = scene.canvas, body.neck, scene.spec.outfit, body.cloth
    if outfit == "hoodie":  # the hood behind the neck
        canvas.shape(mirrored([(20, 96), (70, 104), (98, 132), (92, 170), (0, 190)]), cloth, line=body.line)
        canvas.fill(mirrored([(20, 104), (58, 112), (72, 134), (0, 186)]), shadow_of(cloth, 0.5))
    _neck(body)
    if "choker" in scene.spec.accessories:
        draw_choker(scene, neck)
    DRAWERS[outfit](body)
    with canvas.clipped(body.torso), canvas.placed(scene.spec.turn * 4 + 8, 44):
        canvas.fill(scene.head.face, (50, 36, 90), 0.16, max(1.5, canvas.manner.softness))


def _neck(body: Body) -> None:
    scene, neck = body.scene, body.neck
    palette, canvas = scene.palette, scene.canvas
    if scene.spec.outfit in BARE_COLLARBONES:
        outline = [(neck, 60), (neck - 1, 110), (neck + 6, 134), (neck + 24, 150), (neck + 34, 215)]
    else:
        outline = [(neck, 60), (neck - 1, 110), (neck + 2, 136), (neck + 6, 150), (neck + 6, 215)]
    path = mirrored(outline)
    canvas.shape(path, palette.skin, palette.skin_shade, line=palette.skin_line)
    with canvas.clipped(path), canvas.placed(scene.spec.turn * 4 + 4, 22):  # shadow of the chin
        canvas.fill(scene.head.face, palette.skin_shade, 1, canvas.manner.softness * 0.6)
    for side in SIDES:
        collarbone = quadratic((side * 10, 160), (side * 34, 151), (side * 62, 153), 8)
        canvas.ink(collarbone, palette.skin_line, 0.8, 0.8)


def _main_cloth(body: Body, color: RGB) -> None:
    """The torso with the outfit's neckline scooped out."""
    wider, low = NECKLINES.get(body.scene.spec.outfit, CLOSED_NECKLINE)
    x, m = body.neck + wider, body.breadth
    half = smooth([(x, 145), (104 * m, 161), (140 * m, 183), (157 * m, 232), (164 * m, 330)], 6)
    scoop = quadratic((-x, 145), (0, low * 2 - 145), (x, 145), 14)
    path = polygon(np.vstack([scoop, half, (half * (-1, 1))[::-1]]))
    body.scene.canvas.shape(path, color, light=(-14, -6))


def _hem_of_neck(body: Body) -> None:
    """Ribbed round neckline of shirts."""
    x = body.neck + 22
    curve = quadratic((-x, 144), (0, 194), (x, 144), 14)
    body.scene.canvas.fill(ribbon(curve, np.full(14, 9.0)), shadow_of(body.cloth, 0.35))
    body.scene.canvas.ink(curve, body.line, 0.9, 1, 0.02, 0.02)


def _t_shirt(body: Body) -> None:
    _main_cloth(body, body.cloth)
    _hem_of_neck(body)
    star = []
    for k in range(10):
        radius, angle = (22 if k % 2 == 0 else 22 * 0.45), k * math.pi / 5
        star.append((radius * math.sin(angle), 214 - radius * math.cos(angle)))
    body.scene.canvas.fill(polygon(np.array(star)), body.trim)


def _striped_shirt(body: Body) -> None:
    _main_cloth(body, body.cloth)
    _hem_of_neck(body)
    for y in (206, 232, 258):
        body.stripe(y, body.trim)


def _hoodie(body: Body) -> None:
    canvas, neck, white = body.scene.canvas, body.neck, body.scene.palette.white_cloth
    _main_cloth(body, body.cloth)
    for side in SIDES:
        outer = quadratic((side * (neck + 4), 126), (side * 84, 140), (side * 70, 172), 8)
        hem = quadratic((side * 70, 172), (side * 36, 204), (0, 206), 8)
        inner = quadratic((0, 206), (side * 22, 172), (side * (neck + 4), 126), 8)
        canvas.shape(polygon(np.vstack([outer, hem, inner])), mix(body.cloth, white, 0.12), light=(-6, -4))
        cord = quadratic((side * 20, 186), (side * 26, 214), (side * 20, 246), 8)
        canvas.ink(cord, body.scene.palette.line_of(white), 2.6, 1, 0.02, 0.02)
        canvas.ink(cord, white, 1.5, 1, 0.02, 0.02, ink=False)
    canvas.ink(np.array([(0, 206.0), (0, 300.0)]), body.line, 1.1, 1, 0.02, 0.02)


def _knitwear(body: Body) -> None:
    """Sweater or turtleneck: ribbed collar, and two stripes on the sweater."""
    canvas, neck = body.scene.canvas, body.neck
    sweater = body.scene.spec.outfit == "sweater"
    _main_cloth(body, body.cloth)
    top = 134 if sweater else 104
    collar = mirrored([(neck + 2, top + 2), (neck + 9, top + 24), (neck + 18, 158), (0, 172), (0, top + 12)])
    canvas.shape(collar, body.cloth, light=(-6, -3))
    for k in range(-3, 4):
        x = k * (neck + 6) / 3.6
        rib = quadratic((x * 0.9, top + 14), (x, 145), (x * 1.15, 164 - abs(k) * 2), 6)
        canvas.ink(rib, body.line, 0.7, 0.7, 0.1, 0.1)
    if sweater:
        white, accessory = body.scene.palette.white_cloth, body.scene.palette.accessory
        color = mix(body.cloth, white, 0.55) if luminance(body.cloth) < PALE else accessory
        for y in (200, 216):
            body.stripe(y, color, 7)
    for side in SIDES:
        x = side * 112 * body.breadth
        canvas.ink(quadratic((x, 206), (side * 116 * body.breadth, 236), (x, 290), 8), body.line, 0.9, 0.9)


def _coat(body: Body) -> None:
    neck, inner = body.neck, body.scene.palette.accessory
    _main_cloth(body, inner)
    collar = mirrored([(neck + 2, 110), (neck + 9, 130), (neck + 16, 160), (0, 176), (0, 124)])
    body.scene.canvas.shape(collar, inner, light=(-6, -3))
    _lapels(body)


def _suit(body: Body) -> None:
    _shirt_and_necktie(body)
    _lapels(body)


def _vest(body: Body) -> None:
    """A vest over shirt and tie."""
    _shirt_and_necktie(body)
    neck, m = body.neck, body.breadth
    for side in SIDES:
        strap = smooth([(side * (neck + 16), 140), (side * (neck + 38), 150), (side * 92 * m, 162)])
        armhole = smooth([(side * 92 * m, 162), (side * 98 * m, 206), (side * 118 * m, 250), (side * 120 * m, 330)])
        front = quadratic((0, 246), (side * 40, 206), (side * (neck + 16), 140), 6)
        half = polygon(np.vstack([strap, armhole, [(0, 330), (0, 246)], front]))
        body.scene.canvas.shape(half, body.cloth, light=(-8, -4))


def _shirt_and_necktie(body: Body) -> None:
    scene, neck = body.scene, body.neck
    canvas, white, tie = scene.canvas, scene.palette.white_cloth, scene.palette.accessory
    _main_cloth(body, white)
    for side in SIDES:
        collar = [(side * (neck + 1), 122), (side * (neck + 12), 146), (side * 30, 188), (side * 2, 162)]
        canvas.shape(polygon(np.array(collar)), white, light=(-3, -3), weight=0.9)
    knot, blade = [(-10, 164), (10, 164), (8, 182), (-8, 182)], [(-8, 182), (8, 182), (19, 300), (-19, 300)]
    canvas.shape(polygon(np.array(knot)), tie, light=(-3, -2), weight=0.9)
    canvas.shape(polygon(np.array(blade)), tie, light=(-5, -2), weight=0.9)
    if scene.rng.random() < 0.5:
        for y in (202, 226, 250):
            stripe = polygon(np.array([(-10, y), (12, y - 10), (13, y - 3), (-11, y + 8)]))
            canvas.fill(stripe, mix(tie, white, 0.6))


def _lapels(body: Body) -> None:
    """The open front of a jacket or coat."""
    canvas, neck, m, cloth = body.scene.canvas, body.neck, body.breadth, body.cloth
    for side in SIDES:
        shoulder = smooth(
            [(side * (neck + 9), 136), (side * (neck + 28), 146), (side * 104 * m, 160), (side * 142 * m, 182),
             (side * 159 * m, 232), (side * 166 * m, 330)]
        )  # fmt: skip
        front = quadratic((0, 262), (side * 32.0, 212), (side * (neck + 9), 136), 6)
        canvas.shape(polygon(np.vstack([shoulder, [(0, 330), (0, 262)], front])), cloth, light=(-12, -6))
        lapel = [
            (side * (neck + 9), 134), (side * (neck + 34), 150), (side * 78, 196), (side * 56, 204), (side * 66, 216),
            (side * 3, 262), (side * 28, 214),
        ]  # fmt: skip
        canvas.shape(polygon(np.array(lapel)), mix(cloth, body.scene.palette.white_cloth, 0.10), light=(-4, -4))
        seam = quadratic((side * 112 * m, 208), (side * 118 * m, 240), (side * 113 * m, 300), 8)
        canvas.ink(seam, body.line, 0.9, 0.9)


def _serafuku(body: Body) -> None:
    scene, neck = body.scene, body.neck
    _main_cloth(body, scene.palette.white_cloth)
    for side in SIDES:
        collar = np.vstack(
            [
                [(side * (neck + 7), 128)],
                quadratic((side * (neck + 10), 134), (side * 96, 150), (side * 112, 176), 6),
                quadratic((side * 112, 176), (side * 70, 214), (0, 244), 6),
                quadratic((0, 244), (side * 20, 190), (side * (neck + 7), 128), 6),
            ]
        )
        scene.canvas.shape(polygon(collar), body.cloth, light=(-5, -4))
        for k in (0, 7):
            piping = smooth([(side * (98 - k), 172 - k * 0.3), (side * 66, 203 - k), (side * 16, 226 - k)])
            scene.canvas.ink(piping, body.trim, 0.9, 1, 0.02, 0.02)
    draw_bow(scene.canvas, 0, 236, 26, scene.palette.accessory)


def _bow_blouse(body: Body) -> None:
    canvas, neck, white = body.scene.canvas, body.neck, body.scene.palette.white_cloth
    line = body.scene.palette.line_of(white)
    _main_cloth(body, white)
    for side in SIDES:
        collar = [
            (side * 2, 158), (side * (neck + 4), 126), (side * (neck + 30), 152), (side * 52, 182), (side * 22, 186),
        ]  # fmt: skip
        canvas.shape(blob(collar), white, light=(-4, -4))
        canvas.ink(quadratic((side * 112, 206), (side * 118, 240), (side * 112, 290), 8), line, 0.9, 0.9)
    canvas.ink(np.array([(0.0, 190.0), (0.0, 300.0)]), line, 0.9, 0.9)
    draw_bow(canvas, 0, 178, 27, body.cloth)


def _kimono(body: Body) -> None:
    scene, canvas, neck = body.scene, body.scene.canvas, body.neck
    white = scene.palette.white_cloth
    _main_cloth(body, body.cloth)
    for _ in range(9):  # flowers on the cloth
        x, y = scene.rng.uniform(-140, 140) * body.breadth, scene.rng.uniform(180, 262)
        for k in range(5):
            dx, dy = rotated(0, -7, 72 * k)
            canvas.oval(x + dx, y + dy, 5, 5, mix(scene.palette.accessory, white, 0.3), 0.9)
        canvas.oval(x, y, 3, 3, (250, 226, 130))
    for side in (1, -1):  # the left side of the robe lies over the right one
        for width, color in ((30, body.cloth), (18, white)):
            fold: list[Point] = [
                (side * (neck + 3), 124), (side * (neck + 5 + width * 0.9), 140), (-side * 44 + side * width, 300),
                (-side * 66, 300), (-side * 14, 212),
            ]  # fmt: skip
            canvas.shape(polygon(np.array(fold)), mix(color, shadow_of(color), 0.12), light=(-4, -3))


def _frilled_dress(body: Body) -> None:
    canvas, neck, cloth, white = body.scene.canvas, body.neck, body.cloth, body.scene.palette.white_cloth
    _main_cloth(body, cloth)
    edge = quadratic((-(neck + 40), 150), (0, 240), (neck + 40, 150), 19)
    frill = edge + np.stack([np.zeros(19), np.where(np.arange(19) % 2, 15.0, 5.0)], 1)
    canvas.shape(polygon(np.vstack([smooth(frill, 4), (edge - (0, 7))[::-1]])), white, light=(-2, -3))
    for side in SIDES:
        sleeve = [(side * 100, 158), (side * 150, 166), (side * 178, 206), (side * 172, 246), (side * 120, 236)]
        canvas.shape(blob(sleeve), mix(cloth, white, 0.15), light=(-7, -6))
        for k in (0, 1):
            pleat = quadratic(
                (side * (128 + k * 18), 240 - k * 3), (side * (130 + k * 14), 220), (side * (124 + k * 12), 200), 6
            )
            canvas.ink(pleat, body.line, 0.8, 0.8)
    draw_bow(canvas, 0, 214, 17, body.scene.palette.accessory)


def _scarf(body: Body) -> None:
    """A scarf over a dark coat."""
    canvas, neck, cloth = body.scene.canvas, body.neck, body.cloth
    _main_cloth(body, mix(body.scene.palette.accessory, (70, 66, 90), 0.6))
    canvas.shape(blob([(24, 176), (62, 178), (74, 300), (22, 300)]), cloth, light=(-7, -4))
    wrap = mirrored([(20, 108), (neck + 34, 118), (neck + 44, 146), (neck + 22, 176), (0, 190)])
    canvas.shape(wrap, cloth, light=(-8, -7))
    for k in range(4):
        fold = quadratic((-60 + k * 12, 132 + k * 11), (0, 150 + k * 12), (58 - k * 10, 128 + k * 11), 9)
        canvas.ink(fold, body.line, 0.9, 0.8, 0.2, 0.4)


DRAWERS: dict[str, Callable[[Body], None]] = {
    "hoodie": _hoodie,
    "t-shirt": _t_shirt,
    "striped shirt": _striped_shirt,
    "sweater": _knitwear,
    "suit": _suit,
    "shirt and tie": _vest,
    "serafuku": _serafuku,
    "bow blouse": _bow_blouse,
    "kimono": _kimono,
    "frilled dress": _frilled_dress,
    "scarf": _scarf,
    "coat": _coat,
    "turtleneck": _knitwear,
}
