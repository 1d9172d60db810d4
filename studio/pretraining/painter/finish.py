"""The surface of a finished picture: paper, glaze, grain and light of each style.

This module does not know what the picture shows.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageFilter


@cache
def noise_maps(side: int) -> tuple[np.ndarray, ...]:
    """Tileable noise fields (side, side), about -1..1: coarse wash, wobble, diagonal brush streaks, paper grain."""
    generator = np.random.default_rng(5)
    fy, fx = np.fft.fftfreq(side)[:, None] * side, np.fft.rfftfreq(side)[None] * side
    frequency = np.hypot(fx, fy)  # cycles per picture
    across, along = fx * 0.8 + fy * 0.6, fy * 0.8 - fx * 0.6
    bands = [
        (frequency < 8) & (frequency > 0),
        (frequency > 4) & (frequency < 24),
        np.exp(-((across / 34) ** 2) - (along / 6) ** 2) * (frequency > 3),
        (frequency > 40) & (frequency < 120),
    ]
    maps = []
    for band, slope in zip(bands, (1, 1, 1, 0), strict=True):
        spectrum = np.fft.rfft2(generator.standard_normal((side, side)))
        field = np.fft.irfft2(spectrum * band / np.maximum(frequency, 1) ** slope, s=(side, side))
        maps.append((field / field.std() * 0.5).clip(-1.5, 1.5).astype(np.float32))
    return tuple(maps)


def reduced(pixels: np.ndarray, size: int) -> Image.Image:
    """RGBA canvas (side, side, 4) as an RGB picture of `size` pixels."""
    return Image.fromarray(pixels).convert("RGB").resize((size, size), Image.Resampling.HAMMING)


def finish(pixels: np.ndarray, style: str, size: int, rng: random.Random) -> Image.Image:
    """The canvas with its style's surface, reduced to `size` pixels."""
    return FINISHES[style](pixels, size, rng)


def _flat(pixels: np.ndarray, size: int, rng: random.Random) -> Image.Image:
    return reduced(pixels, size)


def _muted(pixels: np.ndarray, size: int, rng: random.Random) -> Image.Image:
    """Cool, with darker corners."""
    picture = np.asarray(reduced(pixels, size), np.float32)
    y = (np.arange(size, dtype=np.float32) / size)[:, None]
    vignette = 1 - 0.16 * ((y.T - 0.5) ** 2 + (y - 0.45) ** 2) * 2
    return _image(picture * vignette[..., None] * np.array([0.985, 0.99, 1.01], np.float32))


def wobbled(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    """A canvas (side, side, channels) with edges as paint leaves them on wet paper."""
    side = pixels.shape[0]
    row = np.arange(side, dtype=np.float32)[:, None]
    wobble, reach = np.roll(noise_maps(side)[1], rng.randrange(side), 0), 1.7 * side / 384
    rows = np.clip(row + wobble * reach, 0, side - 1).astype(np.int32)
    columns = np.clip(row.T + np.roll(wobble, side // 3, 0) * reach, 0, side - 1).astype(np.int32)
    moved: np.ndarray = pixels[rows, columns]
    return moved


def _watercolor(pixels: np.ndarray, size: int, rng: random.Random) -> Image.Image:
    """Wobbling wet edges, thin paint that shows the paper, drifting hues."""
    picture: np.ndarray = np.asarray(reduced(wobbled(pixels, rng), size), np.float32)
    right, low = rng.randrange(size), rng.randrange(size)
    coarse, _, brush, grain = (np.roll(field, (low, right), (0, 1)) for field in noise_maps(size))
    wash = np.clip(0.07 + 0.10 * coarse + 0.09 * brush, 0, 0.34)
    picture = picture + (255 - picture) * wash[..., None]
    picture = picture * (1 - 0.05 * np.maximum(brush, -0.4) * 0.5 - 0.022 * grain)[..., None]
    elsewhere = np.roll(coarse, 90, 0)
    picture = picture + np.stack([coarse, -0.3 * coarse + 0.5 * elsewhere, -elsewhere], -1) * 6.0
    picture *= np.array([1.0, 0.99, 0.97], np.float32)
    return _image(picture)


def _lit(pixels: np.ndarray, size: int, rng: random.Random) -> Image.Image:
    """Warm light from the upper left, glow, contrast and film grain."""
    flat = reduced(pixels, size)
    picture: np.ndarray = np.asarray(flat, np.float32)
    y = (np.arange(size, dtype=np.float32) / size)[:, None]
    light = 1.06 - 0.16 * np.sqrt((y.T - 0.38) ** 2 + (y - 0.34) ** 2)
    shift = rng.randrange(256)
    glow = np.asarray(flat.filter(ImageFilter.GaussianBlur(size / 42)), np.float32)
    picture = picture + 0.13 * (255 - picture) * glow / 255
    picture = picture + (picture - 128) * 0.10 - 9
    grain = np.roll(noise_maps(size)[3], shift, 0)[..., None] * 2.2
    return _image(picture * light[..., None] * np.array([1.01, 1.0, 0.975], np.float32) + grain)


def _image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


FINISHES: dict[str, Callable[[np.ndarray, int, random.Random], Image.Image]] = {
    "casual": _flat,
    "formal": _muted,
    "artistic": _watercolor,
    "realistic": _lit,
}
