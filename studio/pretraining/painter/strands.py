"""Strands: tapered locks of hair, and how a mass of them is drawn.

This module does not know where on the head a strand grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np
import skia

from .colors import RGB, luminance, mix, shadow_of
from .curves import Point, bezier, normals, ribbon
from .pen import down
from .scene import Scene

SAMPLES = 22


@dataclass(frozen=True)
class Strand:
    """Centre line (count, 2) and full widths (count,) of one lock."""

    line: np.ndarray
    widths: np.ndarray

    @cached_property
    def path(self) -> skia.Path:
        return ribbon(self.line, self.widths)


def strand(
    start: Point, control1: Point, control2: Point, end: Point, width: float, wave: float = 0, root: float = 0.7,
    rng: Random | None = None,
) -> Strand:  # fmt: skip
    """A lock along a Bezier curve, `root` of its width wide at the start and pointed at the end.

    `wave` is the amplitude of its curls in units; a wavy lock draws their phase from `rng`.
    """
    line = bezier(start, control1, control2, end, SAMPLES)
    t = np.linspace(0, 1, SAMPLES)
    if wave and rng is not None:
        curl = np.sin(t * 3.2 * math.pi + rng.uniform(0, 1.2)) * wave * (0.25 + t)
        line = line + normals(line) * curl[:, None]
    profile = np.minimum(root + t * 2.2, 1) * np.clip(1 - t**3.2, 0, 1) ** 0.75
    return Strand(line, profile * width)


def draw_strands(scene: Scene, strands: Sequence[Strand], base: RGB, shade: RGB, lit: bool = False) -> None:
    """Overlapping strands inside one outer contour, each shaded on its right side, `lit` with a highlight."""
    canvas, palette, manner = scene.canvas, scene.palette, scene.palette.manner
    shader = _towards_tips(scene, base)
    for lock in strands:
        canvas.outline(lock.path, palette.hair_line, 1.5)
    for lock in strands:
        path, line, widths = lock.path, lock.line, lock.widths
        width = float(widths.max())
        canvas.stroke(path, palette.hair_line, manner.line_width * 0.7, manner.line_alpha * 0.55)
        canvas.fill(path, base, shader=shader)
        with canvas.clipped(path):
            body = slice(int(SAMPLES * 0.05), SAMPLES)
            right = ribbon(line[body] + np.array([width * 0.30, 0]), widths[body] * 0.55)
            canvas.fill(right, shade, 0.8, manner.softness * 0.5)
            if lit:
                upper = line[int(SAMPLES * 0.22) : int(SAMPLES * 0.5)] - np.array([width * 0.18, 0])
                swell = np.sin(np.linspace(0, math.pi, len(upper))) * width * 0.13
                canvas.fill(ribbon(upper, swell), palette.hair_light, 0.7, manner.softness * 0.25)
            canvas.pool(path, shade)


def _towards_tips(scene: Scene, base: RGB) -> skia.Shader | None:
    """Gradient from the base colour to the colour of the tips, for two-tone hair."""
    tip = scene.palette.tip
    if tip is None:
        return None
    end = {"short": 80, "medium": 140, "long": 180}[scene.spec.hair_length]
    darker = max(0.0, luminance(scene.palette.hair) - luminance(base)) * 1.4
    return down(end * 0.3 - 30, end, [base, mix(tip, shadow_of(tip, 0.5), min(0.5, darker))])
