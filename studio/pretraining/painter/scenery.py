"""Places behind the character, each always the same picture: few large shapes in colours of their own.

What tells a place apart lies to the left and right and above: the character covers the middle.
This module does not know the character.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .colors import RGB, mix
from .curves import Point, blob, polygon, quadratic, ribbon, rotated, smooth
from .palette import WHITE
from .pen import UNITS, Canvas, down

PETAL = ((0, -9), (7, 0), (2, 10), (0, 7), (-2, 10), (-7, 0))
CLOUD = ((-42, 8, 26), (-12, -8, 36), (26, -2, 30), (54, 10, 20), (0, 14, 30))  # dx, dy, radius


def flood(canvas: Canvas, *colors: RGB) -> None:
    """The whole picture in one colour, or in a gradient from top to bottom."""
    canvas.box(0, 0, UNITS, UNITS, colors[0], down(0, UNITS, colors) if len(colors) > 1 else None)


def cloud(canvas: Canvas, x: float, y: float, size: float) -> None:
    for dx, dy, radius in CLOUD:
        canvas.oval(
            x + dx * size, y + dy * size, radius * size * 1.2, radius * size * 0.8, WHITE, 0.95,
            8 if canvas.manner.painted else 1,
        )  # fmt: skip


def _area(canvas: Canvas, points: Sequence[Point] | np.ndarray, color: RGB) -> None:
    """A flat area with straight edges."""
    canvas.fill(polygon(np.array(points, float)), color)


def _clump(canvas: Canvas, x: float, y: float, radius: float, color: RGB, light: RGB, lobes: int = 9) -> None:
    """A scalloped mass of leaves or blossoms, lighter towards the upper left."""
    for tone, dx, dy, r in ((color, 0.0, 0.0, radius), (light, -0.13 * radius, -0.18 * radius, radius * 0.72)):
        canvas.oval(x + dx, y + dy, r, r * 0.86, tone)
        for k in range(lobes):
            angle = 2 * math.pi * k / lobes + 0.3
            left, top = x + dx + r * 0.84 * math.cos(angle), y + dy + r * 0.72 * math.sin(angle)
            canvas.oval(left, top, r * 0.36, r * 0.34, tone)


def _branch(canvas: Canvas, points: Sequence[Point], thick: float, thin: float, color: RGB) -> None:
    line = smooth(points, 8)
    canvas.fill(ribbon(line, np.linspace(thick, thin, len(line))), color)


def draw_cherry_blossoms(canvas: Canvas) -> None:
    flood(canvas, (150, 204, 246), (228, 242, 254))
    bark, deep, pale = (110, 76, 78), (246, 146, 182), (255, 196, 216)
    _branch(canvas, [(-20, 250), (44, 150), (70, 70), (150, 10), (230, -30)], 40, 16, bark)
    _branch(canvas, [(52, 140), (20, 70), (24, -20)], 20, 10, bark)
    _branch(canvas, [(540, 60), (470, 70), (390, 36), (330, -20)], 22, 10, bark)
    clumps = (
        (-6, 40, 70), (92, 12, 64), (196, -16, 60), (20, 150, 50), (110, 92, 34), (330, -14, 56), (430, 8, 66),
        (512, 52, 66), (470, 118, 36),
    )  # fmt: skip
    for x, y, radius in clumps:
        _clump(canvas, x, y, radius, deep, pale)
    for x, y in ((-2, 36), (84, 4), (20, 146), (160, 12), (352, 6), (430, 8), (500, 56), (468, 112)):
        for k in range(5):
            dx, dy = rotated(0, -9, 72 * k)
            canvas.oval(x + dx, y + dy, 7.5, 7.5, (255, 240, 246))
        canvas.oval(x, y, 5, 5, (240, 110, 156))
    for x, y, angle in ((60, 262, 30), (30, 352, 110), (96, 430, 60), (446, 214, 80), (486, 300, 20), (440, 396, 130)):
        with canvas.placed(x, y, angle, (1.5, 1.5)):
            canvas.fill(blob(PETAL), deep)


def draw_classroom(canvas: Canvas) -> None:
    wall, wood, dark = (250, 238, 208), (206, 154, 100), (150, 104, 68)
    flood(canvas, wall)
    canvas.box(-4, 28, 372, 292, wood)  # blackboard
    canvas.box(-4, 42, 358, 278, (62, 124, 100))
    canvas.box(-4, 282, 380, 298, dark)
    chalk: RGB = (226, 244, 234)
    for y, right in ((82, 66), (112, 84), (142, 58)):
        canvas.box(18, y, right, y + 6, chalk)
    canvas.box(20, 276, 50, 284, WHITE)
    canvas.box(404, 16, 530, 300, WHITE)  # window
    canvas.box(418, 30, 530, 286, (126, 192, 244), down(30, 286, [(126, 192, 244), (216, 238, 254)]))
    with canvas.clipped(polygon(np.array([(418, 30), (530, 30), (530, 286), (418, 286)]))):
        cloud(canvas, 470, 214, 0.8)
    canvas.box(418, 146, 530, 158, WHITE)
    canvas.box(394, 296, 530, 310, mix(wall, dark, 0.35))
    canvas.box(0, 336, UNITS, UNITS, mix(wall, wood, 0.5))  # panelling, and desks before it
    canvas.box(0, 330, UNITS, 340, dark)
    for left, right in ((-30, 118), (394, 542)):
        _area(canvas, [(left + 14, 404), (right - 14, 404), (right, 440), (left, 440)], (236, 190, 132))
        canvas.box(left, 440, right, 456, wood)
        canvas.box(left + 12, 456, right - 12, UNITS, dark)


def draw_city(canvas: Canvas) -> None:
    """A city at night, under a full moon."""
    flood(canvas, (32, 38, 108), (92, 76, 164), (196, 112, 168))
    canvas.oval(430, 84, 44, 44, (255, 246, 208))
    for x, y in ((36, 44), (98, 112), (180, 28), (330, 40), (372, 138), (490, 170), (28, 170)):
        canvas.oval(x, y, 3.4, 3.4, (255, 250, 226))
    for left, right, top in ((92, 192, 232), (190, 330, 270), (322, 388, 216)):
        canvas.box(left, top, right, UNITS, (66, 60, 132))
    lit, dim, wall = (255, 220, 110), (82, 82, 152), (30, 32, 80)
    towers = (  # left edge, roof, windows row by row
        (-6, 230, ("101", "110", "011", "101", "111", "010", "101", "110")), (96, 326, ("10", "11", "01", "10", "11")),
        (352, 294, ("01", "11", "10", "01", "11", "10")),
        (422, 198, ("110", "101", "011", "110", "101", "011", "110", "101", "110")),
    )  # fmt: skip
    for edge, roof, rows in towers:
        canvas.box(edge, roof, edge + 32 * len(rows[0]) + 4, UNITS, wall)
        for row, windows in enumerate(rows):
            for column, window in enumerate(windows):
                x, y = edge + 10 + 32 * column, roof + 14 + 32 * row
                canvas.box(x, y, x + 18, y + 20, lit if window == "1" else dim)
    canvas.box(40, 184, 46, 232, wall)
    canvas.box(466, 150, 472, 200, wall)


def draw_forest(canvas: Canvas) -> None:
    flood(canvas, (226, 250, 196), (176, 226, 150))
    for x, width in ((150, 26), (356, 30), (300, 18), (212, 16)):
        canvas.box(x, 0, x + width, UNITS, (146, 196, 128))
    canvas.box(0, 396, UNITS, UNITS, (126, 186, 96))
    for left, right in ((24, 72), (430, 482)):
        edge = [(right, -10), (right + 2, 380), (right + 22, 440)]
        _area(canvas, [(left, -10), *edge, (left - 22, 440), (left - 2, 380)], (122, 88, 66))
        _area(canvas, [(right - 18, -10), *edge, (right - 14, 440)], (92, 64, 56))
    deep, pale = (58, 132, 76), (96, 172, 92)
    for x, y, radius in ((170, -24, 70), (330, -30, 74), (30, 20, 92), (486, 16, 92), (104, 90, 40), (412, 88, 40)):
        _clump(canvas, x, y, radius, deep, pale)
    for x, y, radius in ((-6, 470, 70), (100, 496, 56), (420, 496, 56), (520, 468, 70)):
        _clump(canvas, x, y, radius, (70, 146, 84), (116, 190, 100))


def draw_beach(canvas: Canvas) -> None:
    flood(canvas, (86, 176, 244), (196, 234, 254))
    canvas.oval(86, 84, 40, 40, (255, 244, 180))
    cloud(canvas, 440, 110, 1.1)
    cloud(canvas, 40, 210, 0.7)
    canvas.box(0, 262, UNITS, UNITS, (40, 152, 210), down(262, 400, [(34, 130, 204), (84, 208, 220)]))
    for x, y, length in ((30, 296, 60), (86, 326, 44), (430, 300, 64), (476, 334, 40)):
        canvas.box(x, y, x + length, y + 5, (206, 244, 250))
    shore = smooth([(-20, 372), (90, 392), (200, 378), (320, 396), (430, 378), (540, 392)], 8)
    below = np.array([(540.0, 540.0), (-20.0, 540.0)])
    canvas.fill(polygon(np.vstack([shore, below])), WHITE)
    canvas.fill(polygon(np.vstack([shore + np.array((0, 14)), below])), (250, 222, 160))
    canvas.fill(polygon(np.vstack([shore + np.array((0, 70)), below])), (255, 236, 184))
    _star(canvas, 60, 474, 22, (246, 130, 104))


def _star(canvas: Canvas, x: float, y: float, radius: float, color: RGB) -> None:
    points = []
    for k in range(10):
        angle, r = math.pi * k / 5 + 0.3, radius if k % 2 == 0 else radius * 0.5
        points.append((x + r * math.sin(angle), y - r * math.cos(angle)))
    canvas.fill(blob(points), color)


def draw_snow(canvas: Canvas) -> None:
    flood(canvas, (128, 170, 224), (214, 230, 248))
    far = smooth([(-20, 330), (80, 290), (200, 330), (330, 280), (440, 300), (540, 270)], 8)
    near = smooth([(-20, 400), (100, 380), (260, 420), (400, 390), (540, 410)], 8)
    below = np.array([(540.0, 540.0), (-20.0, 540.0)])
    canvas.fill(polygon(np.vstack([far, below])), (192, 212, 242))
    for x, foot, size in ((62, 408, 1.0), (456, 412, 1.15)):
        _snowy_fir(canvas, x, foot, size)
    canvas.fill(polygon(np.vstack([near, below])), (248, 251, 255))
    flakes = (
        (26, 40), (92, 78), (40, 132), (140, 24), (214, 52), (300, 20), (372, 60), (446, 30), (492, 92), (420, 130),
        (112, 166), (30, 232), (486, 212), (396, 206), (104, 262), (440, 276), (20, 330), (130, 348), (390, 346),
        (496, 320),
    )  # fmt: skip
    for i, (x, y) in enumerate(flakes):
        radius = (8, 5.5, 6.5)[i % 3]
        canvas.oval(x, y, radius, radius, WHITE)


def _snowy_fir(canvas: Canvas, x: float, foot: float, size: float) -> None:
    canvas.box(x - 9 * size, foot - 40 * size, x + 9 * size, foot, (110, 80, 76))
    for k in range(3):
        base, half, height = foot - (24 + 52 * k) * size, (66 - 14 * k) * size, 84 * size
        _area(canvas, [(x - half, base), (x, base - height), (x + half, base)], (64, 116, 110))
        cap = [(-0.52, 0.48), (0, 1), (0.52, 0.48), (0.22, 0.36), (0, 0.5), (-0.22, 0.36)]
        _area(canvas, [(x + half * u, base - height * v) for u, v in cap], WHITE)


def draw_room(canvas: Canvas) -> None:
    """A room by day, its window between two curtains."""
    wall, cloth = (252, 232, 206), (244, 158, 150)
    flood(canvas, wall)
    canvas.box(40, 40, 472, 330, WHITE)
    canvas.box(56, 56, 456, 314, (128, 196, 246), down(56, 314, [(128, 196, 246), (218, 240, 254)]))
    cloud(canvas, 150, 130, 0.9)
    cloud(canvas, 400, 210, 0.9)
    canvas.box(249, 56, 263, 314, WHITE)
    canvas.box(24, 326, 488, 346, (222, 178, 136))
    for side in (-1, 1):
        for k, (top, low) in enumerate(((150, 116), (186, 156), (222, 200), (262, 250))):
            edge = quadratic((top, 24), (top + 8, 250), (low, 520), 8)
            fold = np.vstack([edge, [(280, 520), (280, 24)]]) * (side, 1) + np.array((256, 0))
            canvas.fill(polygon(fold), cloth if k % 2 == 0 else (222, 124, 124))
    canvas.box(0, 14, UNITS, 28, (150, 104, 76))


PLACES = {
    "cherry blossoms": draw_cherry_blossoms,
    "classroom": draw_classroom,
    "city": draw_city,
    "forest": draw_forest,
    "beach": draw_beach,
    "snow": draw_snow,
    "room": draw_room,
}
