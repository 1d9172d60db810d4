"""Everything the drawing functions of one picture share: spec, colours, canvas, head, hair, randomness.

Head units: the origin is between the eyes, x to the picture's right, y down; `painter` places the head on the canvas.
This module draws nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import skia

from .curves import Point, blob
from .palette import Palette
from .pen import Canvas
from .spec import CharacterSpec

SIDES = (-1, 1)  # picture left, picture right

# Outline of the right half of the face from temple to chin, in shares of its half width and of its height.
GIRLS_FACE = ((0.98, -0.48), (1, -0.1), (0.955, 0.24), (0.82, 0.53), (0.575, 0.77), (0.25, 0.955), (0, 1.01))
BOYS_FACE = ((0.98, -0.48), (1, -0.1), (0.955, 0.24), (0.85, 0.50), (0.60, 0.77), (0.22, 0.97), (0, 1))


@dataclass(frozen=True)
class Head:
    """Measures of the head under its style; no randomness."""

    turn: float  # -1 (to picture left) .. 1
    girl: bool
    half_width: float
    chin: float  # y of the chin
    crown: Point  # half axes of the crown's ellipse
    eye: Point  # width and height of the eye region
    face: skia.Path

    def surface(self, points: Sequence[Point] | np.ndarray, depth: float = 1.0) -> np.ndarray:
        """Points on the head's front, shape (count, 2), slid sideways by the turn; the centre moves most."""
        slid = np.array(points, float).reshape(-1, 2)
        slid[:, 0] += self.turn * 28 * depth * np.sqrt(np.clip(1 - (slid[:, 0] / 126) ** 2, 0.04, 1))
        return slid

    def point(self, x: float, y: float, depth: float = 1.0) -> Point:
        """One point of `surface`."""
        slid = self.surface([(x, y)], depth)[0]
        return float(slid[0]), float(slid[1])

    def squeeze(self, side: int) -> float:
        """Horizontal scale of what lies on one side: the far side narrows as the head turns."""
        return 1 - side * self.turn * 0.12


def head_of(spec: CharacterSpec) -> Head:
    """The head of a spec."""
    girl, realistic = spec.gender == "girl", spec.style == "realistic"
    half_width, chin = (98, 104) if girl else (94, 114)
    eye = (66, 70) if girl else (62, 54)
    if realistic:
        half_width, chin = (91, 112) if girl else (90, 121)
        eye = (56, 44) if girl else (54, 37)
    crown = (111, 152) if realistic else (117, 159)
    bare = Head(spec.turn, girl, half_width, chin, crown, eye, skia.Path())
    half = [(half_width * x, chin * y) for x, y in (GIRLS_FACE if girl else BOYS_FACE)]
    outline = half + [(-x, y) for x, y in half[-2::-1]] + [(-70, -112), (0, -132), (70, -112)]
    return Head(spec.turn, girl, half_width, chin, crown, eye, blob(bare.surface(outline, 0.95)))


@dataclass(frozen=True)
class Fringe:
    """Front hair: where it grows from, and the locks that its lower edge is made of."""

    whorl: Point
    cap: skia.Path  # crown and fringe in one outline
    locks: list[tuple[np.ndarray, np.ndarray]]  # right and left edge of each lock, (8, 2) each, meeting at its tip
    notches: list[Point]  # between neighbouring locks


@dataclass(frozen=True)
class Scene:
    """One picture in the making."""

    spec: CharacterSpec
    palette: Palette
    canvas: Canvas
    head: Head
    fringe: Fringe
    rng: random.Random

    @property
    def girl(self) -> bool:
        return self.head.girl

    @property
    def painted(self) -> bool:
        """Soft modelling (the realistic style) instead of flat cel shading."""
        return self.palette.manner.painted
