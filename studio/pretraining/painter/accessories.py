"""What is worn on the head and face: bows, ears, hats, glasses and the small things on the skin.

This module does not know clothes; the choker is drawn with the neck.
"""

from __future__ import annotations

import math

import numpy as np

from .colors import INK, RGB, luminance, mix, shadow_of
from .curves import bezier, blob, mirrored, normals, polygon, quadratic, ribbon, ring, rotated, rounded_box, smooth
from .pen import Canvas
from .scene import SIDES, Scene

BERET = (
    (-122, -88), (-132, -138), (-74, -188), (22, -198), (106, -170), (126, -118), (114, -86), (60, -110), (-60, -112),
)  # fmt: skip
FRAME: RGB = (46, 38, 54)  # of glasses, to be told from all skins
PATCHED_EYE, EYEPATCH = (-50, 8), (58, 50, 68)
LENS = ((-0.94, -0.6), (0, -0.92), (0.94, -0.6), (1, 0.1), (0.62, 0.86), (0, 1), (-0.62, 0.86), (-1, 0.1))


def draw_bow(canvas: Canvas, x: float, y: float, radius: float, color: RGB, degrees: float = 0) -> None:
    """A tied bow with two tails, `radius` about a third of its width."""
    r = radius
    with canvas.drawing("accessory"), canvas.placed(x, y, degrees):
        for side in SIDES:
            tail = [(0, 0), (side * r * 0.9, r * 1.5), (side * r * 0.45, r * 1.35), (side * r * 0.2, r * 1.6)]
            canvas.shape(polygon(np.array(tail)), mix(color, shadow_of(color), 0.4), light=(-2, -2), weight=0.8)
            loop = [
                (0, 0), (side * r * 0.8, -r * 0.75), (side * r * 1.5, -r * 0.6), (side * r * 1.45, r * 0.5),
                (side * r * 0.75, r * 0.6),
            ]  # fmt: skip
            canvas.shape(blob(loop), color, light=(-3, -4), weight=0.9)
            fold = quadratic((side * 3, 0), (side * r * 0.5, -2), (side * r * 0.9, -3), 6)
            canvas.ink(fold, canvas.palette.line_of(color), 0.8)
        knot = [(-r * 0.3, -r * 0.3), (r * 0.3, -r * 0.3), (r * 0.3, r * 0.35), (-r * 0.3, r * 0.35)]
        canvas.shape(blob(knot), color, light=(-2, -2), weight=0.9)


def draw_under_hair(scene: Scene) -> None:
    """What grows out of the head and is tucked under the front hair."""
    if "cat ears" in scene.spec.accessories:
        _cat_ears(scene)
    if "horns" in scene.spec.accessories:
        for side in SIDES:
            x = side * 66 + scene.spec.turn * 6
            outer = quadratic((x - side * 16, -130), (x + side * 4, -176), (x + side * 34, -192), 9)
            inner = quadratic((x + side * 34, -192), (x + side * 40, -158), (x + side * 22, -112), 9)
            horn = mix(scene.palette.accessory, (70, 50, 70), 0.35)
            scene.canvas.shape(polygon(np.vstack([outer, inner])), horn, light=(-5, -4))


def _cat_ears(scene: Scene) -> None:
    palette, canvas = scene.palette, scene.canvas
    lining = (250, 186, 190) if luminance(palette.hair) > 0.25 else (222, 150, 160)
    for side in SIDES:
        x = side * 72 + scene.spec.turn * 6
        rise = quadratic((x - side * 46, -132), (x - side * 10, -190), (x + side * 22, -216), 8)
        fall = quadratic((x + side * 22, -216), (x + side * 40, -160), (x + side * 38, -90), 8)
        canvas.shape(polygon(np.vstack([rise, fall])), palette.hair, palette.hair_shade, line=palette.hair_line)
        rise = quadratic((x - side * 26, -134), (x, -178), (x + side * 18, -198), 8)
        fall = quadratic((x + side * 18, -198), (x + side * 28, -160), (x + side * 26, -104), 8)
        canvas.fill(polygon(np.vstack([rise, fall])), lining)


def draw_over_hair(scene: Scene) -> None:
    """What is worn in or on the hair, back to front."""
    worn = scene.spec.accessories
    if scene.spec.headdress:
        _headdress(scene)
    for name, drawer in (
        ("ribbon", _ribbon), ("hairclip", _hairclips), ("flower", _flower), ("halo", _halo), ("hat", _beret),
        ("witch hat", _witch_hat), ("straw hat", _straw_hat), ("headphones", _headphones), ("earrings", _earrings),
    ):  # fmt: skip
        if name in worn:
            drawer(scene)


def _headdress(scene: Scene) -> None:
    """A maid's frilled headband."""
    canvas, white = scene.canvas, scene.palette.white_cloth
    line, count = scene.palette.line_of(white), 49
    inner = quadratic((-100, -91), (0, -175), (100, -91), count) + np.array((scene.spec.turn * 8, 0))
    t = np.linspace(0, math.pi, count)
    frill = (20 + 9 * np.abs(np.sin(6 * t))) * np.clip(0.35 + np.sin(t) * 4, 0, 1)
    outer = inner + normals(inner) * frill[:, None]
    canvas.shape(polygon(np.vstack([inner, outer[::-1]])), white, light=(-4, -5))
    canvas.ink(inner + normals(inner) * 11, line, 0.9, 0.9, 0.02, 0.02)


def _ribbon(scene: Scene) -> None:
    draw_bow(scene.canvas, 66 + scene.spec.turn * 8, -134, 42, scene.palette.accessory, 24)


def _hairclips(scene: Scene) -> None:
    x, y = scene.head.point(66, -46, 1.1)
    for k in (-1, 1):
        with scene.canvas.placed(x, y, -32 + k * 34):
            bar = rounded_box(-21, -5, 21, 5, 4, 4)
            scene.canvas.shape(bar, scene.palette.accessory, light=(-1, -2), weight=0.7)


def _flower(scene: Scene) -> None:
    x, y = -88 + scene.spec.turn * 8, -84
    for k in range(5):
        dx, dy = rotated(0, -20, 72 * k)
        petal = blob(ring(x + dx, y + dy, 16, 16, 5.4, 7))
        scene.canvas.shape(petal, scene.palette.accessory, light=(-3, -3), weight=0.7)
    scene.canvas.oval(x, y, 11, 11, (250, 214, 90))


def _halo(scene: Scene) -> None:
    x = scene.spec.turn * 10
    edge = scene.palette.line_of((240, 190, 60))
    scene.canvas.band(x, -190, 70, 14, edge, 13, ink=True)
    scene.canvas.band(x, -190, 70, 14, (255, 224, 110), 8)
    scene.canvas.band(x, -190, 70, 14, (255, 250, 214), 3)


def _beret(scene: Scene) -> None:
    canvas, color = scene.canvas, scene.palette.accessory
    canvas.shape(blob(BERET), color, light=(-10, -10))
    brim = smooth([(-112, -92), (-60, -112), (0, -117), (60, -112), (108, -90)])
    canvas.ink(brim, scene.palette.line_of(color), 0.9)
    canvas.shape(blob([(4, -197), (8, -209), (18, -208), (18, -196)]), color, light=(-2, -2))


def _witch_hat(scene: Scene) -> None:
    """A dark hat with a wide brim, a ribbon around it, and a tip that bends over."""
    canvas, color = scene.canvas, (66, 52, 92)
    with canvas.placed(scene.spec.turn * 6, 0):
        cone = [(-92, -112), (-78, -150), (-48, -188), (2, -206), (70, -205), (126, -183), (134, -158), (104, -172),
                (76, -164), (86, -140), (92, -112), (0, -98)]  # fmt: skip
        canvas.shape(blob(cone), color, light=(-8, -6))
        fold = quadratic((70, -166), (48, -182), (30, -184), 6)
        canvas.ink(fold, scene.palette.line_of(color), 1.0)
        _brim(scene, color, 186, -98, 30)
        band = np.vstack(
            [quadratic((-97, -116), (0, -142), (97, -116), 12), quadratic((90, -140), (0, -168), (-90, -140), 12)]
        )
        canvas.shape(polygon(band), scene.palette.accessory, light=(-4, -4))


def _straw_hat(scene: Scene) -> None:
    canvas, color = scene.canvas, (248, 216, 140)
    with canvas.placed(scene.spec.turn * 6, 0):
        dome = [(-98, -112), (-94, -162), (-56, -198), (0, -206), (56, -198), (94, -162), (98, -112), (0, -98)]
        canvas.shape(blob(dome), color, light=(-9, -7))
        _brim(scene, color, 184, -98, 28)
        band = np.vstack(
            [quadratic((-101, -114), (0, -142), (101, -114), 12), quadratic((97, -142), (0, -170), (-97, -142), 12)]
        )
        canvas.shape(polygon(band), scene.palette.accessory, light=(-4, -4))


def _hat_band(scene: Scene, low: float, top: float) -> None:
    lower = quadratic((-low, -115), (0, -142), (low, -115), 12)
    upper = quadratic((top, -141), (0, -169), (-top, -141), 12)
    scene.canvas.shape(polygon(np.vstack([lower, upper])), scene.palette.accessory, light=(-4, -4))


def _brim(scene: Scene, color: RGB, reach: float, y: float, height: float) -> None:
    """The brim of a hat that is seen a little from above: an arc from side to side over the fringe."""
    top = bezier((-reach, y + 6), (-reach * 0.7, y - height * 1.1), (reach * 0.7, y - height * 1.1), (reach, y + 6), 18)
    low = bezier((reach, y + 6), (reach * 0.6, y + 10), (reach * 0.3, y - 2), (0, y - 2), 12)
    path = polygon(np.vstack([top, low, (low * (-1, 1))[::-1]]))
    scene.canvas.shape(path, color, light=(-4, -7))


def _earrings(scene: Scene) -> None:
    """Drops below the ears, over the hair so that they always show."""
    canvas, color = scene.canvas, scene.palette.accessory
    for side in SIDES:
        x = side * (99 if scene.painted else 105) + scene.spec.turn * 4
        canvas.ink(np.array([(x, 28.0), (x, 44.0)]), scene.palette.line_of(color), 1.4, 1, 0.02, 0.02)
        drop = blob([(x, 38), (x + 8, 53), (x + 8, 63), (x, 70), (x - 8, 63), (x - 8, 53)])
        canvas.shape(drop, color, light=(-2, -3), weight=0.9)


def draw_strap(scene: Scene) -> None:
    """Of the eyepatch, around the head and under the hair."""
    canvas, (x, y), color = scene.canvas, scene.head.point(*PATCHED_EYE, 1.05), EYEPATCH
    with canvas.clipped(scene.head.face):
        for end_x, end_y in ((-112, -52), (120, -74)):
            strap = quadratic((x, y - 8), ((x + end_x) / 2, (y + end_y) / 2 - 6), (end_x, end_y), 10)
            band = ribbon(strap, np.full(10, 9.0))
            canvas.fill(band, color)
            canvas.outline(band, scene.palette.line_of(color), 0.6)


def draw_eyepatch(scene: Scene) -> None:
    """Over the eye on the picture's left and over the hair, so that it always shows."""
    head, (width, height) = scene.head, scene.head.eye
    x, y = head.point(*PATCHED_EYE, 1.05)
    rx, ry = width * 0.62 * head.squeeze(-1), max(height * 0.56, 32)
    patch = [(-1, -0.55), (0, -0.8), (1, -0.55), (0.94, 0.3), (0.5, 0.85), (0, 1), (-0.5, 0.85), (-0.94, 0.3)]
    scene.canvas.shape(blob([(x + rx * u, y + ry * v) for u, v in patch]), EYEPATCH, light=(-5, -5))


def _headphones(scene: Scene) -> None:
    canvas, color, (rx, ry) = scene.canvas, scene.palette.accessory, scene.head.crown
    theta = np.linspace(-0.05, math.pi + 0.05, 19)
    arc = np.stack([-(rx + 5) * np.cos(theta) + scene.spec.turn * 6, -(ry + 4) * np.sin(theta)], 1)
    path = polygon(arc, close=False)
    canvas.outline(path, scene.palette.line_of(color), 6.4)
    canvas.stroke(path, mix(color, (60, 60, 70), 0.25), 11, ink=False)
    for side in SIDES:
        canvas.shape(rounded_box(side * 118 - 17, -36, side * 118 + 17, 40, 15, 18), color)


def draw_glasses(scene: Scene) -> None:
    head, canvas, frame = scene.head, scene.canvas, FRAME
    width, height = head.eye
    weight = 5.4 if scene.painted else 6.4
    rx, ry = width * 0.56 + 5, max(height * 0.50, 27) + 3
    hinges = []  # inner x, outer x and y of each lens
    for side in SIDES:
        x, y = head.point(side * 50, 12, 1.1)
        squeeze = head.squeeze(side)
        lens = blob([(x + rx * squeeze * u, y + ry * v) for u, v in LENS])
        canvas.fill(lens, (220, 236, 255), 0.12)
        canvas.stroke(lens, frame, weight)
        hinges.append((x - side * rx * squeeze * 0.96, x + side * rx * squeeze, y))
    (left, _, left_y), (right, _, right_y) = hinges
    bridge = quadratic((left, left_y - 8), ((left + right) / 2, left_y - 16), (right, right_y - 8), 8)
    canvas.fill(ribbon(bridge, np.full(8, weight)), frame, ink=True)
    for side, (_, outer, y) in zip(SIDES, hinges, strict=True):
        temple = np.array([(outer - side * 2, y - 10), (outer + side * 8, y - 12)])
        canvas.fill(ribbon(temple, np.full(2, weight)), frame, ink=True)


def draw_on_skin(scene: Scene) -> None:
    """Freckles, mole and sticking plaster."""
    worn, head, canvas, shade = scene.spec.accessories, scene.head, scene.canvas, scene.palette.skin_shade
    if "freckles" in worn:
        spots = [(k * 16 + 8 * (k > 0) - 4, 44 + 7 * (abs(k) % 2)) for k in (-4, -3, -2, 2, 3, 4)]
        for x, y in head.surface(spots):
            canvas.oval(x, y, 3.4, 2.8, mix(shade, (150, 76, 50), 0.6), 0.85, ink=True)
    if "mole" in worn:
        x, y = head.point(44, 56)
        canvas.oval(x, y, 4.4, 4.4, mix(shade, INK, 0.8), ink=True)
    if "bandaid" in worn:
        with canvas.placed(*head.point(-46, 60), -24):
            canvas.shape(rounded_box(-24, -9, 24, 9, 8, 8), (240, 200, 150), light=(-1, -2), weight=0.7)
            canvas.box(-9, -8, 9, 8, (252, 232, 204))


def draw_choker(scene: Scene, neck: float) -> None:
    """Around a neck of half width `neck`; drawn with the body."""
    strap = mirrored([(neck + 1, 106), (neck + 2, 124), (0, 134), (0, 116)])
    scene.canvas.shape(strap, mix(scene.palette.accessory, (40, 36, 50), 0.45), light=(-3, -2))
    scene.canvas.oval(0, 136, 7, 7, scene.palette.line_of((248, 214, 96)), ink=True)
    scene.canvas.oval(0, 136, 5, 5, (248, 214, 96))
