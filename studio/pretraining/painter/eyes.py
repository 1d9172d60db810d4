"""Eyes and brows.

Inside `draw_eye` x grows towards the outer corner; lengths are shares of the eye's width and height.
This module does not know the rest of the face.
"""

from __future__ import annotations

import math

import numpy as np

from .colors import mix, shadow_of
from .curves import bezier, normals, polygon, quadratic, ribbon
from .palette import WHITE
from .pen import down
from .scene import SIDES, Scene

EYE_CENTRE = (49, 8)  # of the eye on the picture's right, on the head's surface
GAZE_SHIFTS = {"viewer": (0, 0), "left": (-0.17, 0), "right": (0.17, 0), "up": (0, -0.15), "down": (0, 0.14)}
WINKING = 1  # the side of the eye that winks
WIDE = 1.1  # an opening above this is a startled eye: rounder, without a fold in the lid


def draw_eyes(scene: Scene) -> None:
    for side in SIDES:
        x, y = scene.head.point(side * EYE_CENTRE[0], EYE_CENTRE[1])
        with scene.canvas.placed(x, y, scale=(side * scene.head.squeeze(side), 1)):
            expression = scene.spec.expression
            if expression.closed or (expression.eyes == "wink" and side == WINKING):
                _closed_eye(scene)
            else:
                _open_eye(scene, side)


def _lid_thickness(scene: Scene) -> float:
    return scene.head.eye[1] * (0.125 if scene.girl else 0.1) * (0.8 if scene.painted else 1)


def _closed_eye(scene: Scene) -> None:
    (w, h), canvas, lash = scene.head.eye, scene.canvas, scene.palette.lash
    happy = scene.spec.expression.eyes != "calm"
    if happy:
        lid = bezier((-0.48 * w, 0.16 * h), (-0.25 * w, -0.30 * h), (0.28 * w, -0.30 * h), (0.52 * w, 0.16 * h), 18)
    else:
        lid = bezier((-0.48 * w, 0.06 * h), (-0.22 * w, 0.30 * h), (0.26 * w, 0.34 * h), (0.54 * w, 0.02 * h), 18)
    t = np.linspace(0, 1, 18)
    canvas.fill(ribbon(lid, _lid_thickness(scene) * (0.35 + np.sin(t**0.8 * math.pi) * 0.6)), lash, ink=True)
    if scene.girl:
        for share in (0.74, 0.86, 0.97):
            x, y = lid[int(share * 17)]
            end = (x + 8, y + (-5 if happy else 8))
            canvas.ink(quadratic((x, y), (x + 5, y + (0 if happy else 5)), end, 5), lash, 1.3, 1, 0.01, 0.9)
    if not happy:
        fold = bezier((-0.3 * w, -0.12 * h), (-0.1 * w, -0.02 * h), (0.2 * w, 0), (0.42 * w, -0.14 * h), 9)
        canvas.ink(fold, mix(scene.palette.skin_shade, lash, 0.35), 0.8, 0.8)


def _open_eye(scene: Scene, side: int) -> None:
    expression, canvas, (w, h) = scene.spec.expression, scene.canvas, scene.head.eye
    opening, lid = expression.opening, expression.lid
    anger, grief, wide = max(0, lid), min(0, lid), opening > WIDE
    inner = (-0.48 * w, (0.10 + anger * 0.06) * h)
    outer = (0.50 * w, (0.02 - lid * 0.12) * h)
    towards_nose = (
        (-0.34 if wide else -0.40) * w,
        (-0.62 * min(opening, 1.12) + anger * 0.50 + grief * 0.10) * h,
    )
    towards_temple = (0.34 * w, (-0.66 * opening + max(0, -lid) * 0.46 - anger * 0.02) * h)
    upper = bezier(inner, towards_nose, towards_temple, outer, 20)
    reach = 1.08 if wide else 1
    raised = 1 - expression.lower_lid
    lower = bezier(outer, (0.46 * w, 0.50 * h * raised * reach), (-0.32 * w, 0.56 * h * raised * reach), inner, 16)
    ball = polygon(np.vstack([upper, lower]))
    canvas.fill(ball, (244, 240, 238) if scene.painted else WHITE)
    with canvas.clipped(ball):
        _iris(scene, side, upper)
    _lashes(scene, upper, lower, outer)


def _iris(scene: Scene, side: int, upper: np.ndarray) -> None:
    """Iris, pupil, the lid's shadow and the lights; not mirrored, so that the light comes from one side."""
    expression, canvas, color, (w, h) = scene.spec.expression, scene.canvas, scene.palette.eye, scene.head.eye
    gaze_x, gaze_y = GAZE_SHIFTS[scene.spec.gaze]
    x = (gaze_x * w + scene.spec.turn * 3) * side - 0.01 * w
    y = gaze_y * h + (-0.02 * h if expression.opening > WIDE else 0.0)
    if scene.painted:
        size = expression.iris**0.7
        rx, ry = 0.245 * w * size, 0.43 * h * size
    else:
        size = expression.iris
        rx, ry = 0.345 * w * size, 0.475 * h * size
    if not scene.girl:
        rx *= 0.88
    dark, light = mix(shadow_of(color, 0.75), (30, 20, 50), 0.35), mix(color, (255, 255, 235), 0.5)
    canvas.oval(x, y, rx, ry, dark, ink=True)
    depth = down(y - ry, y + ry, [dark, color, mix(color, light, 0.75)])
    canvas.oval(x, y, rx * 0.9, ry * 0.92, color, shader=depth)
    canvas.oval(x, y + ry * 0.56, rx * 0.62, ry * 0.30, light, 0.75, 2.5 if scene.painted else 1.2)
    pupil_rx, pupil_ry = rx * 0.42 * expression.pupil, ry * 0.46 * expression.pupil
    canvas.oval(x, y - ry * 0.02, pupil_rx, pupil_ry, mix(dark, (20, 12, 30), 0.6), ink=True)
    shadow = polygon(np.vstack([upper, (upper + np.array([0, h * 0.13]))[::-1]]))
    canvas.fill(shadow, (70, 50, 100), 0.25 if scene.painted else 0.32, 2 if scene.painted else 0)
    canvas.oval(x - side * rx * 0.36, y - ry * 0.42, rx * 0.36, ry * 0.27, WHITE, 0.96)
    canvas.oval(x + side * rx * 0.40, y + ry * 0.42, rx * 0.17, ry * 0.13, WHITE, 0.9)
    if scene.spec.emotion == "sad":  # brimming with tears
        canvas.oval(x, y + ry * 0.72, rx * 0.7, ry * 0.18, WHITE, 0.6, 1)
        canvas.oval(x + side * rx * 0.1, y + ry * 0.1, rx * 0.13, ry * 0.1, WHITE, 0.85)


def _lashes(scene: Scene, upper: np.ndarray, lower: np.ndarray, corner: tuple[float, float]) -> None:
    """The upper lid as a swelling dark stroke with a tail, the lower lid, and the fold above an unstartled eye."""
    expression, canvas, (w, h) = scene.spec.expression, scene.canvas, scene.head.eye
    opening, lid = expression.opening, expression.lid
    lash, shade = scene.palette.lash, scene.palette.skin_shade
    thickness, wide = _lid_thickness(scene), opening > WIDE
    t = np.linspace(0, 1, 20)
    swell = thickness * (0.12 + 1.12 * t**0.75) * (0.85 if wide else 1)
    swell[-4:] *= np.array([0.9, 0.72, 0.5, 0.3])
    fall = (-0.05 - 0.05 * lid) * h if lid >= 0 else 0.03 * h
    tail = np.array(corner) + np.array([w * (0.10 if scene.girl else 0.05), fall])
    normal = normals(upper)
    edge = upper + normal * swell[:, None]
    canvas.fill(polygon(np.vstack([upper - normal * 0.9, [tail], edge[::-1]])), lash, ink=True)
    if scene.girl:
        for at, length in ((14, 0.16), (17, 0.17)):
            root, back = edge[at - 1], edge[at + 1]
            tip = edge[at] + np.array([w * length * 0.75, -h * length * 0.45 - lid * 2])
            bend = (root + tip) / 2 + np.array([2, 1])
            single = quadratic(tuple(root), tuple(bend), tuple(tip), 4)
            canvas.fill(polygon(np.vstack([single, [back]])), lash, ink=True)
    canvas.ink(lower[1:11], mix(lash, shade, 0.15), 0.95, 0.9, 0.1, 0.6)
    if not wide:
        fold = upper[4:17] + normal[4:17] * (thickness + 5.5 + max(0, 0.8 - opening) * 14)
        canvas.ink(fold, mix(shade, lash, 0.45), 0.8, 0.8, 0.3, 0.3)


def draw_brows(scene: Scene) -> None:
    """Drawn over the fringe, as is usual in anime: they carry the emotion."""
    expression, head, palette = scene.spec.expression, scene.head, scene.palette
    w, h = head.eye
    painted = scene.painted
    color = mix(palette.hair_line, palette.hair_shade, 0.12)
    thickness = (6.2 if scene.girl else 8.6) * (0.95 if painted else 1)
    angle, arch = math.radians(expression.brow_angle), expression.brow_arch
    line = bezier((-0.44 * w, 2), (-0.12 * w, -6 * arch), (0.22 * w, -8 * arch), (0.56 * w, 1), 14)
    t = np.linspace(0, 1, 14)
    widths = thickness * np.minimum(1, (t + 0.12) * 4) * (1 - t**1.6 * 0.85)
    for side in SIDES:
        eye_x, eye_y = head.point(side * EYE_CENTRE[0], EYE_CENTRE[1])
        y = eye_y - h * 0.5 - (14 if painted else 15) - expression.brow_raise * (0.7 if painted else 0.9)
        along, up = line[:, 0] * head.squeeze(side), line[:, 1]
        turned_x = eye_x + side * (along * math.cos(angle) + up * math.sin(angle))
        turned_y = y - along * math.sin(angle) + up * math.cos(angle)
        brow = ribbon(np.stack([turned_x, turned_y], 1), widths)
        scene.canvas.fill(brow, color, 0.75 if painted else 0.92, 0.6 if painted else 0, ink=True)
