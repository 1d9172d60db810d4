"""Clean line art made to look as a person would draw it.

This module does not know what the lines show.
"""

from __future__ import annotations

import random

import cv2
import numpy as np
from PIL import Image


def _field(shape: tuple[int, int], cells: float, generator: np.random.Generator) -> np.ndarray:
    """Smooth noise (height, width) of unit deviation with about `cells` bumps along the longer side."""
    sigma = max(shape) / cells / 2
    noise = generator.standard_normal(shape).astype(np.float32)
    field = cv2.GaussianBlur(noise, (0, 0), sigma)
    return field / (field.std() + 1e-9)


def bend(picture: np.ndarray, drift: float, seed: int) -> np.ndarray:
    """`picture` (height, width) or (height, width, channels) as a hand would get its proportions wrong.

    Each point moves smoothly, by `drift` pixels of a 256 px picture in root mean square (each way 0.7 of it). The same
    seed bends a painting and its line art alike.
    """
    height, width = picture.shape[:2]
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    reach = 0.7 * drift * max(height, width) / 256
    x = (columns + reach * _field((height, width), 5, generator)).astype(np.float32)
    y = (rows + reach * _field((height, width), 5, generator)).astype(np.float32)
    bent: np.ndarray = cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return bent


def hand_lines(image: Image.Image, rng: random.Random, missing: bool = True, drift: bool = True) -> Image.Image:
    """Hand-like version of black lines on white (any mode; the result is L, of the same size).

    Strokes wobble, vary in width and pressure, break off, and a few parts are left out; how much of each is drawn from
    `rng`, so that a set of results covers careful and careless hands. Deterministic for the same `rng` state.
    Without `missing` nothing is left out on purpose; without `drift` only the hand trembles, proportions are kept.
    """
    generator = np.random.default_rng(rng.getrandbits(63))
    ink = 1 - np.asarray(image.convert("L"), np.float32) / 255
    height, width = ink.shape
    unit = max(height, width) / 256  # all lengths below are for 256 px

    # 1. Leave out: small marks as wholes, then what is drawn in a few round patches.
    if missing:
        ink = _without_small_parts(ink, rng.uniform(0.0, 0.5), 60 * unit * unit, rng)
        patches = np.ones_like(ink)
        drawn = np.argwhere(ink > 0.5)
        for _ in range(rng.choice((0, 1, 2, 3, 4)) if len(drawn) else 0):
            y, x = rng.choice(drawn).tolist()
            cv2.circle(patches, (x, y), int(rng.uniform(7, 20) * unit), 0.0, -1)
        ink = ink * cv2.GaussianBlur(patches, (0, 0), 2 * unit)

    # 2. Wobble: a slow drift of proportions and a faster tremor of the hand.
    reach, tremor = rng.uniform(0.5, 3.0) * unit, rng.uniform(0.2, 0.7) * unit
    reach = reach if drift else 0.0
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    moved = []
    for grid in (columns, rows):
        slow, fast = _field((height, width), 5, generator), _field((height, width), 28, generator)
        moved.append((grid + reach * slow * 0.7 + tremor * fast).astype(np.float32))
    ink = cv2.remap(ink, moved[0], moved[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)

    # 3. Width: between thin and thick pens, changing along the stroke.
    pen = rng.uniform(-0.6, 1.2) + 0.5 * _field((height, width), 10, generator)
    thick = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)), iterations=max(1, round(unit)))
    thin = np.clip((ink - 0.35) / 0.5, 0, 1)
    ink = np.where(pen > 0, ink + (thick - ink) * np.clip(pen, 0, 1), ink + (thin - ink) * np.clip(-pen, 0, 1))

    # 4. Breaks: the pen lifts where a noise field is low.
    lifted = rng.uniform(0.0, 0.07)
    lift = _field((height, width), 40, generator)
    threshold = float(np.quantile(lift, lifted))
    ink = ink * np.clip((lift - threshold) / 0.15 + 1, 0, 1)

    # 5. Pressure.
    pressure = np.clip(rng.uniform(0.75, 1.05) + 0.12 * _field((height, width), 12, generator), 0.35, 1)
    return Image.fromarray(np.clip(255 * (1 - ink * pressure), 0, 255).round().astype(np.uint8), "L")


def _without_small_parts(ink: np.ndarray, share: float, largest: float, rng: random.Random) -> np.ndarray:
    """`ink` without a random `share` of its connected parts of up to `largest` pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((ink > 0.2).astype(np.uint8), connectivity=8)
    gone = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] <= largest and rng.random() < share]
    erased = cv2.dilate(np.isin(labels, gone).astype(np.uint8), np.ones((5, 5), np.uint8))
    return np.where(erased > 0, 0, ink).astype(np.float32)
