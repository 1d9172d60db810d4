"""The face but for eyes and mouth: ears, skin, blush, nose, and the signs of emotion drawn around it.

This module does not know hair; the fringe's shadow is cast by its outline.
"""

from __future__ import annotations

import math

import numpy as np

from .accessories import draw_on_skin
from .colors import INK, mix
from .curves import bezier, blob, polygon, quadratic, ribbon, rotated, smooth
from .palette import WHITE
from .scene import SIDES, Scene


def draw_face(scene: Scene) -> None:
    """Ears, then the face with all that lies flat on it."""
    palette, canvas, head = scene.palette, scene.canvas, scene.head
    for side in SIDES:
        _ear(scene, side)
    canvas.shape(head.face, palette.skin, palette.skin_shade, (-6, -4), line=palette.skin_line)
    with canvas.clipped(head.face):
        if scene.painted:
            _modelling(scene)
        _blush(scene)
        draw_on_skin(scene)
        with canvas.placed(3, 13):  # shadow of the fringe
            canvas.fill(scene.fringe.cap, palette.skin_shade, *((0.6, 7) if scene.painted else (0.9, 0)))


def _ear(scene: Scene, side: int) -> None:
    palette, canvas = scene.palette, scene.canvas
    x = side * (90 if scene.painted else 96) + scene.spec.turn * 4
    shell = [(x, -16), (x + side * 14, -22), (x + side * 19, -4), (x + side * 12, 20), (x, 30)]
    skin = mix(palette.skin, palette.skin_shade, 0.25)
    canvas.shape(blob(shell), skin, palette.skin_shade, line=palette.skin_line)
    canvas.ink(smooth([(x + side * 12, -12), (x + side * 5, -2), (x + side * 8, 12)]), palette.skin_line, 0.7, 0.8)


def _modelling(scene: Scene) -> None:
    """Light and shade on the skin of the painted style."""
    canvas, shade = scene.canvas, scene.palette.skin_shade
    light, x, chin = mix(scene.palette.skin, (255, 248, 236), 0.45), scene.spec.turn * 24, scene.head.chin
    canvas.oval(x - 14, 4, 62, 74, light, 0.55, 22)
    canvas.oval(x + 92, 50, 34, 70, shade, 0.75, 16)
    canvas.oval(x, chin + 12, 62, 24, shade, 0.75, 9)
    for side in SIDES:  # eye sockets and cheekbones
        canvas.oval(x + side * 34, -12, 20, 12, shade, 0.5, 8)
        canvas.oval(x + side * 48, 42, 24, 10, light, 0.5, 9)
    canvas.oval(x + 9, 22, 7, 34, shade, 0.45, 6)  # bridge of the nose
    canvas.oval(x - 2, 20, 4, 26, light, 0.55, 4)
    canvas.oval(x, chin - 26, 16, 6, shade, 0.5, 5)  # under the lip


def _blush(scene: Scene) -> None:
    strength = scene.spec.expression.blush
    for side in SIDES:
        x, y = scene.head.point(side * 60, 42)
        scene.canvas.oval(x, y, 21, 10, (238, 96, 110), strength * (0.22 if scene.painted else 0.34), 6)
        if strength > 0.7 and not scene.painted:
            for k in (-8, 0, 8):
                hatch = quadratic((x + k + 3, y - 5), (x + k, y), (x + k - 3, y + 5), 5)
                scene.canvas.ink(hatch, (226, 84, 98), 0.7, 0.75, 0.3, 0.3)


def draw_nose(scene: Scene) -> None:
    canvas, shade = scene.canvas, scene.palette.skin_shade
    x, y = scene.head.point(0, 48 if scene.painted else 42, 1.35)
    if scene.painted:
        canvas.oval(x + 3, y + 2, 12, 7, shade, 0.75, 4)
        canvas.oval(x - 2, y - 2, 5, 4, (255, 248, 240), 0.5, 2)
        for k in (-6, 6):
            canvas.oval(x + k, y + 5, 2.6, 1.5, mix(shade, INK, 0.55), 0.8, 0.8, ink=True)
        return
    side = 1 if scene.spec.turn >= 0 else -1
    canvas.fill(polygon(np.array([(x + side * 1, y - 5), (x + side * 6, y + 3), (x - side * 1, y + 4)])), shade)
    line = quadratic((x + side * 2, y - 4), (x + side * 4, y + 3), (x - side * 3, y + 3.5), 7)
    canvas.ink(line, mix(scene.palette.skin_line, shade, 0.3), 1.0, 0.95, 0.2, 0.4)


def draw_marks(scene: Scene) -> None:
    """Signs of emotion: anger vein, tears, a drop of sweat, lines of shock."""
    drawers = {
        "anger": _anger_vein, "tears": _tears, "teary": _single_tear, "stream": _streaming_tears, "sweat": _sweat,
        "shock": _shock_lines,
    }  # fmt: skip
    for mark in scene.spec.expression.marks:
        drawers[mark](scene)


def _anger_vein(scene: Scene) -> None:
    x, y = 78 + scene.spec.turn * 12, -96
    corner = quadratic((5, -17), (5, -5), (17, -5), 8)
    for k in range(4):
        arm = np.array([rotated(u, v, 45 + 90 * k) for u, v in corner]) + np.array([x, y])
        scene.canvas.fill(ribbon(arm, np.full(8, 7.5)), (255, 244, 240), 0.9)
        scene.canvas.fill(ribbon(arm, np.full(8, 4.6)), (222, 40, 48), ink=True)


def _under_eye(scene: Scene, side: int) -> tuple[float, float]:
    return scene.head.point(side * 56, 8 + scene.head.eye[1] * 0.40)


def _tears(scene: Scene) -> None:
    for side in SIDES:
        x, y = _under_eye(scene, side)
        _drop(scene, x + side * 9, y + 6, 8.5)


def _single_tear(scene: Scene) -> None:
    x, y = _under_eye(scene, -1)
    _drop(scene, x - 9, y + 6, 8.5)


def _streaming_tears(scene: Scene) -> None:
    for side in SIDES:
        x, y = _under_eye(scene, side)
        near, far = x - side * 5, x - side * 12
        left = bezier((x - 10, y - 4), (x - 9, y + 22), (near - 7, y + 44), (far - 6, y + 90), 8)
        right = bezier((far + 6, y + 90), (near + 8, y + 44), (x + 10, y + 22), (x + 10, y - 4), 8)
        stream = polygon(np.vstack([left, right]))
        with scene.canvas.clipped(scene.head.face):
            scene.canvas.fill(stream, (178, 224, 255), 0.8)
            scene.canvas.stroke(stream, (84, 140, 206), 1.6, 0.8)


def _sweat(scene: Scene) -> None:
    _drop(scene, 94 + scene.spec.turn * 10, -58, 13)


def _drop(scene: Scene, x: float, y: float, radius: float) -> None:
    r = radius
    top, low_right, low_left = (x, y - r * 1.7), (x + r * 0.9, y + r * 0.4), (x - r * 0.9, y + r * 0.4)
    right = bezier(top, (x + r * 0.5, y - r * 0.6), (x + r, y - r * 0.2), low_right, 7)
    bottom = bezier(low_right, (x + r * 0.6, y + r * 1.2), (x - r * 0.6, y + r * 1.2), low_left, 7)
    left = bezier(low_left, (x - r, y - r * 0.2), (x - r * 0.5, y - r * 0.6), top, 7)
    drop = polygon(np.vstack([right, bottom, left]))
    scene.canvas.fill(drop, (190, 230, 255), 0.95)
    scene.canvas.stroke(drop, (70, 130, 200), 1.8, 0.95)
    scene.canvas.oval(x - r * 0.3, y + r * 0.1, r * 0.25, r * 0.4, WHITE)


def _shock_lines(scene: Scene) -> None:
    for k in range(5):
        angle = math.radians(-118 + k * 14)
        start, end = (148 * math.cos(angle), 176 * math.sin(angle)), (186 * math.cos(angle), 214 * math.sin(angle))
        scene.canvas.ink(np.array([start, end]) + np.array([60, 0]), INK, 1.8, 1, 0.05, 0.9)
