"""Clothes with a part to play: uniforms, armor, sports wear.

What tells them apart lies high on the chest: lower down the picture ends.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .accessories import draw_bow
from .body import Body, main_cloth
from .colors import RGB, luminance, mix, shadow_of
from .curves import Point, blob, mirrored, polygon, quadratic, ribbon, smooth
from .palette import WHITE
from .scene import SIDES

GOLD: RGB = (246, 204, 96)


def shirt_collar(body: Body) -> None:
    """A white shirt with its pointed collar."""
    white = body.scene.palette.white_cloth
    main_cloth(body, white)
    for side in SIDES:
        collar = [
            (side * (body.neck + 1), 122), (side * (body.neck + 12), 146), (side * 30, 188), (side * 2, 162)
        ]  # fmt: skip
        body.scene.canvas.shape(polygon(np.array(collar)), white, light=(-3, -3), weight=0.9)


def necktie(body: Body, striped: bool) -> None:
    canvas, white, tie = body.scene.canvas, body.scene.palette.white_cloth, body.scene.palette.accessory
    knot, blade = [(-11, 162), (11, 162), (8, 182), (-8, 182)], [(-8, 182), (8, 182), (21, 300), (-21, 300)]
    canvas.shape(polygon(np.array(knot)), tie, light=(-3, -2), weight=0.9)
    canvas.shape(polygon(np.array(blade)), tie, light=(-5, -2), weight=0.9)
    if striped:
        with canvas.clipped(polygon(np.array(blade))):
            for y in (200, 226, 252):
                stripe = polygon(np.array([(-24, y + 10), (24, y - 12), (24, y - 4), (-24, y + 18)]))
                canvas.fill(stripe, mix(tie, white, 0.7))


def _blazer(body: Body) -> None:
    """A school uniform: piped lapels and a crest; a bow for girls, a striped tie for boys."""
    canvas, neck, m, cloth = body.scene.canvas, body.neck, body.breadth, body.cloth
    shirt_collar(body)
    if body.scene.girl:
        draw_bow(canvas, 0, 182, 23, body.scene.palette.accessory)
    else:
        necktie(body, striped=True)
    for side in SIDES:
        shoulder = smooth(
            [(side * (neck + 9), 136), (side * (neck + 28), 146), (side * 104 * m, 160), (side * 142 * m, 182),
             (side * 159 * m, 232), (side * 166 * m, 330)]
        )  # fmt: skip
        front = quadratic((0, 276), (side * 46, 226), (side * (neck + 9), 136), 8)
        canvas.shape(polygon(np.vstack([shoulder, [(0, 330), (0, 276)], front])), cloth, light=(-12, -6))
        lapel: list[Point] = [
            (side * (neck + 9), 134), (side * (neck + 40), 152), (side * 88, 192), (side * 70, 202), (side * 84, 216),
            (side * 3, 278), (side * 40, 214),
        ]  # fmt: skip
        canvas.shape(polygon(np.array(lapel)), mix(cloth, body.scene.palette.white_cloth, 0.06), light=(-3, -3))
        with canvas.clipped(polygon(np.array(lapel))):
            piping = polygon(np.array([*lapel[1:6]]), close=False)
            canvas.stroke(piping, body.trim, 7.5, ink=False)
        seam = quadratic((side * 118 * m, 204), (side * 124 * m, 240), (side * 119 * m, 300), 8)
        canvas.ink(seam, body.line, 0.9, 0.9)
    x, y = 104 * m, 196
    crest = blob([(x - 11, y - 12), (x, y - 9), (x + 11, y - 12), (x + 10, y + 4), (x, y + 14), (x - 10, y + 4)])
    canvas.shape(crest, GOLD, light=(-2, -2), weight=0.8)


def _maid(body: Body) -> None:
    """A dress with a white collar, and the frilled straps of an apron."""
    canvas, neck, m = body.scene.canvas, body.neck, body.breadth
    white = body.scene.palette.white_cloth
    main_cloth(body, body.cloth)
    bib = mirrored([(54, 190), (62, 240), (66, 320), (0, 320)])
    canvas.shape(bib, white, light=(-6, -2))
    for side in SIDES:
        inner = smooth([(side * 72 * m, 148), (side * 62, 176), (side * 54, 200), (side * 52, 320)], 5)
        outer = smooth([(side * 96 * m, 154), (side * 106 * m, 186), (side * 98 * m, 226), (side * 90 * m, 320)], 8)
        scallops = outer + np.stack([side * 6 * np.abs(np.sin(np.arange(len(outer)) * np.pi / 4)), 0 * outer[:, 1]], 1)
        canvas.shape(polygon(np.vstack([inner, scallops[::-1]])), white, light=(-4, -3))
        canvas.ink(inner + np.array((side * 16, 0)), body.scene.palette.line_of(white), 0.7, 0.7, 0.02, 0.3)
    for side in SIDES:
        collar = [
            (side * 2, 160), (side * (neck + 3), 124), (side * (neck + 30), 146), (side * 56, 176), (side * 26, 184),
        ]  # fmt: skip
        canvas.shape(blob(collar), white, light=(-4, -4))
    draw_bow(canvas, 0, 176, 22, body.scene.palette.accessory)


def _armor(body: Body) -> None:
    """A knight's breastplate with gorget and shoulder plates, edged in gold."""
    canvas, neck, m = body.scene.canvas, body.neck, body.breadth
    metal = mix(body.cloth, (206, 214, 228), 0.22)
    shine = mix(metal, WHITE, 0.6)
    main_cloth(body, metal)
    with canvas.clipped(body.torso):
        gleam = smooth([(-34, 196), (-62, 206), (-84, 232), (-90, 260)])
        canvas.fill(ribbon(gleam, np.linspace(4, 20, len(gleam))), shine, 0.85)
        canvas.ink(np.array([(0.0, 160.0), (0.0, 320.0)]), body.line, 1.3, 1, 0.02, 0.02)
        edge = quadratic((-(neck + 44), 128), (0, 226), (neck + 44, 128), 14)
        canvas.fill(ribbon(edge, np.full(14, 16.0)), body.line, ink=True)
        canvas.fill(ribbon(edge, np.full(14, 10.0)), GOLD)
    gorget = mirrored([(neck + 2, 106), (neck + 8, 124), (neck + 22, 146), (0, 170), (0, 122)])
    canvas.shape(gorget, mix(metal, shadow_of(metal), 0.35), light=(-5, -3))
    for side in SIDES:
        for k, (x, y) in enumerate(((146 * m, 222), (118 * m, 186))):
            radius = (46, 54)[k]
            rim = [(-1, 6), (-0.6, -32), (0.05, -42), (0.8, -12), (1, 28), (0.3, 20), (-0.4, 20)]
            plate = blob([(side * (x + radius * u), y + v) for u, v in rim])
            canvas.shape(plate, metal, light=(-9, -7))
            with canvas.clipped(plate):
                canvas.stroke(plate, GOLD, 11, ink=False)
                if k == 1:
                    canvas.oval(side * x - 14, y - 16, 20, 8, shine, 0.9)
            canvas.outline(plate, body.line, 1.1)


def _tank_top(body: Body) -> None:
    """Bare shoulders; the skin under it is drawn with the neck."""
    canvas, neck, m, palette = body.scene.canvas, body.neck, body.breadth, body.scene.palette
    strap_in, strap_out = neck + 32, neck + 56
    scoop = quadratic((-strap_in, 144), (0, 244), (strap_in, 144), 15)
    armhole = smooth([(strap_out, 148), (strap_out + 8, 186), (112 * m, 216), (122 * m, 240), (124 * m, 330)], 6)
    path = polygon(np.vstack([scoop, armhole, (armhole * (-1, 1))[::-1]]))
    canvas.shape(path, body.cloth, light=(-10, -5))
    trim = mix(body.cloth, WHITE, 0.6) if luminance(body.cloth) < 0.8 else palette.accessory
    with canvas.clipped(path):
        canvas.stroke(polygon(scoop, close=False), trim, 15, ink=False)
    canvas.outline(polygon(scoop, close=False), body.line, 0.9)
    for side in SIDES:
        arm = quadratic((side * 120 * m, 214), (side * 122 * m, 232), (side * 124 * m, 300), 8)
        canvas.ink(arm, palette.skin_line, 1.0, 1, 0.1, 0.1)


def _track_jacket(body: Body) -> None:
    canvas, neck, m, cloth = body.scene.canvas, body.neck, body.breadth, body.cloth
    main_cloth(body, cloth)
    with canvas.clipped(body.torso):
        for side in SIDES:
            for k in (0, 1):
                x = 76 - 22 * k
                stripe = smooth(
                    [
                        (side * (x - 6), 134),
                        (side * (x + 22) * m, 166),
                        (side * (x + 42) * m, 206),
                        (side * (x + 50) * m, 330),
                    ]
                )
                canvas.fill(ribbon(stripe, np.full(len(stripe), 11.0)), body.trim)
    collar = mirrored([(neck + 2, 104), (neck + 12, 126), (neck + 20, 156), (0, 178), (0, 132)])
    canvas.shape(collar, cloth, light=(-6, -3))
    with canvas.clipped(collar):
        band = quadratic((-(neck + 24), 140), (0, 184), (neck + 24, 140), 14)
        canvas.fill(ribbon(band, np.full(14, 8.0)), body.trim)
    canvas.ink(np.array([(0.0, 136.0), (0.0, 320.0)]), body.line, 2.6, 1, 0.01, 0.01)
    canvas.ink(np.array([(0.0, 138.0), (0.0, 320.0)]), (226, 228, 236), 1.2, 1, 0.01, 0.01, ink=False)
    pull = blob([(-5, 150), (5, 150), (6, 170), (0, 174), (-6, 170)])
    canvas.shape(pull, (226, 228, 236), light=(-1, -1), weight=0.7)


COSTUMES: dict[str, Callable[[Body], None]] = {
    "blazer": _blazer,
    "maid": _maid,
    "armor": _armor,
    "tank top": _tank_top,
    "track jacket": _track_jacket,
}
