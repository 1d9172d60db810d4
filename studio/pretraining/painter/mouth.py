"""The mouth, in thirteen shapes.

Drawn around its own centre; this module does not know emotions, only the shape that an expression names.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .colors import mix
from .curves import Point, bezier, blob, polygon, quadratic, ribbon, ring, smooth
from .palette import WHITE
from .scene import SIDES, Scene

INNER, TONGUE = (150, 44, 56), (240, 124, 124)
CLOSED = {"smile": (21, 11), "soft": (13, 5), "flat": (12, 1.5), "frown": (17, -10), "wavy": (17, 0)}  # width, bend


def mouth_centre(girl: bool, painted: bool) -> Point:
    """Where the mouth sits on the head's surface, before the head turns."""
    return 0, (70 if girl else 76) + (5 if painted else 0)


def draw_mouth(scene: Scene) -> None:
    kind = scene.spec.expression.mouth
    x, y = scene.head.point(*mouth_centre(scene.girl, scene.painted), 1.2)
    scale = mouth_scale(scene.painted)
    with scene.canvas.placed(x, y, scale=(scale * (1 - abs(scene.spec.turn) * 0.1), scale)):
        if kind in CLOSED:
            _closed(scene, kind)
        else:
            OPEN[kind](scene)


def mouth_scale(painted: bool) -> float:
    return 1.0 if painted else 1.18


def _closed(scene: Scene, kind: str) -> None:
    canvas, line, shade = scene.canvas, scene.palette.skin_line, scene.palette.skin_shade
    width, bend = CLOSED[kind]
    curve = quadratic((-width, -bend * 0.5), (0, bend * 1.1), (width, -bend * 0.5), 12)
    if kind == "wavy":
        curve[:, 1] += 3.2 * np.sin(np.linspace(0, 3.4 * math.pi, 12)) + np.linspace(-1, 1, 12) ** 2 * 4
    if scene.painted:
        lip = mix(shade, (206, 84, 92), 0.55)
        canvas.oval(0, 5, width * 0.8, 5, lip, 0.6, 2.5)
        canvas.oval(0, -2, width * 0.8, 3, lip, 0.5, 2)
    swell = np.sin(np.linspace(0.25, math.pi - 0.25, 12)) ** 0.5 * 3.2
    canvas.fill(ribbon(curve, swell), line, ink=True)
    if kind == "smile":
        for side in SIDES:
            corner, end = (side * width, -bend * 0.5 + 2), (side * (width + 2), -bend * 0.5 - 5)
            dimple = quadratic(corner, (side * (width + 3), -bend * 0.5 - 2), end, 5)
            canvas.ink(dimple, line, 0.9, 1, 0.2, 0.6)
    if kind in ("frown", "flat", "soft"):
        canvas.ink(quadratic((-5, 9), (0, 11), (5, 9), 5), shade, 0.9, 0.9, 0.3, 0.3)


def _cavity(scene: Scene, outline: np.ndarray, teeth: float = 0, tongue: float = 0) -> None:
    """An open mouth; `teeth` and `tongue` are shares of its height."""
    canvas, path = scene.canvas, polygon(outline)
    top, bottom = outline[:, 1].min(), outline[:, 1].max()
    canvas.fill(path, INNER)
    with canvas.clipped(path):
        if tongue:
            canvas.oval(0, bottom + 2, outline[:, 0].max() * 0.72, (bottom - top) * tongue, TONGUE)
        if teeth:
            canvas.box(-60, top - 5, 60, top + (bottom - top) * teeth, WHITE)
    canvas.stroke(path, scene.palette.skin_line, max(2.0, scene.palette.manner.line_width))


def _open_smile(scene: Scene) -> None:
    lip = quadratic((-26, -9), (0, -3), (26, -9), 8)
    _cavity(scene, np.vstack([lip, bezier((26, -9), (22, 24), (-22, 24), (-26, -9), 14)]), 0.22, 0.42)


def _grin(scene: Scene) -> None:
    lip = quadratic((-26, -8), (0, -2), (26, -8), 8)
    _cavity(scene, np.vstack([lip, bezier((26, -8), (20, 14), (-20, 14), (-26, -8), 14)]), 1.2)
    scene.canvas.ink(quadratic((-20, 1), (0, 5), (20, 1), 8), scene.palette.skin_line, 0.7, 0.7, 0.2, 0.2)


def _shout(scene: Scene) -> None:
    corners = [(-17, -9), (0, -12), (17, -9), (24, 12), (12, 17), (0, 14), (-12, 17), (-24, 12)]
    _cavity(scene, smooth(corners, closed=True), 0.24, 0.4)


def _clench(scene: Scene) -> None:
    canvas, line = scene.canvas, scene.palette.skin_line
    _cavity(scene, smooth([(-20, -6), (0, -9), (20, -6), (25, 9), (0, 6), (-25, 9)], closed=True), 1.2)
    canvas.ink(quadratic((-21, 2), (0, -2), (21, 2), 8), line, 0.7, 1, 0.05, 0.05)
    for x in (-12, -4, 4, 12):
        canvas.ink(np.array([(x, -8.0), (x * 1.1, 7.0)]), line, 0.55, 0.8, 0.05, 0.05)


def _sob(scene: Scene) -> None:
    arch = bezier((-19, 12), (-15, -16), (15, -16), (19, 12), 14)
    _cavity(scene, np.vstack([arch, quadratic((19, 12), (0, 4), (-19, 12), 8)]), 0.2, 0.34)


def _tongue_out(scene: Scene) -> None:
    """A closed smile with the tip of the tongue over the lower lip, a little to one side."""
    canvas, line = scene.canvas, scene.palette.skin_line
    lip = quadratic((-22, -6), (0, 12), (22, -6), 14)
    tongue = blob([(-8, 4), (0, 6), (11, 3), (12.5, 12), (9, 19), (1, 21), (-6, 17), (-9, 10)])
    canvas.stroke(tongue, line, max(2.0, canvas.manner.line_width) * 1.3)
    canvas.fill(tongue, TONGUE)
    canvas.ink(quadratic((1.5, 6), (2, 10), (1.5, 14), 5), mix(TONGUE, line, 0.5), 0.8, 0.9, 0.2, 0.4)
    swell = np.sin(np.linspace(0.25, math.pi - 0.25, 14)) ** 0.5 * 3.6
    canvas.fill(ribbon(lip, swell), line, ink=True)
    for side in SIDES:
        canvas.ink(quadratic((side * 22, -5), (side * 25, -8), (side * 24, -12), 5), line, 0.9, 1, 0.2, 0.6)


def _round(scene: Scene) -> None:
    rx, ry = (11, 14) if scene.spec.expression.mouth == "big_o" else (8, 9)
    _cavity(scene, smooth(ring(0, 2, rx, ry, 5.5, 8), closed=True), 0, 0.38)


OPEN: dict[str, Callable[[Scene], None]] = {
    "open_smile": _open_smile, "grin": _grin, "shout": _shout, "clench": _clench, "sob": _sob, "big_o": _round,
    "small_o": _round, "tongue": _tongue_out,
}  # fmt: skip
