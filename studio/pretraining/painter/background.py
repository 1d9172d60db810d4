"""What is behind the character.

This module does not know the character.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .colors import COLORS, RGB, luminance, mix, saturate
from .curves import blob, polygon
from .palette import WHITE, Palette
from .pen import UNITS, Canvas
from .scenery import PETAL, PLACES, cloud, flood
from .spec import CharacterSpec


@dataclass(frozen=True)
class Tones:
    """The background's colour by name, as its style renders it, and its lighter tone."""

    name: str
    color: RGB
    light: RGB


def draw_background(spec: CharacterSpec, palette: Palette, canvas: Canvas, rng: random.Random) -> None:
    color = palette.toned(COLORS[spec.background_color])
    light = mix(color, WHITE, 0.55 if luminance(color) < 0.9 else 0)
    if luminance(color) > 0.9:
        color, light = palette.toned((232, 235, 243)), (250, 250, 252)
    if spec.background in PLACES:
        PLACES[spec.background](canvas)
    else:
        DRAWERS[spec.background](canvas, rng, Tones(spec.background_color, color, light))


def _plain(canvas: Canvas, rng: random.Random, tones: Tones) -> None:
    flood(canvas, tones.light)


def _gradient(canvas: Canvas, rng: random.Random, tones: Tones) -> None:
    flood(canvas, mix(tones.light, WHITE, 0.3), tones.color)


def _circle(canvas: Canvas, rng: random.Random, tones: Tones) -> None:
    flood(canvas, tones.light)
    canvas.oval(256, 236, 205, 205, tones.color)
    canvas.band(256, 236, 220, 220, WHITE, 5, 0.9)


def _dots(canvas: Canvas, rng: random.Random, tones: Tones) -> None:
    flood(canvas, tones.light)
    dot = mix(tones.light, tones.color, 0.55)
    for column in range(9):
        for row in range(9):
            canvas.oval(column * 64 + (row % 2) * 32, row * 60, 14, 14, dot)


def _stripes(canvas: Canvas, rng: random.Random, tones: Tones) -> None:
    flood(canvas, tones.light)
    stripe = mix(tones.light, tones.color, 0.5)
    for x in range(-360, 720, 80):
        canvas.fill(polygon(np.array([(x, 0), (x + 40, 0), (x - 260, 520), (x - 300, 520)])), stripe)


def _sky(canvas: Canvas, rng: random.Random, tones: Tones) -> None:
    flood(canvas, (104, 172, 236), (206, 234, 252))
    for _ in range(4):
        x, y, size = rng.uniform(0, UNITS), rng.uniform(30, 330), rng.uniform(0.7, 1.5)
        cloud(canvas, x, y, size)


def _petals(canvas: Canvas, rng: random.Random, tones: Tones) -> None:
    flood(canvas, tones.light)
    petal = (255, 240, 244) if tones.name in ("pink", "red") else (255, 168, 196)
    for _ in range(16):
        x, y, angle = rng.uniform(0, UNITS), rng.uniform(0, UNITS), rng.uniform(0, 360)
        with canvas.placed(x, y, angle, (1.5, 1.5)):
            canvas.fill(blob(PETAL), petal, 0.9)


def _night(canvas: Canvas, rng: random.Random, tones: Tones) -> None:
    flood(canvas, (28, 30, 74), (104, 84, 150))
    for _ in range(28):
        radius = rng.uniform(1.8, 3.8)
        canvas.oval(rng.uniform(0, UNITS), rng.uniform(0, 420), radius, radius, (255, 250, 226))


def _bokeh(canvas: Canvas, rng: random.Random, tones: Tones) -> None:
    flood(canvas, saturate(mix(tones.color, (40, 40, 90), 0.12), 1.1), tones.light)
    for _ in range(20):
        radius = rng.uniform(14, 46)
        x, y = rng.uniform(0, UNITS), rng.uniform(0, UNITS)
        canvas.oval(x, y, radius, radius, mix(tones.light, (255, 250, 220), rng.random()), rng.uniform(0.15, 0.4), 2)


def _splash(canvas: Canvas, rng: random.Random, tones: Tones) -> None:
    flood(canvas, (252, 250, 245))
    pots = list(COLORS.values())
    for _ in range(7):
        x, y, size = rng.gauss(256, 140), rng.gauss(230, 120), rng.uniform(60, 140)
        hue = mix(tones.color, rng.choice(pots), rng.uniform(0, 0.35))
        pool = blob(
            [
                (x + size * rng.uniform(0.7, 1.2) * math.cos(angle), y + size * rng.uniform(0.7, 1.2) * math.sin(angle))
                for angle in np.linspace(0, 5.9, 13)
            ]
        )
        canvas.fill(pool, mix(hue, WHITE, 0.12), 0.42, 3)
        canvas.stroke(pool, hue, 4, 0.3, 2)
    for _ in range(14):
        radius = rng.uniform(3, 9)
        x, y, ry = rng.uniform(0, UNITS), rng.uniform(0, UNITS), radius * rng.uniform(0.8, 1.2)
        canvas.oval(x, y, radius, ry, mix(tones.color, rng.choice(pots), 0.25), rng.uniform(0.4, 0.8))


def _sunset(canvas: Canvas, rng: random.Random, tones: Tones) -> None:
    flood(canvas, (96, 84, 160), (238, 134, 128), (255, 214, 140))
    canvas.oval(390, 300, 66, 66, (255, 240, 190), 0.95, 4)
    for _ in range(7):
        x, y, length = rng.uniform(0, UNITS), rng.uniform(60, 420), rng.uniform(50, 120)
        canvas.oval(x, y, length, length * 0.10, mix((255, 190, 160), (150, 100, 170), rng.random()), 0.6, 3)


def _rays(canvas: Canvas, rng: random.Random, tones: Tones) -> None:
    flood(canvas, tones.light)
    ray = mix(tones.light, tones.color, 0.6)
    for start in range(0, 360, 20):
        edges = [math.radians(start), math.radians(start + 10)]
        tips = [(256 + 420 * math.cos(angle), 250 + 420 * math.sin(angle)) for angle in edges]
        canvas.fill(polygon(np.array([(256, 250), *tips])), ray)


DRAWERS: dict[str, Callable[[Canvas, random.Random, Tones], None]] = {
    "plain": _plain,
    "gradient": _gradient,
    "circle": _circle,
    "dots": _dots,
    "stripes": _stripes,
    "sky": _sky,
    "petals": _petals,
    "night": _night,
    "bokeh": _bokeh,
    "splash": _splash,
    "sunset": _sunset,
    "rays": _rays,
}
