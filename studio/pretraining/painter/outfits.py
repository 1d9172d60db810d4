"""Neck, body and clothes.

Drawn on a body that stands upright whatever the head does; the origin is as high above the chin as on a girl's head.
This module does not know the head, but for the shadow that its outline casts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .accessories import draw_bow, draw_choker
from .body import PALE, Body, body_of, draw_neck, main_cloth
from .colors import luminance, mix, shadow_of
from .costumes import COSTUMES, necktie, shirt_collar
from .curves import Point, blob, mirrored, polygon, quadratic, ribbon, rotated, smooth
from .scene import SIDES, Scene


def draw_body(scene: Scene) -> None:
    """Neck, clothes and the head's shadow on them."""
    body = body_of(scene)
    canvas, neck, outfit, cloth = scene.canvas, body.neck, scene.spec.outfit, body.cloth
    if outfit == "hoodie":  # the hood behind the neck
        canvas.shape(mirrored([(20, 96), (70, 104), (98, 132), (92, 170), (0, 190)]), cloth, line=body.line)
        canvas.fill(mirrored([(20, 104), (58, 112), (72, 134), (0, 186)]), shadow_of(cloth, 0.5))
    draw_neck(body)
    if "choker" in scene.spec.accessories:
        draw_choker(scene, neck)
    DRAWERS[outfit](body)
    with canvas.clipped(body.torso), canvas.placed(scene.spec.turn * 4 + 8, 44):
        canvas.fill(scene.head.face, (50, 36, 90), 0.16, max(1.5, canvas.manner.softness))


def _hem_of_neck(body: Body) -> None:
    """Ribbed round neckline of shirts."""
    x = body.neck + 22
    curve = quadratic((-x, 144), (0, 194), (x, 144), 14)
    body.scene.canvas.fill(ribbon(curve, np.full(14, 9.0)), shadow_of(body.cloth, 0.35))
    body.scene.canvas.ink(curve, body.line, 0.9, 1, 0.02, 0.02)


def _t_shirt(body: Body) -> None:
    main_cloth(body, body.cloth)
    _hem_of_neck(body)
    star = []
    for k in range(10):
        radius, angle = (20 if k % 2 == 0 else 20 * 0.45), k * math.pi / 5
        star.append((radius * math.sin(angle), 202 - radius * math.cos(angle)))
    body.scene.canvas.fill(polygon(np.array(star)), body.trim)


def _striped_shirt(body: Body) -> None:
    main_cloth(body, body.cloth)
    _hem_of_neck(body)
    for y in (188, 210, 232):
        body.stripe(y, body.trim)


def _hoodie(body: Body) -> None:
    canvas, neck, white = body.scene.canvas, body.neck, body.scene.palette.white_cloth
    main_cloth(body, body.cloth)
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
    main_cloth(body, body.cloth)
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
    main_cloth(body, inner)
    collar = mirrored([(neck + 2, 110), (neck + 9, 130), (neck + 16, 160), (0, 176), (0, 124)])
    body.scene.canvas.shape(collar, inner, light=(-6, -3))
    _lapels(body)


def _suit(body: Body) -> None:
    shirt_collar(body)
    necktie(body, striped=False)
    _lapels(body)


def _vest(body: Body) -> None:
    """A vest over shirt and tie."""
    shirt_collar(body)
    necktie(body, striped=False)
    neck, m = body.neck, body.breadth
    for side in SIDES:
        strap = smooth([(side * (neck + 16), 140), (side * (neck + 38), 150), (side * 92 * m, 162)])
        armhole = smooth([(side * 92 * m, 162), (side * 98 * m, 206), (side * 118 * m, 250), (side * 120 * m, 330)])
        front = quadratic((0, 246), (side * 40, 206), (side * (neck + 16), 140), 6)
        half = polygon(np.vstack([strap, armhole, [(0, 330), (0, 246)], front]))
        body.scene.canvas.shape(half, body.cloth, light=(-8, -4))


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
    main_cloth(body, scene.palette.white_cloth)
    for side in SIDES:
        collar = np.vstack(
            [
                [(side * (neck + 7), 128)],
                quadratic((side * (neck + 10), 134), (side * 96, 150), (side * 112, 176), 6),
                quadratic((side * 112, 176), (side * 74, 208), (0, 222), 6),
                quadratic((0, 222), (side * 22, 184), (side * (neck + 7), 128), 6),
            ]
        )
        scene.canvas.shape(polygon(collar), body.cloth, light=(-5, -4))
        for k in (0, 7):
            piping = smooth([(side * (98 - k), 172 - k * 0.3), (side * 66, 196 - k), (side * 16, 210 - k)])
            scene.canvas.ink(piping, body.trim, 0.9, 1, 0.02, 0.02)
    draw_bow(scene.canvas, 0, 204, 24, scene.palette.accessory)


def _bow_blouse(body: Body) -> None:
    canvas, neck, white = body.scene.canvas, body.neck, body.scene.palette.white_cloth
    line = body.scene.palette.line_of(white)
    main_cloth(body, white)
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
    main_cloth(body, body.cloth)
    for x, y in ((-104, 184), (-128, 226), (-66, 214), (100, 190), (132, 230), (74, 226)):  # flowers on the cloth
        for k in range(5):
            dx, dy = rotated(0, -9, 72 * k)
            canvas.oval(x * body.breadth + dx, y + dy, 7, 7, mix(scene.palette.accessory, white, 0.3), 0.9)
        canvas.oval(x * body.breadth, y, 4, 4, (250, 226, 130))
    for side in (1, -1):  # the left side of the robe lies over the right one
        for width, color in ((30, body.cloth), (18, white)):
            fold: list[Point] = [
                (side * (neck + 3), 124), (side * (neck + 5 + width * 0.9), 140), (-side * 44 + side * width, 300),
                (-side * 66, 300), (-side * 14, 212),
            ]  # fmt: skip
            canvas.shape(polygon(np.array(fold)), mix(color, shadow_of(color), 0.12), light=(-4, -3))


def _frilled_dress(body: Body) -> None:
    canvas, neck, cloth, white = body.scene.canvas, body.neck, body.cloth, body.scene.palette.white_cloth
    main_cloth(body, cloth)
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
    draw_bow(canvas, 0, 205, 19, body.scene.palette.accessory)


def _scarf(body: Body) -> None:
    """A scarf over a dark coat."""
    canvas, neck, cloth = body.scene.canvas, body.neck, body.cloth
    main_cloth(body, mix(body.scene.palette.accessory, (70, 66, 90), 0.6))
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
    **COSTUMES,
}
