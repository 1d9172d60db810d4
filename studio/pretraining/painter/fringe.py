"""Crown and fringe: the front hair, from the whorl to the tips over the forehead.

This module does not know the hair behind and beside the head.
"""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import skia

from .colors import RGB, mix
from .curves import Point, polygon, quadratic, smooth
from .pen import down
from .scene import SIDES, Fringe, Head, Scene
from .spec import CharacterSpec
from .strands import strand

Tip = tuple[float, float, float]  # x and y of a lock's tip, y of the notch to its right


def make_fringe(spec: CharacterSpec, head: Head, rng: random.Random) -> Fringe:
    """Geometry of the front hair."""
    rx, ry = head.crown
    whorl = (spec.turn * 16 + rng.uniform(-14, 14), -ry + 8)
    if spec.hair_style in ("spiky", "messy"):
        crown = _spikes(head, rng, 46 if spec.hair_style == "spiky" else 19)
    else:
        theta = np.linspace(-0.06, math.pi + 0.06, 23)
        cosine, sine = np.cos(theta), np.sin(theta)
        crown = np.stack([-rx * np.sign(cosine) * np.abs(cosine) ** 0.9, -ry * np.sign(sine) * np.abs(sine) ** 0.86], 1)
        crown[:, 1] += 7 * np.exp(-(((crown[:, 0] - whorl[0]) / 13) ** 2))  # dip at the parting
        crown = smooth(crown, 3)
    crown[:, 0] += spec.turn * 6
    return _close_with_locks(head, crown, whorl, *_tips(spec, rng))


def _spikes(head: Head, rng: random.Random, height: float, count: int = 10) -> np.ndarray:
    """Silhouette of tufts around the crown, left to right."""
    rx, ry = head.crown

    def around(angle: float, out: float) -> Point:
        return -(rx + out) * math.cos(angle), -(ry + out * 0.75) * math.sin(angle)

    pieces = []
    for i in range(count):
        start, end = math.pi * i / count, math.pi * (i + 1) / count
        lean = math.cos((start + end) / 2)
        share = 0.5 + 0.3 * lean + rng.uniform(-0.12, 0.12)
        middle = start + (end - start) * (1 - share) - 0.22 * lean
        reach = height * rng.uniform(0.6, 1.15)
        tip = around(middle, reach)
        up = quadratic(around(start, -2), around(0.6 * start + 0.4 * middle, reach * 0.32), tip, 5)
        fall = quadratic(tip, around(0.6 * end + 0.4 * middle, reach * 0.42), around(end, -2), 5)
        pieces += [up, fall]
    return np.vstack(pieces)


def _tips(spec: CharacterSpec, rng: random.Random) -> tuple[list[Tip], list[float]]:
    """Tips of the fringe from left to right, and the x of the notch after each tip but the last."""
    kind = spec.bangs

    def jitter(reach: float) -> float:
        return rng.uniform(-reach, reach)

    lift = 2 if spec.style == "realistic" else 0
    side = 1 if rng.random() < 0.5 else -1
    part: float | None = None
    tips: list[Tip]
    if kind == "blunt":
        xs = [-106, -82, -60, -38, -14, 10, 34, 58, 82, 106]
        tips = [(x + jitter(3), -20 + 0.0012 * x * x + jitter(3) + lift, -34 + jitter(5)) for x in xs]
        tips[0], tips[-1] = (-107, 34, -16), (107, 34, -16)
    elif kind == "choppy":
        rows = [(-108, 46), (-84, 6), (-54, -14), (-24, -24), (6, 2), (38, -22), (68, -10), (90, 8), (108, 46)]
        tips = [(x + jitter(6), y + jitter(6) + lift, -56 + abs(x) * 0.3 + jitter(8)) for x, y in rows]
    elif kind == "swept":
        rows = [(-106, 48), (-88, 12), (-70, -34), (-40, -44), (-2, -30), (40, -16), (74, -2), (94, 20), (108, 50)]
        tips = [(x + jitter(5), y + jitter(5) + lift, -70 + abs(x) * 0.3 + jitter(6)) for x, y in rows]
        if side < 0:
            tips = [(-x, y, notch) for x, y, notch in tips[::-1]]
    elif kind == "parted":
        part = rng.uniform(-20, 20)
        tips = [
            (-107 + jitter(3), 52, -8),
            (-92, 18 + jitter(6), -30),
            (-68 + jitter(4), -8 + jitter(5), -88),
            (70 + jitter(4), -8 + jitter(5), -30),
            (93, 18 + jitter(6), -8),
            (107 + jitter(3), 52, -8),
        ]
    elif kind == "crossed":
        tips = [
            (-108, 48, -10),
            (-86, 10, -36),
            (-56, -14, -64),
            (-22 + jitter(4), -30, -62),
            (4 + jitter(6), 12 + jitter(6), -66),
            (34 + jitter(4), -26, -60),
            (62, -12, -34),
            (88, 12, -10),
            (108, 48, 0),
        ]
    else:
        tips = [
            (-108, 30, -34),
            (-90, -46, -60),
            (-62, -66, -76),
            (-26, -72, -70),
            (4, -56, -70),
            (30, -72, -76),
            (64, -66, -60),
            (90, -46, -34),
            (108, 30, 0),
        ]
    notches = [(here[0] + there[0]) / 2 + jitter(4) for here, there in pairwise(tips)]
    if part is not None:
        notches[2] = part
    return tips, notches


def _close_with_locks(head: Head, crown: np.ndarray, whorl: Point, tips: list[Tip], notch_xs: list[float]) -> Fringe:
    """Crown silhouette closed by the fringe's lower edge."""
    points = [head.point(x, y, 1.12) for x, y, _ in tips]
    notches = [head.point(x, tip[2], 1.12) for x, tip in zip(notch_xs, tips, strict=False)]
    ends = [(crown[0][0], crown[0][1]), *notches, (crown[-1][0], crown[-1][1])]
    outline, locks = [crown], []
    for i in range(len(points) - 1, -1, -1):
        right_end, tip, left_end = ends[i + 1], points[i], ends[i]
        sweep = (tip[0] - (right_end[0] + left_end[0]) / 2) * 0.35
        right_control = right_end[0] * 0.55 + tip[0] * 0.45 + 5 - sweep, right_end[1] * 0.4 + tip[1] * 0.6
        left_control = left_end[0] * 0.55 + tip[0] * 0.45 - 5 - sweep, left_end[1] * 0.4 + tip[1] * 0.6
        right = quadratic(right_end, right_control, tip, 8)
        left = quadratic(tip, left_control, left_end, 8)
        outline += [right, left]
        locks.append((right, left))
    return Fringe(whorl, polygon(np.vstack(outline)), locks, notches)


def draw_front_hair(scene: Scene) -> None:
    """Crown and fringe with the shade of each lock, strand lines and a band of light."""
    palette, canvas, fringe = scene.palette, scene.canvas, scene.fringe
    base, shade, light, softness = palette.hair, palette.hair_shade, palette.hair_light, palette.manner.softness
    canvas.outline(fringe.cap, palette.hair_line, 1.5)
    if scene.painted:
        tones = [mix(base, tone, share) for tone, share in ((shade, 0.9), (light, 0.3), (shade, 0.25), (shade, 0.75))]
        canvas.fill(fringe.cap, base, shader=down(-160, 60, tones))
    else:
        low = mix(base, light, 0.14) if palette.tip is None else mix(base, palette.tip, 0.6)
        canvas.fill(fringe.cap, base, shader=down(-165, 40, [mix(base, shade, 0.32), base, low]))
    with canvas.clipped(fringe.cap):
        for right, left in fringe.locks:
            tip, right_end, left_end = right[-1], right[0], left[-1]
            middle = right_end * 0.35 + left_end * 0.65
            control, end = middle * 0.45 + tip * 0.55 + (2, 0), middle * 0.5 + right_end * 0.5 + (0, -16)
            inner = quadratic(tuple(tip), tuple(control), tuple(end), 8)
            canvas.fill(polygon(np.vstack([right, inner])), shade, 0.85, softness * 0.5)
        for side in SIDES:  # darker flanks
            start = (side * 122 + scene.spec.turn * 5, -70)
            edge = quadratic(start, (side * (86 if side > 0 else 102), -30), (side * 104 + scene.spec.turn * 10, 60), 8)
            flank = np.vstack([edge, [(side * 140, 60), (side * 140, -80)]])
            canvas.fill(polygon(flank), shade, 0.55, softness * 0.6)
        _band_of_light(scene)
        canvas.pool(fringe.cap, shade)
        _fine_hairs(scene)
        for x, y in fringe.notches:
            _parting_line(scene, x, y)
    if scene.spec.shows_ahoge:
        _ahoge(scene, base)


def _band_of_light(scene: Scene) -> None:
    """Ragged highlight around the crown, in two pieces."""
    canvas, rng, centre = scene.canvas, scene.rng, scene.fringe.whorl[0] * 0.4
    for start, end, count in ((-1.02, -0.10, 13), (0.04, 0.76, 11)):
        theta = np.linspace(start, end, count)
        swell = np.sin(np.linspace(0, math.pi, count)) ** 0.6
        arc = np.stack([centre + 104 * np.sin(theta), -26 - 92 * np.cos(theta)], 1)
        outward = np.stack([np.sin(theta), -np.cos(theta)], 1)
        odd = np.arange(count) % 2
        low = swell * np.array([rng.uniform(15, 25) if tooth else rng.uniform(3, 8) for tooth in odd])
        top = swell * np.array([rng.uniform(5, 10) if tooth else 2 for tooth in odd])
        upper, lower = smooth(arc + outward * top[:, None], 3), smooth(arc - outward * low[:, None], 3)
        band = polygon(np.vstack([upper, lower[::-1]]))
        alpha, blur = (0.42, 5) if scene.painted else (0.88, scene.palette.manner.softness * 0.5)
        canvas.fill(band, scene.palette.hair_light, alpha, blur)


def _fine_hairs(scene: Scene) -> None:
    """Thin hairs from the whorl down to the fringe, in one path per tone."""
    palette, rng, (whorl_x, whorl_y) = scene.palette, scene.rng, scene.fringe.whorl
    count, width = (70, 1.3) if scene.painted else (10, 1.5)
    tones: list[tuple[RGB, float]] = [(palette.hair_shade, 0.8)]
    if scene.painted:
        tones = [(palette.hair_shade, 0.5), (palette.hair_light, 0.26)]
    for color, alpha in tones:
        path = skia.Path()
        for _ in range(count):
            end = rng.choice(rng.choice(scene.fringe.locks))[rng.randrange(1, 7)]
            share = rng.uniform(0.25, 0.8)
            x, y = end[0] + (whorl_x - end[0]) * share * 0.75, end[1] + (whorl_y - end[1]) * share
            path.moveTo(float(x), float(y))
            control = float(end[0] * 1.03 + (x - end[0]) * 0.2), float(end[1] + (y - end[1]) * 0.6)
            path.quadTo(*control, float(end[0] + rng.uniform(-3, 3)), float(end[1] + 4))
        scene.canvas.stroke(path, color, width, alpha)


def _parting_line(scene: Scene, x: float, y: float) -> None:
    """Line from a notch of the fringe towards the whorl."""
    whorl_x, whorl_y = scene.fringe.whorl
    share = scene.rng.uniform(0.35, 0.8)
    end = (x + (whorl_x - x) * share * 0.8, y + (whorl_y - y) * share)
    if share > 0.5:
        control = (x * 1.06 + (whorl_x - x) * 0.1, y + (whorl_y - y) * 0.6)
    else:
        control = ((x * 1.02 + end[0]) / 2 + x * 0.06, (y + end[1]) / 2)
    scene.canvas.ink(quadratic((x, y), control, end, 9), scene.palette.hair_line, 0.95, 0.95, 0.05, 0.9)


def _ahoge(scene: Scene, base: RGB) -> None:
    """A single stray lock that stands up from the whorl."""
    x, y = scene.fringe.whorl
    side = scene.rng.choice(SIDES)
    lock = strand((x, y + 8), (x + side * 4, y - 34), (x + side * 34, y - 44), (x + side * 44, y - 14), 11, root=0.6)
    path = lock.path
    scene.canvas.outline(path, scene.palette.hair_line, 1.3)
    scene.canvas.fill(path, base)
