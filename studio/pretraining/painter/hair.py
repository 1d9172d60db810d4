"""Hair behind and beside the head: back hair, side locks, tails, braids and buns.

This module does not know the fringe.
"""

from __future__ import annotations

import math

import numpy as np

from .accessories import draw_bow
from .colors import mix
from .curves import blob, polygon, ring, smooth
from .scene import SIDES, Scene
from .strands import Strand, draw_strands, strand

TIED_UP = ("twintails", "buns", "braids", "ponytail")


def draw_back_hair(scene: Scene) -> None:
    spec, palette, rng = scene.spec, scene.palette, scene.rng
    base = mix(palette.hair, palette.hair_shade, 0.62)
    shade = mix(palette.hair_shade, palette.hair_line, 0.35)
    wave = {"wavy": 14, "messy": 7}.get(spec.hair_style, 0)
    length = {"short": 84, "medium": 172, "long": 330}[spec.hair_length]
    bob = spec.hair_style == "bob"
    if spec.hair_style in TIED_UP:
        length = 70
    elif bob:
        length = 100
    full = 1.12 if bob else 1.0 if scene.girl else 0.9
    flare = full * (1.0 if length < 120 else 1.1 if length < 200 else 1.25)
    mass = []
    for i in (0, 6, 1, 5, 2, 4, 3):  # from the outside in, so that the middle lies on top
        u = i / 3 - 1
        tip = (u * 92 * flare + rng.uniform(-9, 9), length - 22 * u * u + rng.uniform(-12, 8))
        control = (u * 112 * flare, length * 0.6)
        if bob:
            tip, control = (u * 84 + rng.uniform(-4, 4), length + 8 - 12 * u * u), (u * 128, length * 0.8)
        elif length < 90 and not scene.girl:
            tip, control = (u * 74 + rng.uniform(-5, 5), length + 8 - 34 * abs(u)), (u * 100, length * 0.4)
        width = 58 if length < 120 else 72
        mass.append(strand((u * 40, -84), (u * 112 * full, -64), control, tip, width, wave, 0.1, rng))
    draw_strands(scene, _tufts(scene), mix(palette.hair, palette.hair_shade, 0.25), palette.hair_shade)
    if spec.hair_style == "ponytail":
        side = -1 if spec.turn > 0 else 1
        end = 170 if spec.hair_length == "medium" else 270
        tail = [
            strand(
                (side * 30, -140), (side * (150 + k * 22), -215 + k * 24), (side * (175 + k * 14), 20 + k * 20),
                (side * (128 + k * 22), end - abs(k) * 26), 62, wave or 4, 0.5, rng,
            )
            for k in (-1, 1, 0)
        ]  # fmt: skip
        draw_strands(scene, tail, mix(palette.hair, palette.hair_shade, 0.2), palette.hair_shade, True)
    draw_strands(scene, mass, base, shade)
    scene.canvas.fill(polygon(np.array([(-80, -100), (80, -100), (84, 40), (-84, 40)])), shade)


def _tufts(scene: Scene) -> list[Strand]:
    """Locks that break the smooth silhouette of the crown."""
    if scene.spec.hair_style == "spiky":
        return []
    rng, (rx, ry), tufts = scene.rng, scene.head.crown, []
    for side in SIDES:
        for _ in range(rng.choice((1, 2) if scene.spec.hair_style == "straight" else (2, 3))):
            angle = rng.uniform(-0.45, 0.42)
            x, y, out = side * rx * math.cos(angle), -ry * math.sin(angle), rng.uniform(12, 24)
            end = (x * 1.04 + side * out, y + rng.uniform(14, 30))
            tufts.append(strand((x * 0.55, y - 34), (x * 0.9, y - 34), (x * 1.04 + side * 3, y - 4), end, 24, root=0.3))
    return tufts


def draw_front_tails(scene: Scene) -> None:
    """Twintails, braids and buns, attached to the sides of the head."""
    drawer = {"twintails": _twintail, "braids": _braid, "buns": _bun}.get(scene.spec.hair_style)
    if drawer is not None:
        for side in SIDES:
            drawer(scene, side)


def _twintail(scene: Scene, side: int) -> None:
    end = 175 if scene.spec.hair_length == "medium" else 275
    wave = 0 if scene.rng.random() < 0.5 else 7
    x, y = side * 104 * (1 - 0.1 * side * scene.spec.turn), -86
    tail = [
        strand(
            (x, y), (side * (176 + k * 20), y - 44 + k * 18), (side * (186 + k * 16), 60),
            (side * (150 + k * 24), end - abs(k) * 24), 50, wave, 0.4, scene.rng,
        )
        for k in (-1, 1, 0)
    ]  # fmt: skip
    draw_strands(scene, tail, scene.palette.hair, scene.palette.hair_shade, True)
    draw_bow(scene.canvas, x - side * 2, y - 2, 17, scene.palette.accessory, side * 28)


def _braid(scene: Scene, side: int) -> None:
    palette = scene.palette
    for i in range(9 if scene.spec.hair_length == "medium" else 13):
        x, y = side * (112 + 8 * math.sin(i * 0.4)), 48 + i * 17
        knot = [(-17, -8), (0, -4), (17, -10), (12, 12), (0, 22), (-12, 12)]
        link = blob([(x + dx, y + dy) for dx, dy in knot])
        scene.canvas.shape(link, palette.hair, palette.hair_shade, (-4, -3), 0.9, line=palette.hair_line)
    draw_bow(scene.canvas, x, y + 16, 13, palette.accessory)


def _bun(scene: Scene, side: int) -> None:
    palette, x, y = scene.palette, side * 88, -138
    bun = blob(ring(x, y, 42, 40, 5.6, 8))
    scene.canvas.shape(bun, palette.hair, palette.hair_shade, (-8, -7), line=palette.hair_line)
    for share in (0.3, 0.62):
        turns = np.linspace(2.6, 6.6, 6)
        coil = [(x + 40 * share * math.cos(angle), y + 38 * share * math.sin(angle)) for angle in turns]
        scene.canvas.ink(smooth(coil), palette.hair_line, 0.8)


def draw_side_locks(scene: Scene) -> None:
    """Locks that frame the face, in front of the cheeks."""
    spec, rng = scene.spec, scene.rng
    drift = rng.uniform(-8, 8)
    length = {"short": 62, "medium": 128, "long": 190}[spec.hair_length] + drift
    if not scene.girl:
        length = {"short": 34, "medium": 80, "long": 70}[spec.hair_length]
    bob = spec.hair_style == "bob"
    if bob:
        length = 92
    elif spec.hair_style in TIED_UP:
        length = min(length, 74 if spec.hair_style == "braids" else 104)
    wave = {"wavy": 11, "messy": 5}.get(spec.hair_style, 0)
    locks = []
    for side in SIDES:
        x = side * 103 + spec.turn * 7
        bend = -side * 10 if bob else side * 6
        if length > 75:
            locks.append(
                strand(
                    (x - side * 22, -104), (x + side * 16, -30), (x + side * 14 + bend, length * 0.6),
                    (x - side * 6 + bend, length + 14), 30, wave, 0.1, rng,
                )
            )  # fmt: skip
        locks.append(
            strand(
                (x - side * 18, -96), (x + side * 4, -30), (x - side * 6 + bend * 0.4, length * 0.55),
                (x - side * 20 + bend * 0.6, length), 24, wave, 0.1, rng,
            )
        )  # fmt: skip
    draw_strands(scene, locks, scene.palette.hair, scene.palette.hair_shade)
